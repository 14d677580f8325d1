# LOCK forms, XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B; aligned, and across lines and pages.
        .include "program.inc"
        .bss
        .balign 4096
buffer: .skip 2 * 4096
        .text
.macro on_address offset
        lea rsi, [rip + buffer + \offset]
        mov qword ptr [rsi], 5
        lock inc dword ptr [rsi]
        lock add qword ptr [rsi], 10
        lock sub byte ptr [rsi], 1
        lock or word ptr [rsi], 0x100
        lock not qword ptr [rsi]
        lock neg qword ptr [rsi]
        expect "qword ptr [rsi]", 0x110
        mov eax, 3
        lock xadd [rsi], rax
        expect rax, 0x110
        xchg rax, [rsi]
        expect rax, 0x113
        expect "qword ptr [rsi]", 0x110
        mov eax, 0x110
        mov ecx, 9
        lock cmpxchg [rsi], rcx
        check e
        expect "qword ptr [rsi]", 9
        lock cmpxchg [rsi], rsi
        check ne
        expect rax, 9
        mov edx, 0
        mov eax, 9
        mov ecx, 1
        mov ebx, 2
        set_flags
        clc
        lock cmpxchg8b [rsi]
        expect_flags 0x8D4
        mov rdx, 0x100000002
        expect "qword ptr [rsi]", rdx
        mov edx, 7
        mov eax, 9
        lock cmpxchg8b [rsi]
        check ne
        expect rdx, 1
        expect rax, 2
        lock bts qword ptr [rsi], 63
        check nc
        lock btr qword ptr [rsi], 63
        check c
        lock btc dword ptr [rsi], 1
        check c
.endm
body:
        on_address 0
        on_address 56
# across lines and pages: now and then only, since some hosts make each such access wait for milliseconds
        test word ptr [rip + program_turns], 0xFFF
        jnz 1f
        on_address 61
        on_address 4093
1:
        lea rsi, [rip + buffer + 16]
        mov qword ptr [rsi], 1
        mov qword ptr [rsi + 8], 2
        mov rax, 1
        mov rdx, 2
        mov rbx, 3
        mov rcx, 4
        lock cmpxchg16b [rsi]
        check e
        expect "qword ptr [rsi + 8]", 4
        cmpxchg16b [rsi]
        check ne
        expect rax, 3
        expect rdx, 4
# registers: what fails keeps the upper half of a 32-bit destination
        mov rcx, -1
        mov eax, 5
        cmpxchg ecx, edx
        check ne
        expect rcx, -1
        expect rax, 0xFFFFFFFF
        ret

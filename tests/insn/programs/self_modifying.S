# A program that writes the code it is about to run: an immediate, an opcode, a branch target, across a page.
        .include "program.inc"
        .section .selfmod, "awx", @progbits
        .balign 4096
        .skip 4080
patched:
        mov eax, 0x11111111             # the immediate is changed
        nop
next:   add eax, ebx                    # becomes SUB
        nop
        jmp first                       # the displacement is changed; it lies across the page's end
        .skip 16, 0xCC
first:  mov edx, 1
        ret
second: mov edx, 2
        ret
        .text
body:
        mov ebx, 5
        mov ecx, [rip + program_turns]
        mov [rip + patched + 1], ecx
        call patched
        lea esi, [rcx + 5]
        expect rax, rsi
        expect rdx, 1
        mov byte ptr [rip + next], 0x29
        add byte ptr [rip + next + 4], second - first
        call patched
        lea esi, [rcx - 5]
        expect rax, rsi
        expect rdx, 2
        mov byte ptr [rip + next], 0x01
        sub byte ptr [rip + next + 4], second - first
        ret

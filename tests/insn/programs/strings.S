# MOVS, STOS, LODS, CMPS, SCAS: both directions, repetitions, overlap, page crossings.
        .include "program.inc"
        .bss
        .balign 4096
buffer: .skip 3 * 4096
        .text
body:
        cld
        lea rdi, [rip + buffer + 4090]
        mov rbx, rdi
        mov rax, 0x1122334455667788
        mov ecx, 4
        rep stosq
        expect rcx, 0
        lea rdx, [rbx + 32]
        expect rdi, rdx
        mov rdx, [rbx + 24]
        expect rdx, rax
# overlap by one byte: the pattern spreads
        mov byte ptr [rbx], 0xAA
        mov rsi, rbx
        lea rdi, [rbx + 1]
        mov ecx, 20
        rep movsb
        mov rdx, 0xAAAAAAAAAAAAAAAA
        mov rcx, [rbx + 13]
        expect rcx, rdx
# down: as memmove to a higher address
        mov rdx, 0x0807060504030201
        mov [rbx], rdx
        std
        lea rsi, [rbx + 7]
        lea rdi, [rbx + 9]
        mov ecx, 8
        rep movsb
        mov rcx, [rbx + 2]
        expect rcx, rdx
        lea rdx, [rbx - 1]
        expect rsi, rdx
        cld
# zero repetitions touch nothing, not even a bad address
        xor edi, edi
        xor esi, esi
        xor ecx, ecx
        set_flags
        rep movsq
        expect rdi, 0
        repe cmpsb
        expect_flags 0x8D5
        cld
# compare: stops at the first difference, with its flags
        lea rsi, [rip + text]
        lea rdi, [rip + other]
        mov ecx, 100
        repe cmpsb
        expect rcx, 94
        expect_flags CF|SF|AF
        lea rdi, [rip + text]
        mov al, 'f'
        mov ecx, -1
        repne scasb
        expect_flags ZF|PF
        lea rdx, [rip + text + 6]
        expect rdi, rdx
        lea rdi, [rip + text]
        mov al, 'z'
        mov ecx, 5
        repne scasb
        expect rcx, 0
        check ne
# 16 and 32 bits, and LODS
        lea rsi, [rip + text]
        lodsw
        movzx eax, ax
        expect rax, 0x6261
        lodsd
        expect rax, 0x66656463
        std
        lodsb
        cld
        lea rdx, [rip + text + 5]
        expect rsi, rdx
# 32-bit addresses: counts in ECX only, and clear the upper halves
        mov rcx, 0x100000002
        lea edi, [buffer]
        mov al, 0x5A
        rep stosb es:[edi]
        expect rcx, 0
        movzx eax, word ptr [rip + buffer]
        expect rax, 0x5A5A
        ret
text:   .ascii "abcdefgh"
other:  .ascii "abcdez"
        .skip 100

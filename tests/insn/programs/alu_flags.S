# Flags of ADD, ADC, SUB, SBB, CMP, AND, OR, XOR, TEST, INC, DEC, NEG, NOT, by width (SDM 1, appendix A).
        .include "program.inc"
body:
        mov eax, 0x7FFFFFFF
        add eax, 1
        expect_flags OF|SF|AF|PF
        expect rax, 0x80000000
        mov eax, -1
        add eax, 1
        expect_flags CF|ZF|AF|PF
        mov al, 0x7F
        add al, 1
        expect_flags OF|SF|AF
        mov ax, 0xFFFF
        add ax, 2
        expect_flags CF|AF
        mov rax, -1
        add rax, -1
        expect_flags CF|SF|AF
        expect rax, -2
# ADC and SBB with the carry in, also where the carry alone makes the carry out
        stc
        mov eax, -1
        adc eax, 0
        expect_flags CF|ZF|AF|PF
        stc
        mov al, 0x7F
        adc al, 0xFF
        expect_flags CF|AF
        expect rax, 0x7F
        stc
        mov ecx, 0
        sbb ecx, 0
        expect_flags CF|SF|AF|PF
        expect rcx, 0xFFFFFFFF
        stc
        mov cx, 0x8000
        sbb cx, 0x7FFF
        expect_flags OF|ZF|AF|PF
        clc
        mov rcx, 5
        sbb rcx, 5
        expect_flags ZF|PF
        mov eax, 0x80000000
        sub eax, 1
        expect_flags OF|AF|PF
        mov al, 0
        cmp al, 1
        expect_flags CF|SF|AF|PF
        mov rax, 0x8000000000000000
        cmp rax, rax
        expect_flags ZF|PF
# logic clears CF and OF; AF is undefined
        set_flags
        mov eax, 0xF0
        and eax, 0x0F
        expect_flags ZF|PF, 0x8C5
        set_flags
        mov al, 0x80
        or al, 1
        expect_flags SF|PF, 0x8C5
        set_flags
        mov rax, 0x8000000000000000
        xor rax, 1
        expect_flags SF, 0x8C5
        set_flags
        test eax, 0
        expect_flags ZF|PF, 0x8C5
# INC and DEC leave CF alone
        stc
        mov eax, 0x7FFFFFFF
        inc eax
        expect_flags CF|OF|SF|AF|PF
        clc
        mov al, 0x80
        dec al
        expect_flags OF|AF
        stc
        mov rax, 0
        dec rax
        expect_flags CF|SF|AF|PF
        expect rax, -1
# NEG: CF unless zero, OF of the smallest; NOT: no flags
        clear_flags
        mov al, 0x80
        neg al
        expect_flags CF|OF|SF
        mov ecx, 0
        neg ecx
        expect_flags ZF|PF
        set_flags
        mov rax, 0
        not rax
        expect_flags 0x8D5
        expect rax, -1
# widths: 8 and 16 bits keep the rest, 32 bits clear it
        mov rax, -1
        add al, 1
        expect rax, 0xFFFFFFFFFFFFFF00
        mov rax, -1
        add ah, 1
        expect rax, 0xFFFFFFFFFFFF00FF
        mov rax, -1
        add ax, 1
        expect rax, 0xFFFFFFFFFFFF0000
        mov rax, -1
        add eax, 1
        expect rax, 0
        ret

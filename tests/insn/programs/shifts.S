# Shifts and rotates by 0, 1, the width, and more (SDM 2B, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD).
        .include "program.inc"
body:
# by 0: no flag changes
        set_flags
        mov eax, 5
        mov ecx, 32
        shl eax, cl
        expect_flags 0x8D5
        expect rax, 5
        set_flags
        mov ecx, 64
        mov rax, -5
        sar rax, cl
        expect_flags 0x8D5
        expect rax, -5
        set_flags
        xor ecx, ecx
        mov ecx, 0
        set_flags
        ror eax, cl
        expect_flags 0x8D5
# a shift by 0 of 32 bits still clears the upper half
        mov rax, -1
        mov ecx, 32
        shr eax, cl
        expect rax, 0xFFFFFFFF
# by 1: OF is defined
        mov eax, 0x40000000
        shl eax, 1
        expect_flags OF|SF|PF, 0x8C5
        mov eax, 0xC0000001
        shl eax, 1
        expect_flags CF|SF, 0x8C5
        mov al, 0x81
        shr al, 1
        expect_flags CF|OF, 0x8C5
        movzx eax, al
        expect rax, 0x40
        mov al, 0x81
        sar al, 1
        expect_flags CF|SF|PF, 0x8C5
        mov rax, 0x8000000000000000
        rol rax, 1
        expect_flags CF|OF, CF|OF
        expect rax, 1
        mov ax, 1
        ror ax, 1
        expect_flags CF|OF, CF|OF
# more than the width, below the mask: bytes and words shift everything out
        mov ecx, 9
        mov eax, 0xFF
        shl al, cl
        movzx eax, al
        expect rax, 0
        mov eax, 0x80
        mov ecx, 31
        sar al, cl
        expect_flags CF|SF, CF|SF|ZF
        movzx eax, al
        expect rax, 0xFF
        mov eax, 0x1234
        mov ecx, 16
        rol ax, cl
        expect rax, 0x1234
        mov eax, 0xA5
        mov ecx, 8
        stc
        ror al, cl
        expect_flags CF, CF
        expect rax, 0xA5
# rotates through carry: modulo 9 and 17
        stc
        mov eax, 0
        mov ecx, 9
        rcl al, cl
        expect_flags CF, CF
        expect rax, 0
        stc
        mov eax, 0
        rcl al, 1
        expect rax, 1
        clc
        mov eax, 1
        rcr ax, 1
        expect_flags CF, CF
        expect rax, 0
        stc
        mov rax, 0
        mov ecx, 64
        rcr rax, cl
        expect_flags CF, CF
        expect rax, 0
        stc
        rcr rax, 1
        expect_flags OF, OF|CF
        mov rcx, 0x8000000000000000
        expect rax, rcx
# double shifts
        mov eax, 0x12345678
        mov edx, 0x9ABCDEF0
        shld eax, edx, 8
        expect rax, 0x3456789A
        mov eax, 0x12345678
        shrd eax, edx, 4
        expect rax, 0x01234567
        expect_flags CF, CF
        mov rax, 1
        mov rdx, 0x8000000000000000
        mov ecx, 65
        shld rax, rdx, cl
        expect rax, 3
        set_flags
        mov ecx, 32
        shld eax, edx, cl
        expect_flags 0x8D5
# flagless ones of BMI2 are in bmi.S
        ret

# MUL, IMUL, DIV, IDIV, CBW and CWD families. Divide errors are in the system tests.
        .include "program.inc"
body:
        mov rax, -1
        mov rcx, -1
        mul rcx
        expect_flags CF|OF, CF|OF
        expect rax, 1
        expect rdx, -2
        mov eax, 0xFFFF
        mov ecx, 0x10001
        mul ecx
        expect_flags 0, CF|OF
        expect rax, 0xFFFFFFFF
        expect rdx, 0
        mov eax, 0x10
        mov cl, 0x10
        mul cl
        expect_flags CF|OF, CF|OF
        expect rax, 0x100
        mov rax, -3
        mov rcx, 7
        imul rcx
        expect_flags 0, CF|OF
        expect rax, -21
        expect rdx, -1
        mov al, -128
        mov cl, -1
        imul cl
        expect_flags CF|OF, CF|OF
        movzx eax, ax
        expect rax, 128
        imul eax, ecx, 0
        mov ecx, 0x10000
        imul eax, ecx, 0x10000
        expect_flags CF|OF, CF|OF
        expect rax, 0
        mov rcx, -5
        imul rax, rcx, -5
        expect_flags 0, CF|OF
        expect rax, 25
        mov ax, 300
        mov cx, 300
        imul ax, cx
        expect_flags CF|OF, CF|OF
        movzx eax, ax
        expect rax, 24464
        mov edx, 1
        mov eax, 0
        mov ecx, 2
        div ecx
        expect rax, 0x80000000
        expect rdx, 0
        mov rdx, 6
        mov rax, 5
        mov rcx, 7
        div rcx
        expect rdx, 3
        mov rcx, 15811494920322472814
        expect rax, rcx
        mov ax, 0x0105
        mov cl, 2
        div cl
        movzx eax, ax
        expect rax, 0x0182
        mov eax, -7
        cdq
        mov ecx, 2
        idiv ecx
        expect rax, 0xFFFFFFFD
        expect rdx, 0xFFFFFFFF
        mov rax, -128
        mov cl, 3
        idiv cl
        movzx eax, ax
        expect rax, 0xFED6
        mov rax, 0x8000000000000000
        cqo
        mov rcx, 1
        idiv rcx
        expect rdx, 0
        mov rax, 0x80
        cbw
        expect rax, 0xFF80
        cwde
        expect rax, 0xFFFFFF80
        cdqe
        expect rax, -128
        cwd
        movzx edx, dx
        expect rdx, 0xFFFF
        ret

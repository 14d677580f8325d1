# BT, BTS, BTR, BTC on registers and memory with offsets beyond the operand, BSF, BSR, POPCNT, LZCNT, TZCNT.
        .include "program.inc"
        .bss
        .balign 64
bytes:  .skip 256
        .text
body:
        lea rsi, [rip + bytes + 128]
        mov qword ptr [rsi - 16], 0
        mov qword ptr [rsi + 8], 0
        mov rax, -65
        bts [rsi], rax
        check nc
        mov rdx, 0x8000000000000000
        expect "qword ptr [rsi - 16]", rdx
        bt [rsi], rax
        check c
        mov eax, -97
        btc [rsi], eax
        check nc
        expect "qword ptr [rsi - 16]", 0x8000000080000000
        mov ax, -65
        btr [rsi], ax
        check c
        mov rax, 64
        bts [rsi], rax
        expect "qword ptr [rsi + 8]", 1
        btr qword ptr [rsi + 8], 64
        check c
        expect "qword ptr [rsi + 8]", 0
        mov eax, 0
        mov ecx, 33
        bts eax, ecx
        expect rax, 2
        mov rax, 0
        bts rax, 40
        bsf rcx, rax
        check nz
        expect rcx, 40
        bsr rdx, rax
        expect rdx, 40
        mov ecx, 0
        mov rdx, -1
        bsf rdx, rcx
        check z
        expect rdx, -1
        mov eax, 0x80010000
        bsr ecx, eax
        expect rcx, 31
        bsf cx, ax
        check z
        popcnt rcx, rdx
        expect rcx, 64
        mov edx, 0
        popcnt ecx, edx
        expect_flags ZF
        lzcnt ecx, edx
        expect rcx, 32
        expect_flags CF, CF|ZF
        mov dx, 1
        lzcnt cx, dx
        movzx ecx, cx
        expect rcx, 15
        tzcnt rcx, rdx
        expect_flags ZF, CF|ZF
        expect rcx, 0
        ret

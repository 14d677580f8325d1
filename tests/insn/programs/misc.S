# SETcc, CMOVcc, XLAT, BSWAP, MOVBE, CRC32, MOVSX, MOVZX, XCHG, LEA, LOOP, segment overrides.
        .include "program.inc"
        .data
table:  .byte 10, 11, 12, 13
word4:  .long 0x11223344
        .text
body:
        set_flags
        seto al
        setno ah
        sets cl
        setl ch
        setbe dl
        setnp dh
        movzx eax, ax
        expect rax, 1
        movzx ecx, cx
        expect rcx, 1
        movzx edx, dx
        expect rdx, 1
# a CMOV that does not move still clears the upper half of a 32-bit register, and still reads memory
        mov rax, -1
        mov ecx, 5
        clear_flags
        cmovc eax, ecx
        expect rax, 0xFFFFFFFF
        cmovnc rax, rcx
        expect rax, 5
        stc
        mov rax, -1
        cmovbe ax, cx
        expect rax, 0xFFFFFFFFFFFF0005
        lea rbx, [rip + table]
        mov eax, 0xFFFFFF02
        xlatb
        expect rax, 0xFFFFFF0C
        mov rax, 0x0102030405060708
        bswap rax
        mov rcx, 0x0807060504030201
        expect rax, rcx
        bswap eax
        expect rax, 0x01020304
        movbe eax, [rip + word4]
        expect rax, 0x44332211
        mov rax, -1
        movbe ax, [rip + word4]
        expect rax, 0xFFFFFFFFFFFF4433
        mov eax, -1
        mov ecx, 0x12345678
        crc32 eax, ecx
        expect rax, 0x4dece20c
        mov rax, 0xFFFFFFFFFFFFFFFF
        crc32 rax, cl
        expect rax, 0x56c3a06c
        mov al, 0x80
        movsx rcx, al
        expect rcx, -128
        movsx cx, al
        movzx ecx, cx
        expect rcx, 0xFF80
        mov eax, 0x80000000
        movsxd rcx, eax
        expect rcx, -0x80000000
        mov ah, 0x7F
        movzx ecx, ah
        expect rcx, 0x7F
        mov rax, -1
        mov rcx, 0
        xchg eax, ecx
        expect rax, 0
        expect rcx, 0xFFFFFFFF
        mov rax, 0x1FFFFFFFF
        lea ecx, [eax + 1]
        expect rcx, 0
        lea rcx, [eax + 1]
        expect rcx, 0
        lea cx, [rax + rax * 8 + 3]
        movzx ecx, cx
        expect rcx, 0xFFFA
# LOOP counts in RCX or ECX; flags stay
        set_flags
        mov ecx, 3
        xor eax, eax
1:      inc eax
        loop 1b
        expect rax, 3
        mov rcx, 0x100000001
        addr32 loop 2f
        jmp 3f
2:      ud2
3:      expect rcx, 0
        jrcxz 4f
        ud2
4:      clear_flags
        mov ecx, 10
5:      cmp ecx, 7
        loopne 5b
        expect rcx, 6
        nop word ptr [rax + rax]
        pause
        endbr64
        ret

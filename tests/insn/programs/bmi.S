# BMI1, BMI2, ADX.
        .include "program.inc"
body:
        mov eax, 7
        xor ecx, ecx
        cpuid
        and ebx, 0x80108
        cmp ebx, 0x80108
        mov edi, 77
        jne program_exit
        mov rax, 0xFF00FF00FF00FF00
        mov rcx, 0x0F0F0F0F0F0F0F0F
        andn rdx, rax, rcx
        mov rsi, 0x000F000F000F000F
        expect rdx, rsi
        mov edx, 0x0804
        mov ecx, 0x12345678
        bextr eax, ecx, edx
        expect rax, 0x67
        mov ecx, 0x58
        blsi eax, ecx
        expect rax, 8
        blsr eax, ecx
        expect rax, 0x50
        blsmsk eax, ecx
        expect rax, 0xF
        mov ecx, 0
        blsi eax, ecx
        expect_flags ZF, CF|ZF
        blsmsk eax, ecx
        expect_flags CF, CF
        mov rcx, -1
        mov edx, 20
        bzhi rax, rcx, rdx
        expect rax, 0xFFFFF
        expect_flags 0, CF
        mov edx, 64
        bzhi rax, rcx, rdx
        expect_flags CF, CF
        set_flags
        mov rdx, -1
        mov rcx, 3
        mulx rax, rsi, rcx
        expect_flags 0x8D5
        expect rax, 2
        expect rsi, -3
        mov eax, 0xABCD
        mov ecx, 0xF0F0
        pext edx, eax, ecx
        expect rdx, 0xAC
        pdep edx, edx, ecx
        expect rdx, 0xA0C0
        set_flags
        rorx eax, edx, 4
        expect rax, 0xA0C
        mov ecx, 65
        mov rdx, -2
        sarx rax, rdx, rcx
        expect rax, -1
        shlx rax, rdx, rcx
        expect rax, -4
        shrx eax, edx, ecx
        expect rax, 0x7FFFFFFF
        expect_flags 0x8D5
        xor ecx, ecx
        clear_flags
        stc
        mov rax, -1
        adcx rax, rcx
        expect_flags CF
        expect rax, 0
        adox rax, rcx
        expect_flags CF
        push 0x802
        popfq
        mov eax, -1
        adox eax, ecx
        expect_flags OF
        expect rax, 0
        ret

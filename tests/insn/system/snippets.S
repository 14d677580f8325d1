# Guest code for the system tests: position-independent pieces that the tests copy into guests. What they need
# is in registers; they end with HLT at CPL 0 and with INT3 at CPL 3.
        .intel_syntax noprefix
        .section .rodata

.macro snippet name
        .balign 16
        .globl snippet_\name, snippet_\name\()_end
snippet_\name:
.endm
.macro end name
snippet_\name\()_end:
.endm

# RFLAGS := RAX; RAX := what is there then.
snippet popf
        push rax
        popfq
        pushfq
        pop rax
        int3
end popf

snippet cli
        cli
        int3
end cli

snippet syscall
        syscall
        int3
end syscall

# A kernel entry that gives back 42.
snippet sysret
        mov eax, 42
        sysretq
end sysret

# Returns to 32-bit code.
snippet sysretl
        mov eax, 42
        .byte 0x0F, 0x07        # sysret without REX.W
end sysretl

.code32
snippet syscall32
        syscall
        int3
end syscall32

snippet sysret32
        mov eax, 42
        .byte 0x0F, 0x07        # sysret without REX.W
end sysret32
.code64

snippet sysenter
        mov rcx, rsp
        lea rdx, [rip + 1f]
        sysenter
        ud2
1:      int3
end sysenter

snippet sysexit
        mov eax, 43
        sysexitq
end sysexit

# To user code at RDI with the stack RSI; SS in R8, CS in R9.
snippet iret
        push r8
        push rsi
        push 0x202
        push r9
        push rdi
        iretq
end iret

snippet iretd
        iretd
end iretd

snippet retf
        retf
end retf

snippet pop_fs
        pop fs
        int3
end pop_fs

# XMM0's bytes where XMM1 says so, to RDI.
snippet masked_store
        maskmovdqu xmm0, xmm1
        int3
end masked_store

snippet int80
        int 0x80
        int3
end int80

snippet int80_handler
        inc rax
        iretq
end int80_handler

snippet read
        mov rax, [rsi]
        int3
end read

snippet write
        mov [rsi], rax
        int3
end write

snippet modify
        add byte ptr [rsi], 1
        int3
end modify

snippet jump
        jmp rsi
end jump

snippet nops
        nop
        nop
        nop
        int3
end nops

snippet rep_stos
        rep stosb
        int3
end rep_stos

# TF by POPF: the trap comes after the instruction behind it.
snippet popf_trap
        pushfq
        or qword ptr [rsp], 0x100
        popfq
        nop
        nop
        int3
end popf_trap

snippet icebp
        .byte 0xF1
        int3
end icebp

snippet mov_ss_icebp
        mov     ss, [rsi]
        .byte 0xF1
        int3
end mov_ss_icebp

snippet write_dr
        mov dr0, rax
        hlt
end write_dr

snippet undefined
        ud2
end undefined

snippet divide
        div ecx
        int3
end divide

snippet signed_divide
        cdq
        idiv ecx
        int3
end signed_divide

# Reads [RSI], changes the entry at [RDI] to RDX, INVLPG, reads again.
snippet remap
        mov rax, [rsi]
        mov [rdi], rdx
        invlpg [rsi]
        mov rbx, [rsi]
        hlt
end remap

# The same by a load of CR3.
snippet remap_cr3
        mov rax, [rsi]
        mov [rdi], rdx
        mov rcx, cr3
        mov cr3, rcx
        mov rbx, [rsi]
        hlt
end remap_cr3

# Sets up 32-bit protected mode from real mode: GDT descriptor at DS:BX, entry at CS:0.
        .code16
snippet real_mode
        mov sp, 0x7000
        mov ax, 0x1234
        push ax
        int 0x21
        pop bx
        mov cx, 0xFFFF
        add cx, 2
        pushf
        pop dx
        hlt
end real_mode
# Replaces the word that the caller pushed.
snippet real_handler
        push bp
        mov bp, sp
        mov word ptr [bp + 8], 0x5678
        pop bp
        iret
end real_handler

# Loaded at 0:8000h, with a GDT pointer at 0:9000h.
snippet enter_protected
        lgdt [0x9000]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        .byte 0x66, 0xEA
        .long 0x8000 + 1f - snippet_enter_protected
        .word 0x08
        .code32
1:      mov eax, 0x10
        mov ds, eax
        mov ss, eax
        mov esp, 0x7000
        push 0x12345678
        pop ecx
        mov edx, [0x9000]
        hlt
        .code64
end enter_protected

        .section .note.GNU-stack, "", @progbits

# What is recorded on processors of each vendor (recorded.hpp): pieces of code in which the vendors may differ
# and the engines, not the host's units, decide.
#
# RSI points to numbers and a pattern, RDI to where results go (64-byte aligned), RBP to an unmapped page; all
# other registers but RSP are 0. What vert takes from the host's units (flags that the manual leaves undefined,
# results of vector and x87 arithmetic) is not here.

        .intel_syntax noprefix

        .equ ANY, 0
        .equ HOST, 1       # bt runs it on the host's unit: replayed there only where the vendor is the host's
        .equ INTERP, 2     # bt has a difference that is known (waivers.cpp)
        .equ LAYOUT, 4     # of XSAVE's standard format
        .equ MXCSR, 8      # its mask follows from what the host's units can do
        .equ AVX2, 16
        .equ AVX512, 32
        .equ F16C, 64
        .equ SHA, 128
        .equ AC, 0x40000   # in RFLAGS

        .section .data.rel.ro, "aw"
        .balign 8
        .globl vert_diff_recorded
vert_diff_recorded:

# A case goes on to the next one, or to `last`; an INT3 ends it.
.macro case name, needs=ANY, rflags=0
        .text
        int3
12:
        .section .data.rel.ro, "aw"
        .quad 11f, 12b, 12f
        .long \needs, \rflags | 0x202
        .section .rodata
11:     .asciz "\name"
        .text
.endm
.macro last
        int3
12:
.endm

# --- Flags, as far as they are defined.
.macro flags_of name, code
case "\name"
        \code
.endm
.macro shifts operation
flags_of "\operation by 1", "mov rax, [rsi + 24]; \operation rax, 1"
flags_of "\operation by 0", "mov rax, [rsi + 24]; stc; \operation rax, 0"
flags_of "\operation by 64", "mov rax, [rsi + 24]; mov cl, 64; stc; \operation rax, cl"
flags_of "\operation by 13", "mov rax, [rsi + 24]; mov cl, 13; \operation rax, cl"
flags_of "\operation of 8 bits by 9", "mov rax, [rsi + 24]; mov cl, 9; \operation al, cl"
flags_of "\operation of 16 bits by 31", "mov rax, [rsi + 24]; mov cl, 31; \operation ax, cl"
.endm
        shifts shl
        shifts shr
        shifts sar
        shifts rol
        shifts ror
        shifts rcl
        shifts rcr
flags_of "mul", "mov rax, [rsi + 24]; mov rcx, rax; mul rcx"
flags_of "mul without a high half", "mov eax, 5; mov ecx, 7; mul rcx"
flags_of "imul", "mov rax, [rsi + 24]; imul rax, rax, 3"
flags_of "imul of 16 bits", "mov eax, 0x7fff; imul ax, ax, 2"
flags_of "div", "mov eax, 100; mov ecx, 7; div ecx"
flags_of "idiv", "mov eax, -100; cdq; mov ecx, 7; idiv ecx"
flags_of "bsf", "mov rcx, [rsi + 24]; bsf rax, rcx"
flags_of "bsf of 0", "mov rax, [rsi + 24]; bsf rax, rcx"
case "bsf of 0, 32 bits", HOST
        mov rax, [rsi + 24]
        bsf eax, ecx
flags_of "bsr of 0", "mov rax, [rsi + 24]; bsr rax, rcx"
case "bsr of 0, 16 bits", HOST
        mov rax, [rsi + 24]
        bsr ax, cx
flags_of "bt", "mov rax, [rsi + 24]; mov ecx, 70; bt rax, rcx"
flags_of "bt of memory", "mov ecx, 201; bt [rsi + 16], rcx"
flags_of "bts before memory", "mov rcx, -3; bts [rdi + 8], rcx"
flags_of "xadd", "mov rax, [rsi + 24]; mov ecx, 3; xadd rax, rcx"
flags_of "cmpxchg that fails", "mov eax, 1; mov rcx, [rsi + 24]; cmpxchg rcx, rdx"

# --- RFLAGS.
case "popf sets what a program may set"
        push 0x257fd7 & ~0x40100
        popfq
        pushfq
        pop rax
        push 0x202
        popfq
case "popf of 16 bits keeps the upper bits"
        push 0x240202
        popfq
        pushw 0x4dd5
        popfw
        pushfq
        pop rax
case "sahf and lahf"
        mov ah, 0xff
        sahf
        lahf
        pushfq
        pop rcx

# --- MXCSR.
case "the mask of MXCSR", MXCSR
        fxsave [rdi]
.macro no_mask
        mov dword ptr [rdi + 28], 0
.endm

# --- The x87's environment. Each sequence is saved in all forms.
.macro environments name, code
case "\name, fnstenv"
        \code
        fnstenv [rdi]
        fninit
case "\name, fnstenv of 16 bits"
        \code
        .byte 0x66
        fnstenv [rdi]
        fninit
case "\name, fnsave"
        \code
        fnsave [rdi]
case "\name, fxsave"
        \code
        fxsave [rdi]
        no_mask
        fninit
case "\name, fxsave64"
        \code
        fxsave64 [rdi]
        no_mask
        fninit
case "\name, xsave64"
        mov eax, 1
        \code
        xsave64 [rdi]
        mov qword ptr [rdi + 512], 0  # what is in use is not architectural
        fninit
.endm
environments "fld1", "fninit; fld1"
environments "fld", "fninit; fld qword ptr [rsi]"
environments "fld, fld1", "fninit; fld qword ptr [rsi]; fld1"
environments "fld of the stack", "fninit; fld qword ptr [rsp - 16]"
environments "fld, fincstp", "fninit; fld qword ptr [rsi]; fincstp"
environments "fld, fnop", "fninit; fld qword ptr [rsi]; fnop"
environments "fld, ffree", "fninit; fld qword ptr [rsi]; ffree st(3)"
environments "fld, fldcw", "fninit; fld qword ptr [rsi]; fldcw [rsi + 32]"
environments "fld, fnstsw", "fninit; fld qword ptr [rsi]; fnstsw ax; xor eax, eax; inc eax"
environments "fld, fnclex", "fninit; fld qword ptr [rsi]; fnclex"
environments "fld, movq", "fninit; fld qword ptr [rsi]; movq mm3, [rsi + 16]"
environments "fld, emms", "fninit; fld qword ptr [rsi]; movq mm3, [rsi + 16]; emms"
environments "fld, another operand", "fninit; fld qword ptr [rsi]; fadd qword ptr [rsi + 8]"
environments "a masked exception", "fninit; fldz; fld1; fdivrp"
environments "a pending exception", "fninit; fldcw [rsi + 32]; fldz; fld1; fdivrp"
environments "a pending exception of memory", "fninit; fldcw [rsi + 32]; fldz; fdivr qword ptr [rsi]"
environments "a pending exception that FLDCW unmasked", "fninit; fld qword ptr [rsi]; fldz; fdivrp; fldcw [rsi + 32]"
environments "an exception and FNCLEX", "fninit; fldcw [rsi + 32]; fldz; fdivr qword ptr [rsi]; fnclex"

case "pointers that XRSTOR loads without an exception"
        mov eax, 1
        fninit
        fld1
        fnsave [rdi + 640]
        mov dword ptr [rdi], 0x37f
        mov dword ptr [rdi + 8], 0x1234
        mov dword ptr [rdi + 16], 0x5678
        mov word ptr [rdi + 6], 0x123
        mov dword ptr [rdi + 24], 0x1f80
        mov byte ptr [rdi + 512], 1
        xrstor64 [rdi]
        fnstenv [rdi + 640]
        fninit

# --- XSAVE's formats, with each component in use.
.macro use_all
        fninit
        fld1
        movups xmm5, [rsi + 16]
        vmovdqu ymm7, [rsi + 16]
        vmovdqu64 zmm9, [rsi + 16]
        vmovdqu64 zmm21, [rsi + 16]
        kmovq k3, [rsi + 24]
        xor edx, edx
.endm
case "xsave64", LAYOUT | AVX512
        use_all
        mov eax, 0xe7
        xsave64 [rdi]
        no_mask
        vzeroall
        fninit
case "xsavec64", AVX512
        use_all
        mov eax, 0xe7
        xsavec64 [rdi]
        no_mask
        vzeroall
        fninit
case "xsavec64 of some components", AVX512
        use_all
        mov eax, 0xa5
        xsavec64 [rdi]
        no_mask
        vzeroall
        fninit

# --- Where memory faults: what is left, and which fault comes first.
case "movq of MMX to an unmapped page", HOST
        fninit
        fld1
        movq [rbp], mm1
case "fist of a number that is none, to an unmapped page", HOST
        fninit
        fldcw [rsi + 32]
        fldz
        fld st(0)
        fchs
        fldcw [rsi + 36]
        fdivp
        fnclex
        fldcw [rsi + 32]
        fistp dword ptr [rbp]
case "fst that would raise, to an unmapped page", HOST
        fninit
        fldcw [rsi + 32]
        fld tbyte ptr [rsi + 48]
        fstp dword ptr [rbp]
case "vcvtps2ph that would raise, to an unmapped page", HOST | F16C
        movups xmm1, [rsi + 64]
        mov dword ptr [rdi], 0
        ldmxcsr [rdi]
        vcvtps2ph [rbp], xmm1, 0
case "a call to where nothing can be", INTERP
        mov rax, [rsi + 24]
        mov rcx, rsp
        call rax

.macro gathers bits, reg
case "vpgatherdd of \bits bits to an unmapped page", AVX2
        vpbroadcastd ymm1, [rsi + 20]  # of a mask, signs count
        vmovdqu ymm2, [rsi + 128]
        vmovdqu ymm3, [rsi + 128]
        lea rbx, [rbp - 8]
        vpgatherdd \reg\()3, [rbx + \reg\()2], \reg\()1
.endm
        gathers 128, xmm
        gathers 256, ymm
case "vgatherqpd to an unmapped page", AVX2
        vpbroadcastq ymm1, [rsi + 16]
        vmovdqu ymm2, [rsi + 192]
        lea rbx, [rbp - 16]
        vgatherqpd ymm3, [rbx + ymm2], ymm1
case "vpgatherdd by a mask register to an unmapped page", AVX512
        kxnorw k1, k1, k1
        vmovdqu64 zmm2, [rsi + 128]
        lea rbx, [rbp - 16]
        vpgatherdd zmm3{k1}, [rbx + zmm2]
case "vpgatherdd of 128 bits by a mask register to an unmapped page", AVX512
        kxnorw k1, k1, k1
        vmovdqu64 zmm2, [rsi + 128]
        vmovdqu64 zmm3, [rsi + 128]
        lea rbx, [rbp - 8]
        vpgatherdd xmm3{k1}, [rbx + xmm2]
case "vpscatterdd to an unmapped page", AVX512
        kxnorw k1, k1, k1
        vmovdqu64 zmm2, [rsi + 128]
        lea rbx, [rdi + 64]
        vpscatterdd [rbx + zmm2]{k1}, zmm2
        vmovdqu64 zmm2, [rsi + 128]
        kxnorw k1, k1, k1
        lea rbx, [rbp - 16]
        vpscatterdd [rbx + zmm2]{k1}, zmm2
case "a gather whose mask is clear", AVX2
        vmovdqu ymm2, [rsi + 128]
        vpgatherdd ymm3, [rbp + ymm2], ymm1

# --- Alignment: with RFLAGS.AC, and without.
.macro aligned name, needs, code
case "\name, unaligned", \needs, AC
        lea rbx, [rdi + 1]
        \code
case "\name, unaligned by 4", \needs, AC
        lea rbx, [rdi + 4]
        \code
case "\name, unaligned by 8", \needs, AC
        lea rbx, [rdi + 8]
        \code
.endm
aligned "mov", ANY, "mov eax, [rbx]"
aligned "mov of 8 bytes", ANY, "mov rax, [rbx]"
aligned "movups", ANY, "movups xmm0, [rbx]"
aligned "movdqu that stores", ANY, "movdqu [rbx], xmm0"
aligned "movaps", ANY, "movaps xmm0, [rbx]"
aligned "addps", ANY, "addps xmm0, [rbx]"
aligned "movq", ANY, "movq xmm0, [rbx]"
aligned "movss", ANY, "movss xmm0, [rbx]"
aligned "pmovzxbd", ANY, "pmovzxbd xmm0, [rbx]"
aligned "vmovups of 32 bytes", AVX2, "vmovups ymm0, [rbx]"
aligned "vaddps", AVX2, "vaddps xmm0, xmm0, [rbx]"
aligned "vbroadcastss", AVX2, "vbroadcastss ymm0, [rbx]"
aligned "vmovdqu64 of 64 bytes", AVX512, "vmovdqu64 zmm0, [rbx]"
aligned "vcvtph2ps", F16C, "vcvtph2ps xmm0, [rbx]"
aligned "sha1msg1", SHA, "sha1msg1 xmm0, [rbx]"
aligned "fld of 10 bytes", ANY, "fninit; fld tbyte ptr [rbx]"
aligned "fild of 8 bytes", ANY, "fninit; fild qword ptr [rbx]"
aligned "fnstenv", ANY, "fninit; fnstenv [rbx]"
aligned "fnsave", ANY, "fninit; fnsave [rbx]"
aligned "fxsave", ANY, "fxsave [rbx]"
aligned "xsave64", ANY, "mov eax, 1; xsave64 [rbx]"
aligned "cmpxchg8b", ANY, "cmpxchg8b [rbx]"
aligned "cmpxchg16b", ANY, "cmpxchg16b [rbx]"
aligned "lock inc", ANY, "lock inc dword ptr [rbx]"
aligned "push", ANY, "mov rsp, rbx; push rax"
aligned "rep movsd", ANY, "mov rdi, rbx; mov ecx, 3; rep movsd"
aligned "bts", ANY, "bts dword ptr [rbx], 3"
aligned "stmxcsr", ANY, "stmxcsr [rbx]"

        .text
        last
        .section .data.rel.ro, "aw"
        .globl vert_diff_recorded_end
vert_diff_recorded_end:
        .section .note.GNU-stack, "", @progbits

# How the worker process enters a case and comes back from it. See native.cpp.
#
# Everything here is addressed relative to RIP: while a case runs, no register holds anything of ours. One
# case runs at a time, in a process with one thread.

        .bss
        .balign 64
        .globl vert_diff_area, vert_diff_gpr, vert_diff_rip, vert_diff_rflags, vert_diff_fs, vert_diff_gs
        .globl vert_diff_running
vert_diff_area:    .skip 4096     # XSAVE image to load
vert_diff_gpr:     .skip 16 * 8   # in encoding order
vert_diff_rip:     .skip 8
vert_diff_rflags:  .skip 8
vert_diff_fs:      .skip 8        # the case's segment bases: before, and after, the run
vert_diff_gs:      .skip 8
saved_rsp:         .skip 8
saved_fs:          .skip 8
saved_gs:          .skip 8
vert_diff_running: .skip 8

        .text
# void vert_diff_launch(): returns when a signal has ended the case.
        .globl vert_diff_launch
        .type vert_diff_launch, @function
vert_diff_launch:
        push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        mov %rsp, saved_rsp(%rip)
        rdfsbase %rax
        mov %rax, saved_fs(%rip)
        rdgsbase %rax
        mov %rax, saved_gs(%rip)
        mov $-1, %eax
        mov $-1, %edx
        xrstor64 vert_diff_area(%rip)
        xor %eax, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %fs
        mov %eax, %gs
        mov vert_diff_fs(%rip), %rax
        wrfsbase %rax
        mov vert_diff_gs(%rip), %rax
        wrgsbase %rax
        movq $1, vert_diff_running(%rip)
        mov vert_diff_gpr+0x00(%rip), %rax
        mov vert_diff_gpr+0x08(%rip), %rcx
        mov vert_diff_gpr+0x10(%rip), %rdx
        mov vert_diff_gpr+0x18(%rip), %rbx
        mov vert_diff_gpr+0x28(%rip), %rbp
        mov vert_diff_gpr+0x30(%rip), %rsi
        mov vert_diff_gpr+0x38(%rip), %rdi
        mov vert_diff_gpr+0x40(%rip), %r8
        mov vert_diff_gpr+0x48(%rip), %r9
        mov vert_diff_gpr+0x50(%rip), %r10
        mov vert_diff_gpr+0x58(%rip), %r11
        mov vert_diff_gpr+0x60(%rip), %r12
        mov vert_diff_gpr+0x68(%rip), %r13
        mov vert_diff_gpr+0x70(%rip), %r14
        mov vert_diff_gpr+0x78(%rip), %r15
        lea vert_diff_rflags(%rip), %rsp
        popfq
        mov vert_diff_gpr+0x20(%rip), %rsp
        jmp *vert_diff_rip(%rip)

# The signal handler: (signal, siginfo, ucontext), on the alternate stack. If a case was running, takes its
# state and returns from vert_diff_launch, leaving the signal frame behind.
        .globl vert_diff_handler
        .type vert_diff_handler, @function
vert_diff_handler:
        pushfq
        andq $~0x40000, (%rsp)          # AC is the case's, and alignment of C++ code is its own matter
        popfq
        cmpq $0, vert_diff_running(%rip)
        je 1f
        movq $0, vert_diff_running(%rip)
        rdfsbase %rax
        mov %rax, vert_diff_fs(%rip)
        rdgsbase %rax
        mov %rax, vert_diff_gs(%rip)
        mov saved_fs(%rip), %rax
        wrfsbase %rax
        mov saved_gs(%rip), %rax
        wrgsbase %rax
        mov %rdx, %rdi
        call vert_diff_capture
        mov saved_rsp(%rip), %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret
1:      call vert_diff_worker_died

        .section .note.GNU-stack, "", @progbits

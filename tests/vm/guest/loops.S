/* Multiboot kernels that loop in 64-bit mode, interrupts off, without an instruction that leaves translated code. */
.set MAGIC, 0x1badb002
.section .text
.align 4
.long MAGIC, 0, -MAGIC
.code32
.globl _start
_start:
    cli
    mov $stack_top, %esp
    mov $message, %esi
    mov $0x3f8, %dx
1:  lodsb
    test %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:
    /* 4-level tables: first GiB identity in 2 MiB pages, but the first 2 MiB by a table, whose page 0 is zero_page */
    movl $pdpt + 7, pml4
    movl $pdpt2 + 7, pml4 + 511 * 8
    movl $pd + 7, pdpt
    movl $pd2 + 7, pdpt2 + 511 * 8
    movl $pt2 + 7, pd2 + 511 * 8
    movl $top_page + 0x107, pt2 + 511 * 8   /* global: else the two pages share a token slot */
    mov $pd, %edi
    mov $0x87, %eax
    mov $512, %ecx
3:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 3b
    movl $pt + 7, pd
    mov $pt, %edi
    mov $7, %eax
    mov $512, %ecx
4:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 4b
    movl $zero_page + 7, pt
    mov $0xa0, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_mode
.code64
long_mode:
    mov $stack_top, %rsp
#if defined(LOOP_PUSHES)
    /* The host's own push for PUSHF may meet the return stack's end before a call does. */
5:  pushfq
    lea 16(%rsp), %rsp
    call 5b
#elif defined(LOOP_CALLS)
5:  lea 8(%rsp), %rsp
    call 5b
#elif defined(LOOP_LOOK_UPS)
    /* Two pages with one place in the soft TLB: each look-up misses. */
    mov $0x1000000, %rbx
    mov $0x2000000, %rcx
5:  mov (%rbx), %al
    mov (%rcx), %al
    lea 8(%rsp), %rsp
    call 5b
#elif defined(LOOP_OVER_THE_TOP)
    /* A jump from page 0 to the last page, and on over the top. */
    movb $0xe9, zero_page
    movl $-0x1000 - 5, zero_page + 1
    mov $top_page, %rdi
    mov $0x90, %al
    mov $4096, %rcx
    rep stosb
    mov $-0x1000, %rax
    jmp *%rax
#else
#error "no loop"
#endif
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt
message:
    .asciz "kernel up\r\n"
.bss
.align 4096
pml4: .skip 4096
pdpt: .skip 4096
pdpt2: .skip 4096
pd: .skip 4096
pd2: .skip 4096
pt: .skip 4096
pt2: .skip 4096
zero_page: .skip 4096
top_page: .skip 4096
.skip 4096
stack_top: .skip 4096

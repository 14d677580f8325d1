/* Multiboot 1 kernels that do one thing each, chosen by -DACTION_...; entered in 32-bit protected mode. */
.set MAGIC, 0x1badb002
.set FLAGS, 0
.set COM1, 0x3f8

.section .text
.align 4
.long MAGIC, FLAGS, -(MAGIC + FLAGS)

.globl _start
_start:
    cli
    mov $message, %esi
    mov $COM1, %dx
1:  lodsb
    test %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:
#if defined(ACTION_TRIPLE_FAULT)
    lidt no_idt
    int3
#elif defined(ACTION_DEBUG_EXIT)
    mov $0x2a, %al
    outb %al, $0xf4
#elif defined(ACTION_FLOOD)
    mov $'x', %al
3:  outb %al, %dx
    jmp 3b
#elif defined(ACTION_RESET)
    mov $0xcf9, %dx
    mov $0x06, %al
    outb %al, %dx
#elif defined(ACTION_ECHO)
3:  mov $COM1 + 5, %dx      /* line status: data ready */
    inb %dx, %al
    test $1, %al
    jz 3b
    mov $COM1, %dx
    inb %dx, %al
    outb %al, %dx
    jmp 3b
#elif defined(ACTION_POWER_BUTTON)
    mov $0x02, %al          /* ACPI on */
    outb %al, $0xb2
    mov $0x600, %dx         /* PM1 status: power button */
3:  inw %dx, %ax
    test $0x100, %ax
    jz 3b
    mov $0x604, %dx         /* S5 */
    mov $0x2000, %ax
    outw %ax, %dx
#elif defined(ACTION_CPU_COUNT)
    mov $0x510, %dx         /* fw_cfg: select the number of processors */
    mov $0x05, %ax
    outw %ax, %dx
    inc %dx
    inb %dx, %al
    outb %al, $0xf4
#elif defined(ACTION_TIMER_TICK) || defined(ACTION_RESET_VECTOR)
    mov $real_mode, %esi
    mov $REAL_MODE_AT, %edi
    mov $real_mode_end - real_mode, %ecx
    rep movsb
    lgdt gdt_pointer
    ljmp $8, $REAL_MODE_AT
#elif defined(ACTION_HALT)
    mov $0xff, %al          /* no interrupt ever comes, but one could */
    outb %al, $0x21
    sti
#elif !defined(ACTION_DEAD_HALT)
#error "no action chosen"
#endif
4:  hlt
    jmp 4b

#if defined(ACTION_TIMER_TICK) || defined(ACTION_RESET_VECTOR)
.set REAL_MODE_AT, 0x7000
.code16
real_mode:
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp $0, $REAL_MODE_AT + (5f - real_mode)
5:  xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $REAL_MODE_AT, %sp
#if defined(ACTION_RESET_VECTOR)
    ljmp $0xffff, $0
#endif
    sti                     /* nothing is set up but by firmware */
    hlt
    cli
    cmpl $0, 0x46c          /* the ticks that its handler counts */
    setne %al
    out %al, $0xf4
real_mode_end:
.code32
gdt:
    .quad 0, 0x00009b000000ffff, 0x000093000000ffff
gdt_pointer:
    .word 23
    .long gdt
#endif
no_idt:
    .word 0
    .long 0
message:
    .asciz "kernel up\r\n"

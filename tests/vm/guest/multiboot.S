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
#elif !defined(ACTION_HALT)
#error "no action chosen"
#endif
4:  hlt
    jmp 4b

no_idt:
    .word 0
    .long 0
message:
    .asciz "kernel up\r\n"

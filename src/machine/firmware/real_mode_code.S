/* Real-mode interrupt handlers, 512 bytes at F000:FE00. real_mode.cpp knows their offsets. */
    .section .rodata
    .code16
    .globl vert_real_mode_code, vert_real_mode_code_end

    .set BASE, 0xfe00
    .set PIC_EOI, 0x20
    .set MASTER, 0x20
    .set SLAVE, 0xa0
    .set TICKS, 0x6c            /* in the BIOS data area, segment 40h */
    .set MIDNIGHT, 0x70
    .set TICKS_A_DAY, 0x1800b0

vert_real_mode_code:
    .org vert_real_mode_code + 0xfe00 - BASE    /* IRQ 1 to 7 */
    push %ax
    jmp end_master

    .org vert_real_mode_code + 0xfe10 - BASE    /* IRQ 8 to 15 */
    push %ax
    mov $PIC_EOI, %al
    out %al, $SLAVE
end_master:
    mov $PIC_EOI, %al
    out %al, $MASTER
    pop %ax
    iret

    .org vert_real_mode_code + 0xfea5 - BASE    /* IRQ 0: the time of day */
    push %ds
    push %ax
    mov $0x40, %ax
    mov %ax, %ds
    incl TICKS
    cmpl $TICKS_A_DAY, TICKS
    jb 1f
    movl $0, TICKS
    movb $1, MIDNIGHT
1:  pop %ax
    pop %ds
    int $0x1c                   /* the user's own */
    push %ax
    jmp end_master

    .org vert_real_mode_code + 0xff53 - BASE
    iret

reset:
    mov $0xcf9, %dx
    mov $2, %al
    out %al, %dx
    mov $6, %al
    out %al, %dx
1:  hlt
    jmp 1b

    .org vert_real_mode_code + 0xfff0 - BASE    /* the reset vector */
    ljmp $0xf000, $(0xfe00 + reset - vert_real_mode_code)
    .org vert_real_mode_code + 0xfffe - BASE
    .byte 0xfc                  /* the model: AT */
    .org vert_real_mode_code + 0x10000 - BASE
vert_real_mode_code_end:

    .section .note.GNU-stack, "", @progbits

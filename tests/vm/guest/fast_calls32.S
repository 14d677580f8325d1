/* A static i386 program for a 64-bit Linux: getpid by int $0x80, and the same by the vDSO's entry 1000 times.
   Prints by which instruction the vDSO enters the kernel; status 1 if an answer or a register is wrong. */
.set EXIT, 1
.set WRITE, 4
.set GETPID, 20
.set AT_SYSINFO, 32
.section .text
.globl _start
_start:
    mov (%esp), %eax
    lea 8(%esp,%eax,4), %esi  /* behind argv: the environment, then the auxiliary vector */
1:  lodsl
    test %eax, %eax
    jnz 1b
2:  lodsl
    test %eax, %eax
    jz fail
    mov %eax, %ebx
    lodsl
    cmp $AT_SYSINFO, %ebx
    jne 2b
    mov %eax, entry

    mov $GETPID, %eax
    int $0x80
    mov %eax, %edi
    mov $1000, %esi
3:  mov $GETPID, %eax
    mov $0x11, %ecx
    mov $0x22, %edx
    mov $0x33, %ebp
    call *entry
    cmp %edi, %eax
    jne fail
    cmp $0x11, %ecx
    jne fail
    cmp $0x22, %edx
    jne fail
    cmp $0x33, %ebp
    jne fail
    dec %esi
    jnz 3b

    mov entry, %esi
    mov $16, %edx
    mov $interrupt, %ecx
4:  cmpw $0x050f, (%esi)
    jne 5f
    mov $system_call, %ecx
5:  cmpw $0x340f, (%esi)
    jne 6f
    mov $system_enter, %ecx
6:  inc %esi
    dec %edx
    jnz 4b
    mov $WRITE, %eax
    mov $1, %ebx
    mov $9, %edx
    call *entry
    xor %ebx, %ebx
    jmp 7f
fail:
    mov $1, %ebx
7:  mov $EXIT, %eax
    int $0x80

.section .rodata
system_call: .ascii "syscall \n"
system_enter: .ascii "sysenter\n"
interrupt: .ascii "int 0x80\n"
.section .bss
entry: .long 0
.section .note.GNU-stack, "", @progbits

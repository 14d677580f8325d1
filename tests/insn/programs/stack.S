# PUSH and POP in all forms, ENTER, LEAVE, PUSHF, POPF in user mode, LAHF, SAHF, CALL and RET deep and indirect.
        .include "program.inc"
        .text
body:
        mov rbx, rsp
        push rsp
        pop rax
        expect rax, rbx
        push -1
        expect "qword ptr [rsp]", -1
        pushw 0x1234
        mov rcx, rsp
        add rcx, 10
        expect rbx, rcx
        popw cx
        movzx ecx, cx
        expect rcx, 0x1234
        pop rcx
        push 0x7FFFFFFF
        pop qword ptr [rsp - 8]
        mov rcx, [rsp - 8]
        expect rcx, 0x7FFFFFFF
# POP to an address of RSP uses the RSP after the pop
        sub rsp, 16
        push 77
        pop qword ptr [rsp]
        expect "qword ptr [rsp]", 77
        mov rsp, rbx
        push 99
        pop rsp
        mov rax, rsp
        mov rsp, rbx
        expect rax, 99
# ENTER and LEAVE, nesting
        mov rbp, 0x5555
        enter 32, 0
        lea rax, [rbx - 8]
        expect rbp, rax
        lea rax, [rbx - 40]
        expect rsp, rax
        enter 16, 2
        expect "qword ptr [rbp - 16]", rbp
        leave
        leave
        expect rbp, 0x5555
        expect rsp, rbx
# POPF must not touch IF and IOPL at CPL 3, nor fault
        pushfq
        pop rax
        mov rcx, rax
        xor eax, 0x3200
        push rax
        popfq
        pushfq
        pop rax
        and eax, 0x3200
        and ecx, 0x3200
        expect rax, rcx
        push 0x202CD5
        popfq
        pushfq
        pop rax
        and eax, 0x204CD5
        expect rax, 0x200CD5
        push 2
        popfq
        mov ah, 0xD5
        sahf
        expect_flags 0xD5
        clear_flags
        mov ah, 0
        lahf
        shr eax, 8
        movzx eax, al
        expect rax, 2
        clear_flags
        cmc
        expect_flags CF
# recursion, deeper than any return predictor
        mov edi, 200
        xor eax, eax
        call sum
        expect rax, 20100
# indirect, through register, memory and a table
        lea rax, [rip + 1f]
        jmp rax
        ud2
1:      lea rcx, [rip + table]
        mov edi, 3
        xor eax, eax
2:      call [rcx + rdi * 8]
        dec edi
        jns 2b
        expect rax, 1111
        push 5
        lea rax, [rip + takes_one]
        call rax
        expect rsp, rbx
        ret
sum:    test edi, edi
        jz 1f
        add eax, edi
        push rdi
        dec edi
        call sum
        pop rdi
1:      ret
takes_one:
        ret 8
f0:     add eax, 1
        ret
f1:     add eax, 10
        ret
f2:     add eax, 100
        ret
f3:     add eax, 1000
        ret
        .data
table:  .quad f0, f1, f2, f3

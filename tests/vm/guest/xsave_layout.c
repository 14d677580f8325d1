// Whether XSAVE's areas lie where CPUID.(D,i) says: for XSAVE, XSAVEC, in signal frames, and for
// PTRACE_GETREGSET.
#include "caught.h"

#include <cpuid.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
static u32 off[16], size[16], al[16];
static u8 pat[64] __attribute__((aligned(64)));
static u8 area[16384] __attribute__((aligned(64)));
static int bad;
static void check(const char* what, int ok) {
  printf("%s: %s\n", what, ok ? "ok" : "WRONG");
  bad |= !ok;
}
// Recognizable contents: k_i = 0x1111*(i+1), zmm_i byte j = i*7+j.
static inline __attribute__((always_inline)) void load(void) {
  for (int i = 0; i < 64; i++) pat[i] = i;
  u64 k[8];
  for (int i = 0; i < 8; i++) k[i] = 0x1111ull * (i + 1);
  asm volatile(
      "kmovq (%0),%%k0;kmovq 8(%0),%%k1;kmovq 16(%0),%%k2;kmovq 24(%0),%%k3;kmovq 32(%0),%%k4;kmovq "
      "40(%0),%%k5;kmovq 48(%0),%%k6;kmovq 56(%0),%%k7" ::"r"(k)
      : "memory");
#define Z(n)                                                                                \
  asm volatile("vmovdqu64 %0,%%zmm" #n "; vpbroadcastb %1,%%zmm31; vpaddb %%zmm31,%%zmm" #n \
               ",%%zmm" #n ::"m"(*(u8(*)[64])pat),                                          \
               "r"(n * 7))
  Z(0);
  Z(1);
  Z(2);
  Z(3);
  Z(4);
  Z(5);
  Z(6);
  Z(7);
  Z(8);
  Z(9);
  Z(10);
  Z(11);
  Z(12);
  Z(13);
  Z(14);
  Z(15);
  Z(16);
  Z(17);
  Z(18);
  Z(19);
  Z(20);
  Z(21);
  Z(22);
  Z(23);
  Z(24);
  Z(25);
  Z(26);
  Z(27);
  Z(28);
  Z(29);
  Z(30);
  asm volatile(
      "vmovdqu64 %0,%%zmm31; vpbroadcastb %1,%%zmm30; vpaddb %%zmm30,%%zmm31,%%zmm31; vmovdqu64 "
      "%0,%%zmm30; vpbroadcastb %2,%%zmm29; vpaddb %%zmm29,%%zmm30,%%zmm30; vmovdqu64 %0,%%zmm29; "
      "vpbroadcastb %3,%%zmm28; vpaddb %%zmm28,%%zmm29,%%zmm29; vmovdqu64 %0,%%zmm28; vpaddb "
      "%4,%%zmm28,%%zmm28" ::"m"(*(u8(*)[64])pat),
      "r"(31 * 7), "r"(30 * 7), "r"(29 * 7),
      "m"(*(u8(*)[64]){(u8(*)[64]) & (u8[64]){[0 ... 63] = (u8)(28 * 7)}}));
}
static int at(const u8* base, u32 o5, u32 o6, u32 o7, u32 o2) {
  int ok = 1;
  for (int i = 0; i < 8; i++) ok &= *(u64*)(base + o5 + 8 * i) == 0x1111ull * (i + 1);
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) ok &= base[o2 + 16 * i + j] == (u8)(i * 7 + 16 + j);
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 32; j++) ok &= base[o6 + 32 * i + j] == (u8)(i * 7 + 32 + j);
  for (int i = 0; i < 12; i++)
    for (int j = 0; j < 64; j++) ok &= base[o7 + 64 * i + j] == (u8)((16 + i) * 7 + j);
  return ok;
}
static void handler(int s, siginfo_t* si, void* c) {
  u8* f = (u8*)((ucontext_t*)c)->uc_mcontext.fpregs;
  check("signal frame", at(f, off[5], off[6], off[7], off[2]));
  *(u64*)(f + off[5] + 24) = 0xabcdef;  // k3, on return
}
int main(void) {
  u32 a, b, c, d;
  for (int i = 2; i < 16; i++) {
    __cpuid_count(0xD, i, a, b, c, d);
    size[i] = a;
    off[i] = b;
    al[i] = c & 2;
  }
  if (!size[7]) {
    puts("no AVX-512");
    return 0;
  }
  __cpuid_count(0xD, 0, a, b, c, d);
  u32 end = 0;
  for (int i = 2; i < 16; i++)
    if ((a >> i & 1) && off[i] + size[i] > end) end = off[i] + size[i];
  check("EBX is the last component's end", end == b || (a >> 9 & 1));
  for (int round = 0; round < 2; round++) {
    memset(area, 0, sizeof area);
    load();
    asm volatile("xsave64 (%0)" ::"r"(area), "a"(0xe7), "d"(0) : "memory");
    check("XSAVE", at(area, off[5], off[6], off[7], off[2]));
    // Change k3 and zmm17 in the image where CPUID says, and load it.
    *(u64*)(area + off[5] + 24) = 0xfeed;
    area[off[7] + 64 + 5] = 0x99;
    u64 k3;
    u8 z17[64];
    asm volatile("xrstor64 (%2); kmovq %%k3,%0; vmovdqu64 %%zmm17,%1"
                 : "=r"(k3), "=m"(z17)
                 : "r"(area), "a"(0xe7), "d"(0)
                 : "memory");
    check("XRSTOR", k3 == 0xfeed && z17[5] == 0x99);
    memset(area, 0, sizeof area);
    load();
    asm volatile("xsavec64 (%0)" ::"r"(area), "a"(0xe7), "d"(0) : "memory");
    u32 o[16], p = 576;
    for (int i = 2; i < 8; i++)
      if (0xe7 >> i & 1) {
        if (al[i]) p = (p + 63) & ~63u;
        o[i] = p;
        p += size[i];
      }
    check("XSAVEC", at(area, o[5], o[6], o[7], o[2]));
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &sa, 0);
    int me = getpid();
    load();
    asm volatile("syscall; kmovq %%k3,%1"
                 : "+a"((long){SYS_kill}), "=r"(k3)
                 : "D"((long)me), "S"((long)SIGUSR1)
                 : "rcx", "r11", "memory");
    check("sigreturn", k3 == 0xabcdef);
    warm(0.05);
  }
  int pid = fork();
  if (!pid) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    u64 k3;
    load();
    asm volatile("syscall; kmovq %%k3,%1"
                 : "+a"((long){SYS_kill}), "=r"(k3)
                 : "D"((long)getpid()), "S"((long)SIGSTOP)
                 : "rcx", "r11", "memory");
    _exit(k3 == 0xbeef ? 7 : 8);
  }
  int st;
  waitpid(pid, &st, 0);
  memset(area, 0, sizeof area);
  struct iovec v = {area, sizeof area};
  ptrace(PTRACE_GETREGSET, pid, 0x202, &v);
  check("PTRACE_GETREGSET", at(area, off[5], off[6], off[7], off[2]));
  *(u64*)(area + off[5] + 24) = 0xbeef;
  ptrace(PTRACE_SETREGSET, pid, 0x202, &v);
  ptrace(PTRACE_CONT, pid, 0, 0);
  waitpid(pid, &st, 0);
  check("PTRACE_SETREGSET", WIFEXITED(st) && WEXITSTATUS(st) == 7);
  return bad;
}

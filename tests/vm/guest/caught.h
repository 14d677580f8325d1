// Catches faults of small pieces of code; prints what a bare machine would show.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
struct caught {
  volatile int sig, code;
  volatile u64 addr, rip, err, trapno, flags;
  volatile greg_t r[NGREG];
};
static struct caught got;
static sigjmp_buf back;
static void catcher(int s, siginfo_t* i, void* c) {
  ucontext_t* u = c;
  got.sig = s;
  got.code = i->si_code;
  got.addr = (u64)i->si_addr;
  for (int k = 0; k < NGREG; k++) got.r[k] = u->uc_mcontext.gregs[k];
  got.rip = got.r[REG_RIP];
  got.err = got.r[REG_ERR];
  got.trapno = got.r[REG_TRAPNO];
  got.flags = got.r[REG_EFL];
  siglongjmp(back, 1);
}
static char altstack[65536] __attribute__((aligned(64)));
static void catch_all(void) {
  stack_t ss = {.ss_sp = altstack, .ss_size = sizeof altstack};
  sigaltstack(&ss, 0);
  struct sigaction a = {.sa_sigaction = catcher, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  int s[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP, SIGSYS};
  for (unsigned k = 0; k < sizeof s / sizeof *s; k++) sigaction(s[k], &a, 0);
}
#define TRY(stmt)                       \
  ({                                    \
    memset((void*)&got, 0, sizeof got); \
    if (!sigsetjmp(back, 1)) {          \
      stmt;                             \
    }                                   \
    got.sig;                            \
  })
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}
// Lets an engine take this address space for a busy one.
static volatile u64 sink;
__attribute__((noinline)) static void warm(double s) {
  double e = now() + s;
  static u64 a[512];
  while (now() < e)
    for (int i = 0; i < 200000; i++) a[i & 511] += sink++;
}

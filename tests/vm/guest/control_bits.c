// Bits of EFLAGS and CR4 that belong to a thread: PR_SET_TSC (CR4.TSD), EFLAGS.AC (alignment), UMIP, ID; on
// hot code, and between threads of one address space that have them differently.
#include "caught.h"

#include <pthread.h>
#include <sys/prctl.h>
static u8 m[256] __attribute__((aligned(64)));

static u64 rdtsc(void) {
  u32 a, d;
  asm volatile("rdtsc" : "=a"(a), "=d"(d));
  return (u64)d << 32 | a;
}

static u64 rdtscp(void) {
  u32 a, d, c;
  asm volatile("rdtscp" : "=a"(a), "=d"(d), "=c"(c));
  return (u64)d << 32 | a;
}
static int hot;
#define REP for (int k = hot ? 300 : 1; k; k--)
// AC set around one instruction.
#define AC(n, text)                                                                                   \
  do {                                                                                                \
    u64 s;                                                                                            \
    asm volatile("lea 1f(%%rip),%0" : "=r"(s));                                                       \
    REP TRY(({                                                                                        \
      asm volatile(                                                                                   \
          "mov %0,%%rbx; mov %0,%%rsi; lea 64(%0),%%rdi; mov $3,%%ecx; xor %%eax,%%eax; pushfq; orl " \
          "$0x40000,(%%rsp); popfq\n1: " text "\npushfq; andl $~0x40000,(%%rsp); popfq" ::"r"(m)      \
          : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "xmm0", "xmm1", "memory", "cc");          \
    }));                                                                                              \
    asm volatile("pushfq; andl $~0x40000,(%%rsp); popfq" ::: "memory", "cc");                         \
    printf("ac %s: sig %d code %d trap %ld rip %+ld\n", n, got.sig, got.code, (long)got.trapno,       \
           got.sig ? (long)(got.rip - s) : 0);                                                        \
  } while (0)
#define UM(n, text)                                                                               \
  do {                                                                                            \
    u64 v = 0x5a5a5a5a5a5a5a5aull, w[2] = {v, v};                                                 \
    REP {                                                                                         \
      v = w[0] = w[1] = 0x5a5a5a5a5a5a5a5aull;                                                    \
      TRY(({ asm volatile(text : "+r"(v) : "r"(w) : "memory"); }));                               \
    }                                                                                             \
    printf("umip %s: sig %d reg %lx mem %lx %lx\n", n, got.sig, (long)v, (long)w[0], (long)w[1]); \
  } while (0)

static void all(void) {
  int v = 0;
  prctl(PR_GET_TSC, &v);
  printf("tsc %d\n", v);
  REP TRY(rdtsc());
  printf("rdtsc: sig %d\n", got.sig);
  prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
  REP TRY(rdtsc());
  printf("rdtsc off: sig %d code %d\n", got.sig, got.code);
  REP TRY(rdtscp());
  printf("rdtscp off: sig %d\n", got.sig);
  struct timespec t;
  TRY(syscall(SYS_clock_gettime, 1, &t));
  printf("syscall clock: sig %d\n", got.sig);
  int pid = fork();
  if (!pid) {
    TRY(rdtsc());
    _exit(got.sig);
  }
  int st;
  waitpid(pid, &st, 0);
  printf("child inherits: %d\n", WEXITSTATUS(st));
  prctl(PR_SET_TSC, PR_TSC_ENABLE);
  REP TRY(rdtsc());
  printf("rdtsc on: sig %d\n", got.sig);
  AC("mov 4+1", "mov 1(%%rbx),%%eax");
  AC("mov 4+0", "mov 4(%%rbx),%%eax");
  AC("mov 2+1", "mov 1(%%rbx),%%ax");
  AC("mov 8+4", "mov 4(%%rbx),%%rax");
  AC("mov 1", "mov 1(%%rbx),%%al");
  AC("store 4+2", "mov %%eax,2(%%rbx)");
  AC("add", "add %%eax,3(%%rbx)");
  AC("lock add", "lock add %%eax,3(%%rbx)");
  AC("movups", "movups 1(%%rbx),%%xmm0");
  AC("movdqu", "movdqu 8(%%rbx),%%xmm0");
  AC("vmovups ymm", "vmovups 1(%%rbx),%%ymm0");
  AC("movaps", "movaps 1(%%rbx),%%xmm0");
  AC("addps", "addps 4(%%rbx),%%xmm0");
  AC("vaddps", "vaddps 4(%%rbx),%%xmm0,%%xmm0");
  AC("movsd xmm", "movsd 4(%%rbx),%%xmm0");
  AC("movss", "movss 2(%%rbx),%%xmm0");
  AC("movq", "movq 4(%%rbx),%%xmm0");
  AC("fldl", "fninit; fldl 4(%%rbx); fninit");
  AC("flds", "fninit; flds 4(%%rbx); fninit");
  AC("fldt 8", "fninit; fldt 8(%%rbx); fninit");
  AC("fldt 4", "fninit; fldt 4(%%rbx); fninit");
  AC("fildll 4", "fninit; fildll 4(%%rbx); fninit");
  AC("fnstcw 1", "fnstcw 1(%%rbx)");
  AC("fnsave", "fnsave 2(%%rbx); fninit");
  AC("push", "mov %%rsp,%%r8; lea 68(%%rbx),%%rsp; push %%rax; mov %%r8,%%rsp");
  AC("call", "mov %%rsp,%%r8; lea 68(%%rbx),%%rsp; call 2f; 2: mov %%r8,%%rsp");
  AC("rep movsl", "inc %%rsi; rep movsl");
  AC("rep movsb", "inc %%rsi; rep movsb");
  AC("rep stosq", "add $4,%%rdi; rep stosq");
  AC("cmpxchg8b 4", "cmpxchg8b 4(%%rbx)");
  AC("xchg 1", "xchg %%eax,1(%%rbx)");
  AC("bt 2", "bt %%eax,2(%%rbx)");
  AC("bts reg 2", "btsl $1,2(%%rbx)");
  AC("ldmxcsr 2", "stmxcsr (%%rbx); ldmxcsr (%%rbx); stmxcsr 2(%%rbx)");
  AC("lea", "lea 1(%%rbx),%%rax");
  AC("prefetch", "prefetcht0 1(%%rbx)");
  AC("lgdt-like sgdt", "nop");
  AC("maskmovdqu 1", "pxor %%xmm1,%%xmm1; inc %%rdi; maskmovdqu %%xmm1,%%xmm0");
  AC("movnti 1", "movnti %%eax,1(%%rbx)");
  AC("pextrw 1", "pextrw $0,%%xmm0,1(%%rbx)");
  AC("pinsrd 1", "pinsrd $0,1(%%rbx),%%xmm0");
  AC("gather 1",
     "vpcmpeqd %%xmm1,%%xmm1,%%xmm1; vpxor %%xmm0,%%xmm0,%%xmm0; inc %%rbx; vpgatherdd "
     "%%xmm1,(%%rbx,%%xmm0,4),%%xmm2");
  AC("broadcast 1", "vbroadcastss 1(%%rbx),%%xmm0");
  AC("pmovzx 1", "pmovzxbd 1(%%rbx),%%xmm0");
  AC("kmov 1", "kmovw 1(%%rbx),%%k1");
  AC("movbe 1", "movbe 1(%%rbx),%%eax");
  AC("crc32 1", "crc32l 1(%%rbx),%%eax");
  AC("popcnt", "popcnt 1(%%rbx),%%eax");
  AC("syscall keeps AC", "mov $39,%%eax; syscall; mov 1(%%rbx),%%eax");
  AC("cpuid then", "cpuid; lea m(%%rip),%%rbx; mov 1(%%rbx),%%eax");
  UM("sgdt", "sgdt (%1)");
  UM("sidt", "sidt (%1)");
  UM("smsw r", "smsw %0");
  UM("smsw m", "smsw (%1)");
  UM("sldt r", "sldt %0");
  UM("sldt m", "sldt (%1)");
  UM("str r", "str %0");
  UM("str m", "str (%1)");
  u64 f0, f1;
  asm volatile("pushfq; pop %0; mov %0,%1; xor $0x200000,%1; push %1; popfq; pushfq; pop %1; push %0; popfq"
               : "=&r"(f0), "=&r"(f1));
  printf("ID toggles: %d\n", (int)((f0 ^ f1) >> 21 & 1));
  asm volatile("push $0x3202; popfq; pushfq; pop %0; push $0x202; popfq" : "=r"(f0));
  printf("IOPL stays: %lx\n", (long)f0 & 0x3000);
  asm volatile("push $0x2; popfq; pushfq; pop %0; push $0x202; popfq" : "=r"(f0));
  printf("IF stays: %lx\n", (long)f0 & 0x200);
  asm volatile("push $0x1b4202; popfq; pushfq; pop %0; push $0x202; popfq" : "=r"(f0));
  printf("NT RF VM VIF VIP: %lx\n", (long)f0 & 0x1b4000);
  asm volatile("pushfq; popfw; pushfw; popfq; pushfq; pop %0" : "=r"(f0));
}
static pthread_barrier_t bar;
static volatile long faults[2];
static __thread sigjmp_buf mine;
static __thread int caught_here;
static void tcatch(int s, siginfo_t* i, void* c) { siglongjmp(mine, 1); }

static void* worker(void* a) {
  long off = (long)a;
  prctl(PR_SET_TSC, off ? PR_TSC_SIGSEGV : PR_TSC_ENABLE);
  pthread_barrier_wait(&bar);
  long n = 0;
  for (int i = 0; i < 20000; i++) {
    if (!sigsetjmp(mine, 1)) {
      rdtsc();
      if (i % 64 == 0) sched_yield();
    } else
      n++;
  }
  faults[off] = n;
  return 0;
}

int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0);
  catch_all();
  all();
  puts("hot");
  hot = 1;
  warm(0.05);
  all();
  struct sigaction a = {.sa_handler = 0};
  a.sa_sigaction = tcatch;
  a.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &a, 0);
  pthread_barrier_init(&bar, 0, 2);
  pthread_t t[2];
  pthread_create(&t[0], 0, worker, (void*)0);
  pthread_create(&t[1], 0, worker, (void*)1);
  pthread_join(t[0], 0);
  pthread_join(t[1], 0);
  printf("threads: %ld %ld\n", faults[0], faults[1]);
  (void)caught_here;
}

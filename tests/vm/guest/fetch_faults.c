// Faults of fetching and of data: pages without execute, over a page's end, addresses that are not canonical,
// and loops that lose their page while they run.
#include "caught.h"

#include <pthread.h>
#include <sys/time.h>
static u8* x;
static int hot;

static void line(const char* n, u64 base) {
  printf("%s: sig %d code %d addr %lx err %lx trap %ld rip %lx\n", n, got.sig, got.code,
         (long)(got.addr - (got.addr >= base && got.addr < base + 65536 ? base - 0x10000 : 0)),
         got.trapno == 14 || got.trapno == 13 ? (long)got.err : 0, (long)got.trapno,
         (long)(got.rip - (got.rip >= base && got.rip < base + 65536 ? base - 0x10000 : 0)));
}
#define GO(n, how)                               \
  do {                                           \
    for (int k = hot ? 30 : 1; k; k--) TRY(how); \
    line(n, (u64)x);                             \
  } while (0)
static void jump(u64 at) { asm volatile("push $0x202; popfq; jmp *%0" ::"r"(at) : "memory"); }
static void call(u64 at) { asm volatile("call *%0" ::"r"(at) : "memory"); }

static void jmem(u64 at) {
  u64 p = at;
  asm volatile("jmp *%0" ::"m"(p) : "memory");
}
static void retto(u64 at) { asm volatile("push %0; ret" ::"r"(at) : "memory"); }

// Where addresses are not random, the main thread's stack ends in this page: a thread of its own makes the
// page inaccessible, whatever it was before, while the main thread waits.
static void* last_user_byte(void* unused) {
  (void)unused;
  u8* page = (u8*)0x7fffffffe000ull;
  int stack = mprotect(page, 4096, PROT_NONE) == 0;
  if (!stack) mmap(page, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  GO("last user byte", jump((u64)page + 4095));
  if (stack)
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
  else
    munmap(page, 4096);
  return 0;
}

static void all(void) {
  GO("kernel text", jump(0xffffffff81000000ull));
  GO("kernel text ret", retto(0xffffffff81000000ull));
  GO("direct map", jump(0xffff888000000000ull));
  GO("read kernel", (void)*(const volatile u64*)0xffffffff81000000ull);
  GO("not canonical jmp", jump(0x800000000000ull));
  GO("not canonical call", call(0x8000000000000000ull));
  GO("not canonical jmp mem", jmem(0xdeadbeefdeadbeefull));
  GO("not canonical ret", retto(0x0000800000000010ull));
  GO("not canonical read", (void)*(const volatile u64*)0x800000000000ull);
  GO("not canonical, straddles in", (void)*(const volatile u64*)0x7ffffffffffcull);
  GO("not canonical, straddles out", (void)*(const volatile u64*)0xffff7fffffffffffull);
  GO("wraps 2^64", (void)*(const volatile u64*)0xfffffffffffffffcull);
  GO("ss: not canonical", ({
       asm volatile(
           "mov %%rsp,%%r8; mov $0xdeadbeef00000000,%%rax; mov %%rax,%%rsp; push %%rax; mov %%r8,%%rsp" ::
               : "rax", "r8", "memory");
     }));
  GO("rbp: not canonical", ({
       asm volatile("push %%rbp; mov $0xdeadbeef00000000,%%rbp; mov (%%rbp),%%rax; pop %%rbp" ::
                        : "rax", "memory");
     }));
  GO("null", jump(0));
  GO("unmapped", jump((u64)x + 16 * 4096));
  pthread_t t;
  pthread_create(&t, 0, last_user_byte, 0);
  pthread_join(t, 0);
  GO("top of user", jump(0x7ffffffff000ull));
  // No execute, no read, over a page's end.
  memset(x, 0x90, 4096);
  x[4095] = 0xc3;
  mprotect(x, 4096, 3);
  GO("no execute", jump((u64)x + 100));
  mprotect(x, 4096, 0);
  GO("no access", jump((u64)x + 100));
  mprotect(x, 4096, 7);
  u8* end = x + 4 * 4096;
  memset(end - 4096, 0x90, 4096);
  munmap(end, 4096);
  GO("runs off", jump((u64)end - 20));
  end[-1] = 0xb8;
  GO("straddles into hole", jump((u64)end - 20));
  end[-1] = 0x0f;
  GO("prefix at the end", jump((u64)end - 1));
  end[-1] = 0xf3;
  GO("rep at the end", jump((u64)end - 1));
  end[-1] = 0xc3;
  GO("ret is the last byte", call((u64)end - 1));
  end[-1] = 0x0b;
  end[-2] = 0x0f;
  GO("ud2 at the end", jump((u64)end - 2));
  end[-1] = 0x06;
  GO("invalid one byte at the end", jump((u64)end - 1));
  end[-1] = 0xe8;
  GO("call straddles", jump((u64)end - 1));
  end[-2] = 0x74;
  end[-1] = 0x10;
  GO("branch not taken, off the end", ({
       asm volatile("push $0x202; popfq; test %%rsp,%%rsp; jmp *%0" ::"r"((u64)end - 2) : "memory");
     }));
  end[-2] = 0xff;
  end[-1] = 0x00;
  GO("inc (rax) at the end", ({ asm volatile("mov $0x123,%%eax; jmp *%0" ::"r"((u64)end - 2) : "rax"); }));
  mmap(end, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  memset(end, 0x90, 4096);
  end[-1] = 0xb8;
  GO("straddles into no-execute", jump((u64)end - 5));
  end[-1] = 0x90;
  GO("runs into no-execute", jump((u64)end - 5));
  mmap(end, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  // Data faults: error codes.
  u8* ro = x + 8 * 4096;
  mprotect(ro, 4096, 1);
  GO("write to read-only", *(volatile u8*)ro = 1);
  GO("read unmapped", (void)*(const volatile u8*)(x + 20 * 4096));
  GO("write unmapped", *(volatile u8*)(x + 20 * 4096) = 1);
  GO("straddle: first ok", (void)*(const volatile u64*)(x + 16 * 4096 - 4));
  GO("straddling store", *(volatile u64*)(x + 16 * 4096 - 4) = 1);
  GO("straddle into read-only", *(volatile u64*)(ro - 4) = 0x1122334455667788ull);
  GO("lock inc read-only", ({ asm volatile("lock incl (%0)" ::"r"(ro) : "memory"); }));
  GO("cmpxchg fails, read-only", ({
       asm volatile("mov $77,%%eax; cmpxchg %%ecx,(%0)" ::"r"(ro) : "memory", "rax");
     }));
  GO("xchg read-only", ({ asm volatile("xchg %%eax,(%0)" ::"r"(ro) : "memory", "rax"); }));
  GO("bts read-only", ({ asm volatile("btsl $0,(%0)" ::"r"(ro) : "memory"); }));
  GO("add 0 read-only", ({ asm volatile("addl $0,(%0)" ::"r"(ro) : "memory"); }));
  GO("bt far unmapped", ({ asm volatile("bt %1,(%0)" ::"r"(ro), "r"(1ll << 20) : "memory"); }));
  GO("bt negative", ({ asm volatile("bt %1,(%0)" ::"r"(x), "r"(-(1ll << 30)) : "memory"); }));
  GO("cmov unmapped, false", ({
       asm volatile("xor %%eax,%%eax; cmovnz (%0),%%rax" ::"r"(x + 20 * 4096) : "rax");
     }));
  GO("movups over", ({ asm volatile("movups (%0),%%xmm0" ::"r"(x + 16 * 4096 - 8) : "xmm0"); }));
  GO("vmovups zmm over", ({ asm volatile("vmovups (%0),%%zmm0" ::"r"(x + 16 * 4096 - 8) : "xmm0"); }));
  GO("masked load over, ok", ({
       asm volatile(
           "mov $3,%%eax; kmovw %%eax,%%k1; vmovdqu32 (%0),%%zmm0%{%%k1%}%{z%}" ::"r"(x + 16 * 4096 - 8)
           : "rax", "xmm0");
     }));
  GO("masked load over, fault", ({
       asm volatile(
           "mov $7,%%eax; kmovw %%eax,%%k1; vmovdqu32 (%0),%%zmm0%{%%k1%}%{z%}" ::"r"(x + 16 * 4096 - 8)
           : "rax", "xmm0");
     }));
  GO("vmaskmov off", ({
       asm volatile("vpxor %%ymm1,%%ymm1,%%ymm1; vmaskmovps (%0),%%ymm1,%%ymm0" ::"r"(x + 20 * 4096)
                    : "xmm0", "xmm1");
     }));
  GO("gather one bad", ({
       asm volatile(
           "vpcmpeqd %%ymm1,%%ymm1,%%ymm1; vmovdqu %1,%%ymm2; vpgatherdd %%ymm1,(%0,%%ymm2,1),%%ymm0" ::"r"(
               x),
           "m"(((int[8]){0, 4, 8, 81920 + 16, 4, 4, 81920, 0}))
           : "xmm0", "xmm1", "xmm2");
     }));
  GO("prefetch unmapped", ({ asm volatile("prefetcht0 (%0); prefetchw (%0)" ::"r"(x + 20 * 4096)); }));
  GO("clflush unmapped", ({ asm volatile("clflush (%0)" ::"r"(x + 20 * 4096)); }));
  GO("push to read-only", ({
       asm volatile("mov %%rsp,%%r8; lea 8(%0),%%rsp; push %%rax; mov %%r8,%%rsp" ::"r"(ro) : "r8", "memory");
     }));
  GO("call with stack read-only", ({
       asm volatile("mov %%rsp,%%r8; lea 8(%0),%%rsp; call 1f; 1: mov %%r8,%%rsp" ::"r"(ro) : "r8", "memory");
     }));
  GO("pop [unmapped]", ({
       asm volatile("push $1; popq (%0); pop %%rax" ::"r"(x + 20 * 4096) : "rax", "memory");
     }));
  GO("enter to read-only", ({
       asm volatile(
           "mov %%rsp,%%r8; mov %%rbp,%%r9; lea 8(%0),%%rsp; enter $0,$0; mov %%r9,%%rbp; mov %%r8,%%rsp" ::
               "r"(ro)
           : "r8", "r9", "memory");
     }));
  GO("xsave unmapped", ({ asm volatile("xsave64 (%0)" ::"r"(x + 20 * 4096), "a"(7), "d"(0) : "memory"); }));
  GO("xrstor bad header", ({
       static u8 a[4096] __attribute__((aligned(64)));
       a[512] = 0xff;
       a[513] = 0xff;
       asm volatile("xrstor64 (%0)" ::"r"(a), "a"(7), "d"(0) : "memory");
     }));
  GO("fxsave misaligned", ({ asm volatile("fxsave64 (%0)" ::"r"(x + 8) : "memory"); }));
  GO("cmpxchg16b misaligned", ({
       asm volatile("lock cmpxchg16b (%0)" ::"r"(x + 8), "a"(0), "d"(0), "b"(0ull), "c"(0ull)
                    : "memory", "cc");
     }));
  GO("syscall clobbers", ({ asm volatile("syscall" ::"a"(39) : "rcx", "r11"); }));
  mprotect(ro, 4096, 7);
}
// A loop that loses its page, or its right to run, at another thread's hands.
static volatile int spinning;

static void* spin(void* p) {
  int s = 0;
  sigjmp_buf* b = p;
  (void)b;
  spinning = 1;
  asm volatile("jmp *%0" ::"r"((u64)x + 2048) : "memory");
  return (void*)(long)s;
}
static volatile u64 hit_rip, hit_addr;
static volatile int hit_code;

static void thread_caught(int s, siginfo_t* i, void* c) {
  ucontext_t* u = c;
  hit_rip = u->uc_mcontext.gregs[REG_RIP];
  hit_addr = (u64)i->si_addr;
  hit_code = i->si_code;
  syscall(SYS_exit, 0);
}

static void lose(const char* n, int how) {
  mmap(x, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  memset(x, 0x90, 4096);
  x[2048] = 0xeb;
  x[2049] = 0xfe;  // jmp .
  if (how & 8) {
    x[2048] = 0xff;
    x[2049] = 0xc0;
    x[2050] = 0x75;
    x[2051] = 0xfc;
  }  // inc eax; jnz
  if (how & 16) {
    memcpy(x + 2048, "\xe8\x01\x00\x00\x00\xcc\x58\xeb\xf7", 9);
  }  // call; pop; jmp
  struct sigaction a = {.sa_sigaction = thread_caught, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &a, 0);
  sigaction(SIGILL, &a, 0);
  hit_rip = 0;
  spinning = 0;
  pthread_t t;
  pthread_create(&t, 0, spin, 0);
  while (!spinning) usleep(100);
  usleep(30000);
  switch (how & 7) {
    case 0: mprotect(x, 4096, 3); break;
    case 1: munmap(x, 4096); break;
    case 2: mprotect(x, 4096, 0); break;
    case 3:
      x[2048] = 0x0f;
      *(volatile u16*)(x + 2048) = 0x0b0f;
      break;
    case 4: {
      u8* y = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      memset(y, 0x06, 4096);
      mremap(y, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, x);
      break;
    }
    case 5: madvise(x, 4096, MADV_DONTNEED); break;
  }
  double e = now() + 10;
  while (!hit_rip && now() < e) usleep(1000);
  printf("%s: %s code %d at %d\n", n, hit_rip ? "stopped" : "GOES ON", hit_code,
         (int)(hit_rip - (u64)x) / 16 * 16);
  if (hit_rip)
    usleep(1000);
  else {
    fflush(stdout);
    _exit(1);
  }
  catch_all();
}

int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0);
  x = mmap((void*)0x10000000, 16 * 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  catch_all();
  all();
  puts("hot");
  hot = 1;
  warm(0.05);
  all();
  lose("jmp ., no execute", 0);
  lose("jmp ., unmapped", 1);
  lose("jmp ., no access", 2);
  lose("jmp ., patched", 3);
  lose("jmp ., remapped", 4);
  lose("jnz, no execute", 8);
  lose("jnz, unmapped", 9);
  lose("jnz, remapped", 12);
  lose("call, no execute", 16);
  lose("call, unmapped", 17);
  lose("call, remapped", 20);
}

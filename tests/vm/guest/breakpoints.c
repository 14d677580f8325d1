// Hardware breakpoints and watchpoints, set by a tracer or by perf on code that runs hot; single-step and
// block-step.
#include "caught.h"

#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
static u8 *data, *code;
static volatile u32* ctl;
#define DR(n) offsetof(struct user, u_debugreg[n])

static long poke(int pid, int n, u64 v) {
  errno = 0;
  long r = ptrace(PTRACE_POKEUSER, pid, DR(n), v);
  return r ? errno : 0;
}
static u64 peek(int pid, int n) { return ptrace(PTRACE_PEEKUSER, pid, DR(n), 0); }
static void regs(int pid, struct user_regs_struct* r) { ptrace(PTRACE_GETREGS, pid, 0, r); }

static u8* emit(u8* p, const char* hex) {
  for (; hex[0]; hex += 2) {
    if (*hex == ' ') {
      hex--;
      continue;
    }
    unsigned v;
    sscanf(hex, "%2x", &v);
    *p++ = v;
  }
  return p;
}
// Runs the child until it stops; says where and why.

static void stop(const char* what, int pid) {
  int st;
  struct user_regs_struct r;
  siginfo_t si;
  double end = now() + 20;
  int w;
  while ((w = waitpid(pid, &st, WNOHANG)) == 0 && now() < end) usleep(200);
  if (w == 0) {
    printf("%s: no stop\n", what);
    return;
  }
  if (!WIFSTOPPED(st)) {
    printf("%s: ended %x\n", what, st);
    return;
  }
  regs(pid, &r);
  ptrace(PTRACE_GETSIGINFO, pid, 0, &si);
  printf("%s: sig %d code %d rip %+ld dr6 %llx rcx %lld rax %llx\n", what, WSTOPSIG(st), si.si_code,
         (long)(r.rip - (u64)code), (unsigned long long)peek(pid, 6) & 0xf00f,
         r.rcx < 1000000 ? (long long)r.rcx : -1, r.rax & 0xffff);
}
static void cont(int pid) { ptrace(PTRACE_CONT, pid, 0, 0); }

static int start(int secs_hot) {
  ctl[0] = 0;
  int pid = fork();
  if (!pid) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    asm volatile("mov %0,%%rax; mov %1,%%rbx; call *%%rax" ::"r"((u64)code), "r"((u64)data)
                 : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "memory", "cc");
    _exit(0);
  }
  int st;
  waitpid(pid, &st, 0);
  (void)secs_hot;
  return pid;
}
static void hotten(int pid) {  // lets the loop run for a while, then stops it
  cont(pid);
  usleep(60000);
  kill(pid, SIGSTOP);
  int st;
  waitpid(pid, &st, 0);
}
// loop: inc dword [rbx]; add [rbx+64], rax; mov rdx,[rbx+128]; nop; mov ecx,3 ; lea rdi,[rbx+256]; xor
// eax,eax; rep stosb; mov qword [rbx+4090], 5 (over a page's end); lea rsi...; jmp loop
static const char* body =
    "ff03 480143 40 488b93 80000000 90 b903000000 488dbb 00010000 31c0 f3aa 48c783 fa0f0000 05000000 66c783 "
    "c0000000 3412 90 ebcd";

int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0);
  code = mmap((void*)0x10000000, 8192, 7, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  data = mmap((void*)0x20000000, 16384, 3, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  ctl = mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memset(code, 0x90, 8192);
  u8* end = emit(code, body);
  end[-1] = (u8)(code - end);
  for (int hot = 0; hot < 2; hot++) {
    printf("hot %d\n", hot);
    struct {
      const char* n;
      u64 at;
      u64 dr7;
    } w[] = {{"execute +0", (u64)code, 0x1},
             {"execute the nop", (u64)code + 13, 0x1},
             {"execute rep stosb", (u64)code + 28, 0x1},
             {"execute mid-instruction", (u64)code + 1, 0x1},
             {"write 4", (u64)data, 0xd0001},
             {"write 1 of 4", (u64)data + 3, 0x10001},
             {"write 8", (u64)data + 64, 0x90001},
             {"read 8", (u64)data + 128, 0xb0001},
             {"write-only at a read", (u64)data + 128, 0x90001},
             {"rep stosb, second", (u64)data + 257, 0x10001},
             {"over a page's end, tail", (u64)data + 4096, 0x10001},
             {"write 2", (u64)data + 192, 0x50001},
             {"write 2, neighbour", (u64)data + 194, 0x50001}};
    for (unsigned i = 0; i < sizeof w / sizeof *w; i++) {
      int pid = start(0);
      if (hot) hotten(pid);
      long e = poke(pid, 0, w[i].at);
      long e7 = poke(pid, 7, w[i].dr7);
      if (e || e7) {
        printf("%s: refused %ld %ld\n", w[i].n, e, e7);
        kill(pid, 9);
        waitpid(pid, 0, 0);
        continue;
      }
      cont(pid);
      int never = strstr(w[i].n, "mid-") || strstr(w[i].n, "write-only") || strstr(w[i].n, "neighbour");
      if (never) {
        usleep(30000);
        int st;
        int r = waitpid(pid, &st, WNOHANG);
        printf("%s: %s\n", w[i].n, r ? "stopped" : "never hit");
      } else
        for (int k = 0; k < 3; k++) {
          stop(w[i].n, pid);
          poke(pid, 6, 0);
          cont(pid);
        }
      kill(pid, 9);
      waitpid(pid, 0, 0);
    }
    // A watchpoint taken away again, and one moved.
    int pid = start(0);
    if (hot) hotten(pid);
    poke(pid, 0, (u64)data);
    poke(pid, 7, 0xd0001);
    cont(pid);
    stop("moved: first", pid);
    poke(pid, 7, 0);
    poke(pid, 0, (u64)data + 64);
    poke(pid, 7, 0x90001);
    cont(pid);
    stop("moved: second", pid);
    poke(pid, 7, 0);
    cont(pid);
    usleep(30000);
    int st;
    printf("removed: %s\n", waitpid(pid, &st, WNOHANG) ? "stopped" : "runs");
    kill(pid, 9);
    waitpid(pid, 0, 0);
    // Steps.
    pid = start(0);
    if (hot) hotten(pid);
    poke(pid, 0, (u64)code);
    poke(pid, 7, 1);
    cont(pid);
    stop("to the loop's start", pid);
    poke(pid, 7, 0);
    for (int k = 0; k < 18; k++) {
      ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
      stop("step", pid);
    }
    errno = 0;
    for (int k = 0; k < 4; k++) {
      if (ptrace(33 /* PTRACE_SINGLEBLOCK */, pid, 0, 0)) {
        printf("block step: errno %d\n", errno);
        break;
      }
      stop("block step", pid);
    }
    kill(pid, 9);
    waitpid(pid, 0, 0);
  }
  // Steps through instructions that are special.
  static const struct {
    const char *n, *hex;
  } odd[] = {
      {"pushf/popf", "9c 58 50 9d 90 c3"},
      {"popf clears TF?", "9c 813424 00010000 9d 90 90 c3"},
      {"mov ss", "8cd0 8ed0 90 90 c3"},
      {"pop ss-like", "668cd0 668ed0 c3"},
      {"syscall", "b827000000 0f05 90 c3"},
      {"int80", "b814000000 cd80 90 c3"},
      {"cpuid", "53 31c0 0fa2 5b c3"},
      {"rdtsc", "0f31 31c0 31d2 c3"},
      {"rep movsb 3", "488db3 00010000 488dbb 00020000 b903000000 f3a4 90 c3"},
      {"rep movsb 0", "31c9 f3a4 90 c3"},
      {"call/ret", "e801000000 c3 90 c3"},
      {"int3", "90 cc 90 c3"},
      {"ud2", "90 0f0b"},
      {"loop", "b902000000 e2fe 90 c3"},
      {"jrcxz", "31c9 e300 90 c3"},
      {"cmovz", "31c0 0f44c1 c3"},
      {"sysret path", "b8ffffffff 0f05 90 c3"},
      {"far ret", "8cc8 50 488d0502000000 50 48cb 90 c3"},
      {"iretq", "4889e0 8cd1 51 50 9c 8cc9 51 488d0504000000 50 48cf 90 90 c3"},
      {"xor avx", "c5f9efc0 c5f877 c3"},
      {"lahf sahf std cld", "9f 9e fd fc c3"},
      {"cli", "fa"},
      {"segv", "8b0425 00000000"},
      {"push [rsp]/pop [rsp]", "ff3424 8f0424 50 58 c3"},
  };
  for (unsigned i = 0; i < sizeof odd / sizeof *odd; i++) {
    memset(code, 0xcc, 4096);
    emit(code, odd[i].hex);
    for (int block = 0; block < 2; block++) {
      int pid = start(0);
      poke(pid, 0, (u64)code);
      poke(pid, 7, 1);
      cont(pid);
      int st;
      waitpid(pid, &st, 0);
      poke(pid, 7, 0);
      poke(pid, 6, 0);
      printf("%s%s:", odd[i].n, block ? " by block" : "");
      for (int k = 0; k < 16; k++) {
        struct user_regs_struct r;
        siginfo_t si;
        u64 top = 0;
        if (ptrace(block ? 33 : PTRACE_SINGLESTEP, pid, 0, 0)) {
          printf(" errno %d", errno);
          break;
        }
        waitpid(pid, &st, 0);
        if (!WIFSTOPPED(st)) {
          printf(" ended %x", st);
          break;
        }
        regs(pid, &r);
        ptrace(PTRACE_GETSIGINFO, pid, 0, &si);
        top = ptrace(PTRACE_PEEKDATA, pid, r.rsp, 0);
        long at = (long)(r.rip - (u64)code);
        if (at < 0 || at > 4096) {
          printf(" out");
          break;
        }
        printf(" %+ld", at);
        if (WSTOPSIG(st) != SIGTRAP) {
          printf(" sig %d code %d", WSTOPSIG(st), si.si_code);
          break;
        }
        if (si.si_code != 2) printf("(code %d)", si.si_code);
        if (r.eflags & 0x100) printf("T");
        if (peek(pid, 6) & 0xf00f) printf("[%llx]", (unsigned long long)peek(pid, 6) & 0xf00f);
        if ((top & ~0xfffull) == 0 && (top & 0x100)) printf("{TF on stack}");
      }
      puts("");
      kill(pid, 9);
      waitpid(pid, 0, 0);
    }
  }
  // perf: a counter of hits on a hot function, and on data that the kernel writes.
  memset(code, 0x90, 64);
  emit(code, "ff03 c3");
  struct perf_event_attr a = {.type = PERF_TYPE_BREAKPOINT,
                              .size = sizeof a,
                              .bp_type = HW_BREAKPOINT_X,
                              .bp_addr = (u64)code,
                              .bp_len = 8,
                              .exclude_kernel = 1,
                              .disabled = 1};
  int fd = syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
  if (fd < 0)
    printf("perf: errno %d\n", errno);
  else {
    for (int i = 0; i < 100000; i++) asm volatile("call *%0" ::"r"(code), "b"(data) : "memory", "cc");
    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
    for (int i = 0; i < 1000; i++) asm volatile("call *%0" ::"r"(code), "b"(data) : "memory", "cc");
    ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
    u64 n = 0;
    if (read(fd, &n, 8) != 8) return 9;
    printf("perf executes: %lu\n", (unsigned long)n);
    close(fd);
    a.bp_type = HW_BREAKPOINT_W;
    a.bp_addr = (u64)data;
    a.bp_len = 4;
    fd = syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
    for (int i = 0; i < 1000; i++) asm volatile("call *%0" ::"r"(code), "b"(data) : "memory", "cc");
    ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
    if (read(fd, &n, 8) != 8) return 9;
    printf("perf writes: %lu\n", (unsigned long)n);
    close(fd);
  }
}

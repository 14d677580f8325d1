// What FNSTENV, FNSAVE, FXSAVE and XSAVE tell of the x87's past: pointers, opcode, tags; MMX and the
// registers it aliases.
#include "caught.h"
u8 out[1024] __attribute__((aligned(64)));
u8 out2[1024] __attribute__((aligned(64)));
double val = 1.5;
u64 mm = 0x8877665544332211ull;
// A switch to another process may take the pointers along (AMD's XSAVE leaves them out unless an exception is
// pending): so what counts is what comes twice.
static u8 before[sizeof out + sizeof out2];
static int settled(void) {
  u8 now[sizeof before];
  memcpy(now, out, sizeof out);
  memcpy(now + sizeof out, out2, sizeof out2);
  int same = !memcmp(now, before, sizeof now);
  memcpy(before, now, sizeof now);
  return same;
}
static void start(void) {
  memset(out, 0x77, sizeof out);
  memset(out2, 0, sizeof out2);
}
#define X87(text)                                                                                   \
  do {                                                                                              \
    start();                                                                                        \
    asm volatile("mov %%rsp,stack(%%rip); lea 1f(%%rip),%0; lea val(%%rip),%%rsi; fninit\n1: " text \
                 "; fninit"                                                                         \
                 : "=&r"(begin)::"rax", "rcx", "rdx", "rsi", "r11", "xmm0", "memory", "cc");        \
  } while (!settled())
u64 stack;
// Pointers as far as `mask` goes: to code, to `val` or to the stack.
static void pointers(u64 ip, u64 dp, u64 begin, u64 mask) {
  long at = (long)(dp - ((u64)&val & mask)), on_stack = (long)(dp - (stack & mask));
  if (ip)
    printf(" ip %+ld", (long)(ip - (begin & mask)));
  else
    printf(" ip 0");
  if (!dp)
    printf(" dp 0");
  else if (labs(on_stack) < 64)
    printf(" dp stack %+ld", on_stack);
  else
    printf(" dp %+ld", at);
}
static void env(const char* name, u64 begin) {
  u32* e = (u32*)out;
  printf("%s: cw %04x sw %04x tw %04x", name, e[0] & 0xffff, e[1] & 0xffff, e[2] & 0xffff);
  pointers(e[3], e[5], begin, ~0u);
  printf(" cs/op %08x ds %08x\n", e[4], e[6]);
}
#define ENV(text)                     \
  do {                                \
    u64 begin;                        \
    X87(text "; fnstenv out(%%rip)"); \
    env(text, begin);                 \
    X87(text "; fnsave out(%%rip)");  \
    env("fnsave: " text, begin);      \
  } while (0)
#define ENV16(text)                                                                                   \
  do {                                                                                                \
    u64 begin;                                                                                        \
    X87(text "; .byte 0x66; fnstenv out(%%rip)");                                                     \
    u16* e = (u16*)out;                                                                               \
    printf("16: " text ": %04x %04x %04x ip %s cs %04x dp %s ds %04x\n", e[0], e[1], e[2],            \
           e[3] == (u16)begin ? "+0" : "wrong", e[4], e[5] == (u16)(u64)&val ? "+0" : "other", e[6]); \
  } while (0)
static void registers(void) {
  for (int i = 0; i < 8; i++) {
    printf(" st%d ", i);
    for (int j = 9; j >= 0; j--) printf("%02x", out[32 + 16 * i + j]);
    int z = 0;
    for (int j = 10; j < 16; j++) z |= out[32 + 16 * i + j];
    if (z) printf(" tail");
  }
  puts("");
}
static void fx(const char* name, u64 begin) {
  printf("%s: cw %04x sw %04x tw %02x op %03x", name, *(u16*)out, *(u16*)(out + 2), out[4],
         *(u16*)(out + 6) & 0x7ff);
  pointers(*(u64*)(out + 8), *(u64*)(out + 16), begin, ~0ull);
  puts("");
}
#define FX(text)                                                                \
  do {                                                                          \
    u64 begin;                                                                  \
    X87(text "; fxsave64 out(%%rip); fnstenv out2(%%rip)");                     \
    fx("fx: " text, begin);                                                     \
    printf(" tags %04x", *(u16*)(out2 + 8));                                    \
    registers();                                                                \
    X87(text "; mov $1,%%eax; xor %%edx,%%edx; xsave64 out(%%rip)");            \
    fx("xsave: " text, begin);                                                  \
    X87(text "; fxsave out(%%rip)");                                            \
    printf(" narrow: cs %08x ds %08x\n", *(u32*)(out + 12), *(u32*)(out + 20)); \
  } while (0)
#define BOTH(text) \
  do {             \
    ENV(text);     \
    FX(text);      \
  } while (0)
static void all(void) {
  ENV("fldz");
  ENV("fld1; nop; nop; fld1");
  ENV("fldl val(%%rip)");
  ENV("fldl val(%%rip); fmull val(%%rip)");
  ENV("fldl val(%%rip); fincstp");
  ENV("fldl val(%%rip); fnstsw %%ax");
  ENV("fldl val(%%rip); fldcw out2(%%rip); fldz");
  ENV("fldz; movq mm(%%rip),%%mm3");
  ENV("fldz; fldz; movq mm(%%rip),%%mm3; emms");
  ENV("fldz; fxch; ffree %%st(0)");
  ENV("fld1; fld1; fdecstp; fstp %%st(0)");
  ENV("fldz; mov $39,%%eax; syscall");
  ENV("fldl val(%%rip); jmp 9f; 9: nop");
  ENV("fldz; pushfq; popfq");
  ENV("fldz; push %%rbx; cpuid; pop %%rbx");
  ENV("fldl val(%%rip); fstpl val(%%rip)");
  ENV("fldz; fldz; fdivp");
  ENV("fldz; fld1; fdivp; fwait");
  ENV("flds val(%%rip); fcompp");
  ENV("fldl val(%%rip); fxsave64 out2(%%rip); fxrstor64 out2(%%rip)");
  ENV("fldl val(%%rip); fnsave out2(%%rip); frstor out2(%%rip)");
  ENV("fldl (%%rsi); xor %%esi,%%esi");
  ENV("mov $1,%%ecx; fldl -8(%%rsi,%%rcx,8); xor %%ecx,%%ecx");
  ENV("fldl (%%rsi); add $8,%%rsi; fld1");
  ENV("fldl (%%rsi); faddl val(%%rip); fsts -8(%%rsp); fxch; fld1");
  ENV("push (%%rsi); fldl (%%rsp); pop %%rax; fnstsw %%ax");
  ENV("fldl (%%rsi); fnclex");
  ENV("fldl (%%rsi); fninit; fld1");
  ENV("fldl (%%esi)");
  // Exceptions that are pending: divisions by zero, unmasked before and after.
  BOTH("fldcw out2(%%rip); fld1; fldz; fdivrp");
  BOTH("fldcw out2(%%rip); fldz; fdivrl (%%rsi)");
  BOTH("fldcw out2(%%rip); fldz; fdivrl (%%rsi); fnclex");
  BOTH("fld1; fldz; fdivrp; fldcw out2(%%rip)");
  BOTH("fldl (%%rsi); fldz; fdivrp; fldcw out2(%%rip); xor %%esi,%%esi");
  ENV16("fldz");
  ENV16("fldl val(%%rip)");
  FX("fldz");
  FX("fldpi; fldl val(%%rip)");
  FX("fldpi; movq mm(%%rip),%%mm3");
  FX("fldpi; fldz; fincstp; movq mm(%%rip),%%mm0; paddb %%mm0,%%mm0; emms");
  FX("fldz; fldz; fdivp");
  FX("fldl val(%%rip); fsts out2(%%rip)");
  FX("fld1; fldz; ffree %%st(1)");
  FX("fldz; cvtpi2pd mm(%%rip),%%xmm0");
  FX("fldz; cvtpi2ps mm(%%rip),%%xmm0");
  FX("fldz; movq2dq %%mm2,%%xmm0");
  FX("fldpi; fxch %%st(7)");
}
int main(void) {
  all();
  warm(0.05);
  puts("hot");
  for (int i = 0; i < 3; i++) all();
}

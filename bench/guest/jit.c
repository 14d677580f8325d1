/* Machine code made while running, as just-in-time compilers do: writes a function, allows its execution,
 * calls it some hundred times, and writes the next one in its place. */
#include <string.h>
#include <sys/mman.h>

#include "measure.h"

enum { PAGE = 4096, CALLS = 200 };

typedef uint64_t (*Function)(uint64_t);

static unsigned char* put(unsigned char* at, const char* bytes, size_t size, uint32_t constant) {
  memcpy(at, bytes, size);
  memcpy(at + size, &constant, sizeof constant);
  return at + size + sizeof constant;
}

/* x -> (x * a + b) ^ c, as steps over and over with other constants. */
static void write_function(unsigned char* code, uint64_t* random) {
  static const char begin[] = {'\x48', '\x89', '\xf8'};    /* mov rax, rdi */
  static const char multiply[] = {'\x48', '\x69', '\xc0'}; /* imul rax, rax, constant */
  static const char add[] = {'\x48', '\x05'};              /* add rax, constant */
  static const char exclusive_or[] = {'\x48', '\x35'};     /* xor rax, constant */
  memcpy(code, begin, sizeof begin);
  code += sizeof begin;
  for (int step = 0; step < 20; step++) {
    code = put(code, multiply, sizeof multiply, (uint32_t)(next_random(random) >> 32) | 1);
    code = put(code, add, sizeof add, (uint32_t)(next_random(random) >> 32));
    code = put(code, exclusive_or, sizeof exclusive_or, (uint32_t)(next_random(random) >> 32));
  }
  *code = 0xc3; /* ret */
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 40000);
  unsigned char* const code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code == MAP_FAILED) return failed("mmap");
  uint64_t random = 1;
  uint64_t value = 1;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    if (mprotect(code, PAGE, PROT_READ | PROT_WRITE) != 0) return failed("mprotect");
    write_function(code, &random);
    if (mprotect(code, PAGE, PROT_READ | PROT_EXEC) != 0) return failed("mprotect");
    Function function;
    memcpy(&function, &code, sizeof function);
    for (int call = 0; call < CALLS; call++) value = function(value);
  }
  return report(now_seconds() - begin, value);
}

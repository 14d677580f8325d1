/* Deep calls: Fibonacci numbers by recursion, each call a call (see bench/CMakeLists.txt). */
#include "measure.h"

static uint64_t fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 8000);
  uint64_t sum = 0;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) sum += fibonacci(20 + i % 2);
  return report(now_seconds() - begin, sum);
}

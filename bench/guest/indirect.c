/* Indirect calls: functions from a table, in an order that no predictor learns. */
#include "measure.h"

typedef uint64_t (*Function)(uint64_t);

static uint64_t add(uint64_t x) { return x + 0x9e3779b97f4a7c15ULL; }
static uint64_t subtract(uint64_t x) { return x - 0x1234567; }
static uint64_t invert(uint64_t x) { return ~x; }
static uint64_t negate(uint64_t x) { return -x; }
static uint64_t double_it(uint64_t x) { return x * 2 + 1; }
static uint64_t fold(uint64_t x) { return x ^ (x >> 17); }
static uint64_t turn(uint64_t x) { return x << 13 | x >> 51; }
static uint64_t spread(uint64_t x) { return x * 0x100000001b3ULL; }

int main(int argc, char** argv) {
  static Function const volatile table[] = {add, subtract, invert, negate, double_it, fold, turn, spread};
  const unsigned long count = count_argument(argc, argv, 35000000);
  uint64_t random = 1;
  uint64_t value = 1;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) value = table[next_random(&random) >> 61](value);
  return report(now_seconds() - begin, value);
}

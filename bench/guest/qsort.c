/* Sorting 65536 random integers with the C library's qsort and a comparison function. */
#include "measure.h"

enum { NUMBERS = 65536 };

static int compare(const void* left, const void* right) {
  const int a = *(const int*)left;
  const int b = *(const int*)right;
  return (a > b) - (a < b);
}

int main(int argc, char** argv) {
  static int numbers[NUMBERS];
  const unsigned long count = count_argument(argc, argv, 50);
  uint64_t random = 1;
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    for (size_t n = 0; n < NUMBERS; n++) numbers[n] = (int)(next_random(&random) >> 32);
    qsort(numbers, NUMBERS, sizeof numbers[0], compare);
    for (size_t n = 0; n < NUMBERS; n += 1021) hash = hash_step(hash, (uint64_t)numbers[n]);
  }
  return report(now_seconds() - begin, hash);
}

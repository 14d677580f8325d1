/* Streaming: reads and writes 64 MiB from the first word to the last. */
#include "measure.h"

enum { WORDS = 64 * 1024 * 1024 / 8 };

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 40);
  uint64_t* const words = malloc((size_t)WORDS * sizeof *words);
  if (words == NULL) return failed("malloc");
  for (size_t i = 0; i < WORDS; i++) words[i] = i;
  uint64_t sum = 0;
  const double begin = now_seconds();
  for (unsigned long sweep = 0; sweep < count; sweep++) {
    for (size_t i = 0; i < WORDS; i++) {
      sum += words[i];
      words[i] = sum;
    }
  }
  return report(now_seconds() - begin, sum);
}

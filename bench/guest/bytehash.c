/* Hashing a buffer of 1 MiB byte by byte: FNV-1a, a chain of multiplications. */
#include "measure.h"

enum { SIZE = 1024 * 1024 };

int main(int argc, char** argv) {
  static unsigned char buffer[SIZE];
  const unsigned long count = count_argument(argc, argv, 300);
  uint64_t random = 1;
  for (size_t i = 0; i < SIZE; i++) buffer[i] = (unsigned char)(next_random(&random) >> 56);
  uint64_t hash = 0;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    buffer[i % SIZE] += (unsigned char)(hash >> 32) | 1;
    hash = hash_bytes(buffer, SIZE);
  }
  return report(now_seconds() - begin, hash);
}

/* The C library's strings, of many lengths: copying, searching, comparing, in whatever vectors it chooses. */
#include <string.h>

#include "measure.h"

enum { SIZE = 4096, OFFSETS = 64 };

static char source[SIZE + OFFSETS + 1];
static char target[SIZE + OFFSETS + 1];

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 4000000);
  uint64_t random = 1;
  uint64_t hash = HASH_START;
  for (size_t i = 0; i < SIZE + OFFSETS; i++) source[i] = (char)('a' + (next_random(&random) >> 32) % 25);
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    const uint64_t draw = next_random(&random);
    /* Mostly short, as strings are. */
    const size_t length = 1 + (draw >> 20) % (draw % 16 == 0 ? SIZE : 64);
    char* const from = source + (draw >> 40) % OFFSETS;
    char* const to = target + (draw >> 50) % OFFSETS;
    memcpy(to, from, length);
    to[length - 1] = 'z';
    to[length] = '\0';
    hash = hash_step(hash, strlen(to) + (size_t)(strchr(to, 'z') - to));
    hash = hash_step(hash, strncmp(from, to, length) > 0);
    memmove(to + 1, to, length / 2);
    hash = hash_step(hash, memcmp(to, from, length) == 0);
    memset(to, 'y', length / 2);
    hash = hash_step(hash, strstr(to, "yz") != NULL);
  }
  const double seconds = now_seconds() - begin;
  return report(seconds, hash_step(hash, hash_bytes(target, SIZE)));
}

/* What the programs share: the count from the command line, the clock, the report, random numbers, a hash. */
#ifndef VERT_BENCH_MEASURE_H
#define VERT_BENCH_MEASURE_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double now_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The first argument as a count of at least 1, or `preset` if there is none. */
static inline unsigned long count_argument(int argc, char** argv, unsigned long preset) {
  if (argc < 2) return preset;
  char* end = NULL;
  errno = 0;
  const unsigned long count = strtoul(argv[1], &end, 10);
  if (errno != 0 || end == argv[1] || *end != '\0' || count == 0 || argc > 2) {
    fprintf(stderr, "usage: %s [COUNT]\n", argv[0]);
    exit(2);
  }
  return count;
}

/* Prints how long it took and what was computed: for the same count, the same on every processor. */
static inline int report(double seconds, uint64_t checksum) {
  printf("%.9f %016lx\n", seconds, (unsigned long)checksum);
  return fflush(stdout) == 0 ? 0 : 1;
}

/* For the exit status of main(): says what failed, and why. */
static inline int failed(const char* what) {
  perror(what);
  return 1;
}

/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled"). */
static inline uint64_t next_random(uint64_t* state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1dULL;
}

#define HASH_START 0xcbf29ce484222325ULL

/* FNV-1a's step, for a byte; for a word it mixes well enough to tell results apart. */
static inline uint64_t hash_step(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x100000001b3ULL; }

static inline uint64_t hash_bytes(const void* data, size_t size) {
  const unsigned char* const bytes = data;
  uint64_t hash = HASH_START;
  for (size_t i = 0; i < size; i++) hash = hash_step(hash, bytes[i]);
  return hash;
}

#endif

/* What the four programs share: the count from the command line, and the time they took. One thread. */
#ifndef VERT_BENCH_MEASURE_H
#define VERT_BENCH_MEASURE_H

#include <errno.h>
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

static inline int report_seconds(double begin) {
  printf("%.9f\n", now_seconds() - begin);
  return fflush(stdout) == 0 ? 0 : 1;
}

#endif

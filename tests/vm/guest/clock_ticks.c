/* Prints `tick NANOSECONDS` of CLOCK_MONOTONIC twenty times a second, for as many seconds as it is told. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char** argv) {
  const long seconds = argc == 2 ? strtol(argv[1], NULL, 10) : 10;
  const struct timespec pause = {.tv_nsec = 50000000};
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const time_t end = now.tv_sec + seconds;
  while (now.tv_sec < end) {
    printf("tick %lld\n", (long long)now.tv_sec * 1000000000 + now.tv_nsec);
    fflush(stdout);
    nanosleep(&pause, NULL);
    clock_gettime(CLOCK_MONOTONIC, &now);
  }
  printf("ticks over\n");
  return 0;
}

/* ping_pong ROUNDS: a byte goes to and fro between two threads, on different processors if there are several.
   Both sleep while it is away, so each turn wakes an idle processor by an interrupt. Prints the longest
   round. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int to_there[2];
static int to_here[2];
static long rounds;

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

static long long now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (long long)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void* answer(void* unused) {
  char byte;
  pin(1);
  for (long i = 0; i < rounds; ++i)
    if (read(to_there[0], &byte, 1) != 1 || write(to_here[1], &byte, 1) != 1) exit(1);
  return unused;
}

int main(int argc, char** argv) {
  rounds = argc == 2 ? strtol(argv[1], NULL, 10) : 1000;
  pthread_t thread;
  if (pipe(to_there) != 0 || pipe(to_here) != 0) return 1;
  pin(0);
  if (pthread_create(&thread, NULL, answer, NULL) != 0) return 1;
  long long longest = 0;
  char byte = 0;
  for (long i = 0; i < rounds; ++i) {
    const long long begin = now_ns();
    if (write(to_there[1], &byte, 1) != 1 || read(to_here[0], &byte, 1) != 1) return 1;
    const long long took = now_ns() - begin;
    if (took > longest) longest = took;
  }
  pthread_join(thread, NULL);
  printf("ping-pong longest %lld ms\n", longest / 1000000);
  return 0;
}

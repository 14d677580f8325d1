/* timer_latency SECONDS: on each processor a thread sleeps until one moment after the other, 100 us, 1 ms and
   10 ms apart in turn. Prints how many woke how late, in powers of two, and the latest. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { kMostProcessors = 64, kBuckets = 40 };

static const long long kIntervals[] = {100000, 1000000, 10000000};
static long long seconds;

struct Sleeper {
  pthread_t thread;
  int processor;
  long long counts[kBuckets]; /* bucket i: less than 2^i microseconds late */
  long long latest;
};

static long long now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (long long)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void note(struct Sleeper* sleeper, long long late) {
  int bucket = 0;
  while (bucket < kBuckets - 1 && late >= 1000LL << bucket) ++bucket;
  ++sleeper->counts[bucket];
  if (late > sleeper->latest) sleeper->latest = late;
}

static void* run(void* argument) {
  struct Sleeper* sleeper = argument;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(sleeper->processor, &set);
  sched_setaffinity(0, sizeof set, &set);
  const long long end = now_ns() + seconds * 1000000000;
  for (unsigned turn = 0; now_ns() < end; ++turn) {
    const long long interval = kIntervals[turn / 64 % 3];
    const long long at = now_ns() + interval;
    const struct timespec until = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    note(sleeper, now_ns() - at);
  }
  return NULL;
}

int main(int argc, char** argv) {
  static struct Sleeper sleepers[kMostProcessors];
  seconds = argc == 2 ? strtol(argv[1], NULL, 10) : 5;
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  const int count = online < kMostProcessors ? (int)online : kMostProcessors;
  for (int i = 0; i < count; ++i) {
    sleepers[i].processor = i;
    if (pthread_create(&sleepers[i].thread, NULL, run, &sleepers[i]) != 0) return 1;
  }
  long long counts[kBuckets] = {0};
  long long latest = 0;
  for (int i = 0; i < count; ++i) {
    pthread_join(sleepers[i].thread, NULL);
    for (int bucket = 0; bucket < kBuckets; ++bucket) counts[bucket] += sleepers[i].counts[bucket];
    if (sleepers[i].latest > latest) latest = sleepers[i].latest;
  }
  for (int bucket = 0; bucket < kBuckets; ++bucket)
    if (counts[bucket] != 0) printf("less than %lld us: %lld\n", 1LL << bucket, counts[bucket]);
  printf("timer-latency latest %lld ms\n", latest / 1000000);
  return 0;
}

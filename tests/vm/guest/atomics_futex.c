/* Threads that share counters through locked instructions and futexes; says `atomics-futex ok` if all adds
 * up.
 *
 *   atomics_futex THREADS TURNS
 *
 * Each thread, TURNS times: adds atomically, adds with a compare-and-exchange loop of 16 bytes, adds under a
 * mutex (contended, so it sleeps in the kernel), and meets the others at a barrier every so often. Then pairs
 * of threads play ping-pong through a futex of their own. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kMaxThreads = 64, kBarrierEvery = 1024, kPongs = 500 };

static unsigned thread_count;
static unsigned long turns;
static _Atomic uint64_t added;
static struct { uint64_t low, high; } wide __attribute__((aligned(16)));
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t guarded;
static pthread_barrier_t barrier;
static _Atomic uint32_t ball[kMaxThreads / 2];

/* Both halves count together: if they ever differ, the exchange was torn. */
static void add_wide(void) {
  uint64_t low = 0;
  uint64_t high = 0;
  unsigned char done = 0;
  do {
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(done), "+m"(wide), "+a"(low), "+d"(high)
                     : "b"(low + 1), "c"(high + 1)
                     : "memory");
  } while (!done);
}

static void futex(_Atomic uint32_t* word, int operation, uint32_t value) {
  syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void play(_Atomic uint32_t* word, uint32_t mine) {
  for (int pong = 0; pong < kPongs; pong++) {
    while (atomic_load(word) % 2 != mine) futex(word, FUTEX_WAIT, 1 - mine);
    atomic_fetch_xor(word, 1);
    futex(word, FUTEX_WAKE, 1);
  }
}

static void* work(void* argument) {
  const unsigned number = (unsigned)(uintptr_t)argument;
  for (unsigned long turn = 0; turn < turns; turn++) {
    atomic_fetch_add(&added, 1);
    add_wide();
    pthread_mutex_lock(&mutex);
    guarded++;
    pthread_mutex_unlock(&mutex);
    if (turn % kBarrierEvery == 0) pthread_barrier_wait(&barrier);
  }
  if ((number ^ 1) < thread_count) play(&ball[number / 2], number % 2);
  return NULL;
}

int main(int argc, char** argv) {
  if (argc == 3) {
    thread_count = (unsigned)strtoul(argv[1], NULL, 10);
    turns = strtoul(argv[2], NULL, 10);
  }
  if (thread_count < 1 || thread_count > kMaxThreads || turns < 1) {
    fprintf(stderr, "usage: atomics_futex THREADS TURNS\n");
    return 2;
  }
  pthread_t threads[kMaxThreads];
  pthread_barrier_init(&barrier, NULL, thread_count);
  for (unsigned i = 0; i < thread_count; i++) {
    if (pthread_create(&threads[i], NULL, work, (void*)(uintptr_t)i) != 0) return 2;
  }
  for (unsigned i = 0; i < thread_count; i++) pthread_join(threads[i], NULL);

  const uint64_t expected = (uint64_t)thread_count * turns;
  const int right =
      atomic_load(&added) == expected && wide.low == expected && wide.high == expected && guarded == expected;
  printf("atomics-futex %s: %u threads, %lu turns, added %lu, exchanged %lu and %lu, guarded %lu\n",
         right ? "ok" : "WRONG", thread_count, turns, (unsigned long)atomic_load(&added),
         (unsigned long)wide.low, (unsigned long)wide.high, (unsigned long)guarded);
  return right ? 0 : 1;
}

/* Two threads that take turns through a mutex and condition variables: futexes and the scheduler. */
#include <pthread.h>

#include "measure.h"
#include "one_processor.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed[2] = {PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER};
static unsigned long turns_left;
static int turn;
static uint64_t hash = HASH_START;

/* Takes each turn that is this thread's, until there are no more. */
static void* take_turns(void* argument) {
  const int self = *(const int*)argument;
  pthread_mutex_lock(&mutex);
  while (turns_left > 0) {
    if (turn != self) {
      pthread_cond_wait(&changed[self], &mutex);
      continue;
    }
    turns_left--;
    hash = hash_step(hash, turns_left ^ (uint64_t)self);
    turn = 1 - self;
    pthread_cond_signal(&changed[turn]);
  }
  pthread_cond_signal(&changed[1 - self]);
  pthread_mutex_unlock(&mutex);
  return NULL;
}

int main(int argc, char** argv) {
  static const int selves[2] = {0, 1};
  turns_left = count_argument(argc, argv, 200000);
  pthread_t threads[2];
  if (use_one_processor() != 0) return failed("processor");
  const double begin = now_seconds();
  for (int i = 0; i < 2; i++) {
    errno = pthread_create(&threads[i], NULL, take_turns, (void*)&selves[i]);
    if (errno != 0) return failed("thread");
  }
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  return report(now_seconds() - begin, hash);
}

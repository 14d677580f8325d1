/* Signals: the process sends itself one, and handles it, over and over. */
#include <signal.h>
#include <unistd.h>

#include "measure.h"

static volatile sig_atomic_t handled;

static void handle(int number) { handled += number; }

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 250000);
  const struct sigaction action = {.sa_handler = handle};
  if (sigaction(SIGUSR1, &action, NULL) != 0) return failed("sigaction");
  const pid_t self = getpid();
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    if (kill(self, SIGUSR1) != 0) return failed("kill");
    hash = hash_step(hash, (uint64_t)handled);
    handled %= 1000;
  }
  return report(now_seconds() - begin, hash);
}

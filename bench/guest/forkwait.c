/* Making and burying processes: page tables, copy on write, the scheduler. */
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 5000);
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    const pid_t child = fork();
    if (child == 0) _exit((int)(i % 100));
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return failed("fork and wait");
    hash = hash_step(hash, (uint64_t)status);
  }
  return report(now_seconds() - begin, hash);
}

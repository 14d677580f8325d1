/* Starting programs: fork, exec of this small static program anew, wait. */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

static pid_t start(const char* program, unsigned long number) {
  char text[8];
  snprintf(text, sizeof text, "%lu", number % 100);
  const pid_t child = fork();
  if (child != 0) return child;
  execl(program, program, "child", text, (char*)NULL);
  _exit(127);
}

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "child") == 0) return atoi(argv[2]);
  const unsigned long count = count_argument(argc, argv, 800);
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    const pid_t child = start(argv[0], i);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return failed("fork, exec and wait");
    hash = hash_step(hash, (uint64_t)status);
  }
  return report(now_seconds() - begin, hash);
}

/* Making and burying processes: page tables, copy on write, the scheduler. */
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 1000);
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
      perror("fork and wait");
      return 1;
    }
  }
  return report_seconds(begin);
}

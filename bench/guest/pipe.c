/* Two processes that wait for each other: a byte goes through a pipe and comes back, one greater, through
 * another. */
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"
#include "one_processor.h"

/* Sends back what comes until there is no more. */
static void echo(int from, int to) {
  unsigned char byte;
  while (read(from, &byte, 1) == 1) {
    byte++;
    if (write(to, &byte, 1) != 1) _exit(1);
  }
  _exit(0);
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 130000);
  int there[2];
  int back[2];
  if (use_one_processor() != 0 || pipe(there) != 0 || pipe(back) != 0) return failed("pipes");
  const pid_t child = fork();
  if (child == 0) {
    close(there[1]);
    echo(there[0], back[1]);
  }
  if (child < 0) return failed("fork");
  uint64_t hash = HASH_START;
  unsigned char byte = 0;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) return failed("pipe");
    hash = hash_step(hash, byte);
  }
  const int status = report(now_seconds() - begin, hash);
  close(there[1]);
  return waitpid(child, NULL, 0) == child ? status : 1;
}

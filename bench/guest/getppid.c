/* The cheapest system call, made for certain: syscall(2) goes round any caching in the C library. */
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 4000000);
  const long parent = syscall(SYS_getppid);
  unsigned long same = 0;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) same += syscall(SYS_getppid) == parent;
  return report(now_seconds() - begin, same);
}

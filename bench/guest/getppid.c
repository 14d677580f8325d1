/* The cheapest system call, made for certain: syscall(2) goes round any caching in the C library. */
#include <sys/syscall.h>
#include <unistd.h>

#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 1000000);
  const long parent = syscall(SYS_getppid);
  long differences = 0;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) differences |= syscall(SYS_getppid) ^ parent;
  const int status = report_seconds(begin);
  return differences == 0 ? status : 1;
}

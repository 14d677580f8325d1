/* Reading the clock: user code of the vDSO and RDTSC where the guest trusts its TSC, else a system call. */
#include <sys/time.h>

#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 1000000);
  struct timeval t;
  long seconds = 0;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    gettimeofday(&t, NULL);
    seconds |= t.tv_sec;
  }
  const int status = report_seconds(begin);
  return seconds >= 0 ? status : 1;
}

/* Reading the clock: user code of the vDSO and RDTSC where the guest trusts its TSC, else a system call. */
#include <sys/time.h>

#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 16000000);
  struct timeval t;
  unsigned long valid = 0;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    valid += gettimeofday(&t, NULL) == 0 && (unsigned long)t.tv_usec < 1000000;
  }
  return report(now_seconds() - begin, valid);
}

/* The C library's mathematics: sin, exp, sqrt and pow of doubles. */
#include <math.h>

#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 14000000);
  double sum = 0;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    const double x = (double)(i % 1000000) * 1e-5;
    sum += sin(x) + exp(-x) + sqrt(x) + pow(1.0 + x, 0.75);
  }
  /* The C library chooses its code by processor; results may differ in the last bit of each. */
  return report(now_seconds() - begin, (uint64_t)llrint(sum / (double)count * 1e9));
}

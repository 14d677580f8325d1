/* Plain computation: a loop that adds, compiled without optimisation so that every turn is run. */
#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 160000000);
  const double begin = now_seconds();
  unsigned long sum = 0;
  for (unsigned long i = 0; i < count; i++) sum += i;
  return report(now_seconds() - begin, sum);
}

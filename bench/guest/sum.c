/* Plain computation: a loop that adds, compiled without optimisation so that every turn is run. */
#include "measure.h"

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 100000000);
  const double begin = now_seconds();
  unsigned long sum = 0;
  for (unsigned long i = 0; i < count; i++) sum += i;
  const int status = report_seconds(begin);
  /* Modulo 2^64: a processor or translator that adds wrongly must not pass for a fast one. */
  const unsigned long expected = count % 2 == 0 ? (count / 2) * (count - 1) : count * ((count - 1) / 2);
  return sum == expected ? status : 1;
}

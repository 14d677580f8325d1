/* Multiplying matrices of doubles, 128 by 128, in the order that runs along rows: SSE2. */
#include "measure.h"

enum { N = 128 };

static double a[N][N];
static double b[N][N];
static double c[N][N];

static void multiply(void) {
  for (int i = 0; i < N; i++) {
    for (int k = 0; k < N; k++) {
      const double factor = a[i][k];
      for (int j = 0; j < N; j++) c[i][j] += factor * b[k][j];
    }
  }
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 1000);
  uint64_t random = 1;
  for (int i = 0; i < N; i++) {
    for (int j = 0; j < N; j++) {
      a[i][j] = (double)(next_random(&random) >> 40) * 0x1p-24;
      b[i][j] = (double)(next_random(&random) >> 40) * 0x1p-24;
    }
  }
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) multiply();
  const double seconds = now_seconds() - begin;
  return report(seconds, hash_bytes(c, sizeof c));
}

/* Dependent loads: each tells where the next one is, in a random cycle through all cache lines of 16 MiB. */
#include "measure.h"

enum { LINE = 64, NODES = 16 * 1024 * 1024 / LINE };

struct Node {
  struct Node* next;
  uint64_t number;
  char rest[LINE - 16];
};

/* Sattolo's algorithm: a random permutation that is one cycle. */
static void make_cycle(struct Node* nodes, uint32_t* order) {
  uint64_t random = 1;
  for (uint32_t i = 0; i < NODES; i++) order[i] = i;
  for (uint32_t i = NODES - 1; i > 0; i--) {
    const uint32_t other = (uint32_t)(next_random(&random) % i);
    const uint32_t kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
  for (uint32_t i = 0; i < NODES; i++) {
    nodes[order[i]].next = &nodes[order[(i + 1) % NODES]];
    nodes[order[i]].number = order[i];
  }
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 3000000);
  struct Node* const nodes = aligned_alloc(LINE, (size_t)NODES * sizeof *nodes);
  uint32_t* const order = malloc((size_t)NODES * sizeof *order);
  if (nodes == NULL || order == NULL) return failed("malloc");
  make_cycle(nodes, order);
  const struct Node* node = nodes;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) node = node->next;
  return report(now_seconds() - begin, node->number);
}

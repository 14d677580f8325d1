/* An ordered index as databases have it: a B-tree in memory, filled with random keys, then searched and
 * scanned. */
#include <string.h>

#include "measure.h"

enum { HALF = 16, MAX_KEYS = 2 * HALF - 1, MAX_NODES = 16384, ROWS = 100000, LOOKUPS = 100000 };

struct Node {
  int keys;
  int leaf;
  uint64_t key[MAX_KEYS];
  struct Node* child[MAX_KEYS + 1];
};

static struct Node nodes[MAX_NODES];
static size_t used_nodes;
static struct Node* root;

static struct Node* new_node(int leaf) {
  struct Node* const node = &nodes[used_nodes++];
  node->keys = 0;
  node->leaf = leaf;
  return node;
}

/* The first position whose key is not less. */
static int position_of(const struct Node* node, uint64_t key) {
  int low = 0;
  int high = node->keys;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (node->key[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/* Splits a full child in two; its middle key comes up. */
static void split_child(struct Node* parent, int at) {
  struct Node* const left = parent->child[at];
  struct Node* const right = new_node(left->leaf);
  right->keys = left->keys = HALF - 1;
  memcpy(right->key, left->key + HALF, (HALF - 1) * sizeof right->key[0]);
  memcpy(right->child, left->child + HALF, HALF * sizeof right->child[0]);
  const size_t behind = (size_t)(parent->keys - at);
  memmove(parent->key + at + 1, parent->key + at, behind * sizeof parent->key[0]);
  memmove(parent->child + at + 2, parent->child + at + 1, behind * sizeof parent->child[0]);
  parent->key[at] = left->key[HALF - 1];
  parent->child[at + 1] = right;
  parent->keys++;
}

static void insert(uint64_t key) {
  if (root->keys == MAX_KEYS) {
    struct Node* const top = new_node(0);
    top->child[0] = root;
    root = top;
    split_child(root, 0);
  }
  struct Node* node = root;
  while (!node->leaf) {
    int at = position_of(node, key);
    if (node->child[at]->keys == MAX_KEYS) {
      split_child(node, at);
      if (node->key[at] < key) at++;
    }
    node = node->child[at];
  }
  const int at = position_of(node, key);
  memmove(node->key + at + 1, node->key + at, (size_t)(node->keys - at) * sizeof node->key[0]);
  node->key[at] = key;
  node->keys++;
}

static int contains(uint64_t key) {
  for (const struct Node* node = root;;) {
    const int at = position_of(node, key);
    if (at < node->keys && node->key[at] == key) return 1;
    if (node->leaf) return 0;
    node = node->child[at];
  }
}

static uint64_t scan(const struct Node* node, uint64_t hash) {
  for (int i = 0; i < node->keys; i++) {
    if (!node->leaf) hash = scan(node->child[i], hash);
    hash = hash_step(hash, node->key[i]);
  }
  return node->leaf ? hash : scan(node->child[node->keys], hash);
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 12);
  uint64_t random = 1;
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    used_nodes = 0;
    root = new_node(1);
    for (int row = 0; row < ROWS; row++) insert(next_random(&random) >> 40);
    uint64_t found = 0;
    for (int lookup = 0; lookup < LOOKUPS; lookup++) found += (uint64_t)contains(next_random(&random) >> 40);
    hash = scan(root, hash_step(hash, found));
  }
  return report(now_seconds() - begin, hash);
}

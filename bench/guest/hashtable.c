/* A hash table of 2^17 places with open addressing: half look-ups, the rest insertions and removals. */
#include "measure.h"

enum { PLACES = 1 << 17, KEYS = 80000 };

struct Entry {
  uint64_t key; /* 0: free */
  uint64_t value;
};

static struct Entry table[PLACES];

static size_t place_of(uint64_t key) { return (size_t)(key * 0x9e3779b97f4a7c15ULL >> 47); }

/* Where the key is, or the free place where it would be. */
static size_t find(uint64_t key) {
  size_t place = place_of(key);
  while (table[place].key != key && table[place].key != 0) place = (place + 1) % PLACES;
  return place;
}

/* Moves what follows back, so that no search ends too early at the place that gets free. */
static void remove_at(size_t place) {
  for (size_t next = (place + 1) % PLACES; table[next].key != 0; next = (next + 1) % PLACES) {
    const size_t distance_home = (next - place_of(table[next].key)) % PLACES;
    if (distance_home < (next - place) % PLACES) continue;
    table[place] = table[next];
    place = next;
  }
  table[place].key = 0;
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 25000000);
  uint64_t random = 1;
  uint64_t hash = HASH_START;
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    const uint64_t draw = next_random(&random);
    const uint64_t key = 1 + (draw >> 32) % KEYS;
    const size_t place = find(key);
    const unsigned action = draw % 8;
    if (action < 4) {
      hash = hash_step(hash, table[place].key != 0 ? table[place].value : 0);
    } else if (action < 7) {
      table[place] = (struct Entry){key, draw};
    } else if (table[place].key != 0) {
      remove_at(place);
    }
  }
  return report(now_seconds() - begin, hash);
}

/* Compression: packs 256 KiB of text with matches found in hash chains, as LZ77 does; unpacks it again. */
#include <string.h>

#include "measure.h"

enum {
  SIZE = 256 * 1024,
  WINDOW = 32 * 1024,
  HASH_BITS = 15,
  MIN_MATCH = 4,
  MAX_MATCH = 255,
  MAX_CHAIN = 32,
  NOWHERE = -1
};

static unsigned char plain[SIZE];
static unsigned char packed[SIZE * 2];
static unsigned char unpacked[SIZE];
static int heads[1 << HASH_BITS];
static int previous[WINDOW];

/* Words that come back as those of a language do. */
static void make_text(void) {
  uint64_t random = 1;
  for (size_t at = 0; at < SIZE;) {
    uint64_t word = next_random(&random) >> 54;
    word = word * word >> 12;
    for (uint64_t letters = 2 + word % 9; letters > 0 && at < SIZE; letters--) {
      word = word * 31 + 7;
      plain[at++] = (unsigned char)('a' + word % 26);
    }
    if (at < SIZE) plain[at++] = ' ';
  }
}

static unsigned hash_at(const unsigned char* bytes) {
  uint32_t word;
  memcpy(&word, bytes, sizeof word);
  return word * 2654435761U >> (32 - HASH_BITS);
}

static int match_length(int from, int to) {
  const int limit = SIZE - to < MAX_MATCH ? SIZE - to : MAX_MATCH;
  int length = 0;
  while (length < limit && plain[from + length] == plain[to + length]) length++;
  return length;
}

static void remember(int at) {
  if (at + MIN_MATCH > SIZE) return;
  const unsigned hash = hash_at(plain + at);
  previous[at % WINDOW] = heads[hash];
  heads[hash] = at;
}

/* The longest match of those in the chain; its length, or 0. */
static int find_match(int at, int* where) {
  int best = MIN_MATCH - 1;
  if (at + MIN_MATCH > SIZE) return 0;
  int candidate = heads[hash_at(plain + at)];
  for (int tries = 0; tries < MAX_CHAIN && candidate > at - WINDOW && candidate != NOWHERE; tries++) {
    const int length = match_length(candidate, at);
    if (length > best) {
      best = length;
      *where = candidate;
    }
    candidate = previous[candidate % WINDOW];
  }
  return best >= MIN_MATCH ? best : 0;
}

/* A byte 0 and a letter, or a length and two bytes of distance. */
static size_t pack(void) {
  size_t used = 0;
  memset(heads, NOWHERE, sizeof heads);
  for (int at = 0; at < SIZE;) {
    int where = 0;
    const int length = find_match(at, &where);
    packed[used++] = (unsigned char)length;
    if (length == 0) {
      packed[used++] = plain[at];
      remember(at++);
      continue;
    }
    packed[used++] = (unsigned char)((at - where) >> 8);
    packed[used++] = (unsigned char)(at - where);
    for (const int end = at + length; at < end; at++) remember(at);
  }
  return used;
}

static void unpack(size_t size) {
  size_t to = 0;
  for (size_t at = 0; at < size;) {
    const int length = packed[at++];
    if (length == 0) {
      unpacked[to++] = packed[at++];
      continue;
    }
    const size_t distance = (size_t)packed[at] << 8 | packed[at + 1];
    at += 2;
    for (int i = 0; i < length; i++, to++) unpacked[to] = unpacked[to - distance];
  }
}

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 30);
  uint64_t hash = HASH_START;
  make_text();
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    const size_t size = pack();
    unpack(size);
    if (memcmp(plain, unpacked, SIZE) != 0) return failed("unpacked is not what was packed");
    hash = hash_step(hash, size);
    plain[next_random(&hash) % SIZE] ^= 1;
  }
  const double seconds = now_seconds() - begin;
  return report(seconds, hash_step(hash, hash_bytes(packed, SIZE / 4)));
}

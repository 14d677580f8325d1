/* The ChaCha20 block function (RFC 8439): additions, rotations and exclusive ors of sixteen words. */
#include <string.h>

#include "measure.h"

static uint32_t rotate(uint32_t x, unsigned bits) { return x << bits | x >> (32 - bits); }

static void quarter_round(uint32_t* x, int a, int b, int c, int d) {
  x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 16);
  x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 12);
  x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 8);
  x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 7);
}

static void key_stream(const uint32_t state[16], uint32_t out[16]) {
  memcpy(out, state, 16 * sizeof *out);
  for (int i = 0; i < 10; i++) {
    quarter_round(out, 0, 4, 8, 12);
    quarter_round(out, 1, 5, 9, 13);
    quarter_round(out, 2, 6, 10, 14);
    quarter_round(out, 3, 7, 11, 15);
    quarter_round(out, 0, 5, 10, 15);
    quarter_round(out, 1, 6, 11, 12);
    quarter_round(out, 2, 7, 8, 13);
    quarter_round(out, 3, 4, 9, 14);
  }
  for (int i = 0; i < 16; i++) out[i] += state[i];
}

/* Key 00 01 .. 1f, block 1, nonce 00 00 00 09 00 00 00 4a 00 00 00 00: the example of RFC 8439, 2.3.2. */
static const uint32_t example[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, 0x03020100, 0x07060504,
                                     0x0b0a0908, 0x0f0e0d0c, 0x13121110, 0x17161514, 0x1b1a1918, 0x1f1e1d1c,
                                     1,          0x09000000, 0x4a000000, 0};

int main(int argc, char** argv) {
  const unsigned long count = count_argument(argc, argv, 1800000);
  uint32_t state[16];
  uint32_t stream[16];
  uint32_t message[16] = {0};
  memcpy(state, example, sizeof state);
  key_stream(state, stream);
  if (stream[0] != 0xe4e7f110 || stream[15] != 0x4e3c50a2) return failed("ChaCha20's example is wrong");
  const double begin = now_seconds();
  for (unsigned long i = 0; i < count; i++) {
    key_stream(state, stream);
    for (int word = 0; word < 16; word++) message[word] ^= stream[word];
    state[12]++;
  }
  const double seconds = now_seconds() - begin;
  return report(seconds, hash_bytes(message, sizeof message));
}

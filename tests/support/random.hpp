// A small, fast generator of random numbers that gives the same sequence on every host and build.
#pragma once

#include <array>
#include <bit>
#include <span>

#include "base/types.hpp"

namespace vert::test {

/// xoshiro256** by Blackman and Vigna, seeded by splitmix64.
class Random {
 public:
  explicit Random(u64 seed) {
    for (u64& word : state_) {
      seed += 0x9E37'79B9'7F4A'7C15;
      u64 z = seed;
      z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9;
      z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EB;
      word = z ^ (z >> 31);
    }
  }

  u64 next() {
    const u64 result = std::rotl(state_[1] * 5, 7) * 9;
    const u64 shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  /// 0 .. bound - 1; bound is not 0.
  u64 below(u64 bound) { return static_cast<u64>((static_cast<u128>(next()) * bound) >> 64); }
  /// low .. high, both included.
  i64 between(i64 low, i64 high) { return low + static_cast<i64>(below(static_cast<u64>(high - low) + 1)); }
  bool percent(unsigned chance) { return below(100) < chance; }

  template <typename T>
  const T& pick(std::span<const T> from) {
    return from[below(from.size())];
  }
  template <typename Container>
  const auto& pick(const Container& from) {
    return from[below(from.size())];
  }

 private:
  std::array<u64, 4> state_{};
};

}  // namespace vert::test

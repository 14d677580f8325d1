// Random hostile drivers against each virtio device. What finds more, slower, is the same driver under
// libFuzzer (./dev fuzz).
//
// Driver n is always the same; how the device's threads interleave with it is not. VERT_FUZZ_SECONDS=N goes
// on for N seconds.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "fuzz/virtio/hostile_driver.hpp"
#include "support/random.hpp"

namespace vert::fuzz {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<u8> random_driver(u64 seed) {
  test::Random random(seed);
  std::vector<u8> bytes(16 + random.below(600));
  for (u8& byte : bytes) byte = static_cast<u8>(random.percent(40) ? random.below(4) : random.next());
  bytes[0] = static_cast<u8>(seed % 3);  // the device
  bytes[1] = 7;                          // begins as drivers do
  return bytes;
}

TEST(VirtioFuzz, HostileDriversDoNoHarm) {
  constexpr u64 kDrivers = 1500;
  const char* seconds = std::getenv("VERT_FUZZ_SECONDS");
  const auto end = Clock::now() + std::chrono::seconds(seconds != nullptr ? std::stoul(seconds) : 0);
  u64 seed = 0;
  while (seed < kDrivers || Clock::now() < end) drive_virtio(random_driver(seed++));
  RecordProperty("drivers", std::to_string(seed));
}

}  // namespace
}  // namespace vert::fuzz

// Edited qcow2 images through reads, writes, snapshots, checks and repairs: no crash, no hang, no growth
// without bounds.
//
// Deterministic: mutant n is always the same. VERT_FUZZ_SECONDS=N goes on for N seconds.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <vector>

#include "fuzz/qcow2/edited_image.hpp"
#include "support/random.hpp"

namespace vert::storage::qcow2 {
namespace {

/// An image and one to five edits.
std::vector<u8> random_edits(u64 seed) {
  test::Random random(seed);
  std::vector<u8> input(1 + 8 * (1 + random.below(5)));
  for (u8& byte : input) byte = random.percent(30) ? 0 : static_cast<u8>(random.next());
  return input;
}

TEST(Qcow2Fuzz, MutantsAreUsedOrRefused) {
  constexpr u64 kShortRun = 300;
  const char* seconds = std::getenv("VERT_FUZZ_SECONDS");
  const char* first = std::getenv("VERT_FUZZ_FIRST");
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::seconds(seconds != nullptr ? std::strtoul(seconds, nullptr, 10) : 0);
  const u64 start = first != nullptr ? std::strtoull(first, nullptr, 10) : 0;
  u64 opened = 0;
  u64 seed = start;
  for (; seed < start + kShortRun || std::chrono::steady_clock::now() < end; ++seed) {
    SCOPED_TRACE("mutant " + std::to_string(seed));
    const auto begun = std::chrono::steady_clock::now();
    opened += exercise_edited_image(random_edits(seed)) ? 1 : 0;
    ASSERT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(30)) << "it hangs";
  }
  // A fuzzer that never gets past the header, or never fails there, tests nothing.
  EXPECT_GT(opened, (seed - start) / 10);
  EXPECT_LT(opened, seed - start);
}

}  // namespace
}  // namespace vert::storage::qcow2

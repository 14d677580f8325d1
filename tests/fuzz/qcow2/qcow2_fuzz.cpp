// Mutated qcow2 images through reads, writes, snapshots, checks and repairs: no crash, no hang, no growth
// without bounds.
//
// Deterministic: mutant n is always the same. VERT_FUZZ_SECONDS=N goes on for N seconds.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "fuzz/qcow2/qcow2_harness.hpp"
#include "support/image_rig.hpp"
#include "support/random.hpp"
#include "support/scripted_context.hpp"

namespace vert::storage::qcow2 {
namespace {

using test::Random;

/// Images with all that the format has, small enough to be mutated everywhere.
std::vector<std::vector<u8>> seeds() {
  test::TemporaryFolder folder;
  test::ScriptedContext context(1);
  std::vector<std::vector<u8>> images;
  for (const u64 cluster : {u64{512}, u64{4096}, u64{65536}}) {
    for (const u32 version : {2U, 3U}) {
      const std::string path = folder / "seed";
      NewImage made;
      made.size = cluster * 300;
      made.qcow2.cluster_size = cluster;
      made.qcow2.version = version;
      EXPECT_TRUE(context.complete(create_image(context, path, made)));
      auto image = test::open_qcow2(context, path);
      EXPECT_TRUE(image->write(0, std::vector<u8>(cluster * 5, 1)));
      EXPECT_TRUE(context.complete((*image)->write_compressed(cluster * 8, std::vector<u8>(cluster, 2))));
      EXPECT_TRUE(image->snapshot("first"));
      EXPECT_TRUE(image->write(cluster * 2, std::vector<u8>(cluster * 3, 3)));
      EXPECT_TRUE(image->write_zeroes(0, cluster, false));
      EXPECT_TRUE(image->close());
      images.push_back(test::file_bytes(path));
    }
  }
  return images;
}

u64 interesting(Random& random, u64 file_size) {
  static constexpr u64 kValues[] = {0,
                                    1,
                                    2,
                                    9,
                                    16,
                                    21,
                                    22,
                                    63,
                                    64,
                                    104,
                                    512,
                                    0x10000,
                                    1 << 20,
                                    0x7FFFFFFF,
                                    1U << 31,
                                    0xFFFFFFFF,
                                    u64{1} << 32,
                                    u64{1} << 56,
                                    ~u64{0},
                                    kCopied,
                                    kCompressedFlag,
                                    kZeroFlag | kCopied};
  switch (random.below(4)) {
    case 0: return random.next();
    case 1: return random.below(file_size) & ~u64{511};
    case 2: return (random.below(file_size) & ~u64{511}) | kCopied;
    default: return kValues[random.below(std::size(kValues))];
  }
}

void mutate(Random& random, std::vector<u8>& image) {
  for (u64 count = 1 + random.below(5); count != 0; --count) {
    // Headers and tables are at the front.
    const u64 range =
        random.below(3) == 0 ? image.size() : std::min<u64>(image.size(), random.below(2) == 0 ? 112 : 4096);
    const u64 at = random.below(range);
    const u64 value = interesting(random, image.size());
    std::array<u8, 8> bytes{};
    store_be<u64>(bytes.data(), value);
    switch (random.below(8)) {
      case 0: image[at] = static_cast<u8>(image[at] ^ (1U << random.below(8))); break;
      case 1: image[at] = static_cast<u8>(value); break;
      case 2: image.resize(512 + random.below(image.size())); break;
      case 3: {
        const u64 word = at & ~u64{3};
        std::copy_n(bytes.begin() + 4, std::min<u64>(4, image.size() - word),
                    image.begin() + static_cast<std::ptrdiff_t>(word));
        break;
      }
      default: {
        const u64 word = at & ~u64{7};
        std::copy_n(bytes.begin(), std::min<u64>(8, image.size() - word),
                    image.begin() + static_cast<std::ptrdiff_t>(word));
      }
    }
  }
}

TEST(Qcow2Fuzz, MutantsAreUsedOrRefused) {
  constexpr u64 kShortRun = 300;
  const char* seconds = std::getenv("VERT_FUZZ_SECONDS");
  const char* first = std::getenv("VERT_FUZZ_FIRST");
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::seconds(seconds != nullptr ? std::strtoul(seconds, nullptr, 10) : 0);
  const auto images = seeds();
  const u64 start = first != nullptr ? std::strtoull(first, nullptr, 10) : 0;
  u64 opened = 0;
  u64 seed = start;
  for (; seed < start + kShortRun || std::chrono::steady_clock::now() < end; ++seed) {
    SCOPED_TRACE("mutant " + std::to_string(seed));
    Random random(seed);
    auto image = random.pick(images);
    mutate(random, image);
    const auto begun = std::chrono::steady_clock::now();
    opened += exercise_image(image) ? 1 : 0;
    ASSERT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(30)) << "it hangs";
  }
  // A fuzzer that never gets past the header, or never fails there, tests nothing.
  EXPECT_GT(opened, (seed - start) / 10);
  EXPECT_LT(opened, seed - start);
}

}  // namespace
}  // namespace vert::storage::qcow2

// Random operations on a qcow2 image, beside a plain array that says what it must read as.
#include <gtest/gtest.h>

#include "support/image_rig.hpp"
#include "support/random.hpp"
#include "support/scripted_context.hpp"

namespace vert::storage::qcow2 {
namespace {

using test::Random;

struct Shape {
  const char* name;
  u32 version = 3;
  u64 cluster_size = 65536;
  unsigned refcount_bits = 16;
  bool lazy_refcounts = false;
  CompressionType compression = CompressionType::kZlib;
  bool is_backed = false;
};

constexpr Shape kShapes[] = {
    {.name = "Usual"},
    {.name = "Backed", .is_backed = true},
    {.name = "SmallestClusters", .cluster_size = 512},
    {.name = "SmallClustersBacked", .cluster_size = 1024, .is_backed = true},
    {.name = "LargestClusters", .cluster_size = 2 << 20},
    {.name = "Version2", .version = 2, .cluster_size = 4096},
    {.name = "Version2Backed", .version = 2, .cluster_size = 512, .is_backed = true},
    {.name = "OneBitCounts", .cluster_size = 512, .refcount_bits = 1},
    {.name = "TwoBitCounts", .cluster_size = 4096, .refcount_bits = 2},
    {.name = "FourBitCounts", .cluster_size = 512, .refcount_bits = 4},
    {.name = "EightBitCounts", .cluster_size = 512, .refcount_bits = 8},
    {.name = "WideCounts", .cluster_size = 512, .refcount_bits = 32},
    {.name = "WidestCounts", .cluster_size = 512, .refcount_bits = 64, .is_backed = true},
    {.name = "LazyCounts", .cluster_size = 4096, .lazy_refcounts = true},
    {.name = "Zstd", .cluster_size = 4096, .compression = CompressionType::kZstd},
};

class Qcow2ModelTest : public testing::TestWithParam<Shape> {
 protected:
  static constexpr u64 kSize = 3 * 1024 * 1024 + 512;

  void SetUp() override {
    const Shape& shape = GetParam();
    NewImage made;
    made.size = kSize;
    made.qcow2.version = shape.version;
    made.qcow2.cluster_size = shape.cluster_size;
    made.qcow2.refcount_bits = shape.refcount_bits;
    made.qcow2.lazy_refcounts = shape.lazy_refcounts;
    made.qcow2.compression = shape.compression;
    model_.resize(kSize);
    if (shape.is_backed) {
      // Shorter than the disk, and not whole clusters.
      Random random(1);
      std::vector<u8> backing(1024 * 1024 + 3 * 512);
      for (u8& byte : backing) byte = static_cast<u8>(random.next());
      std::ranges::copy(backing, model_.begin());
      test::write_file(folder_ / "base", backing);
      made.qcow2.backing_file = "base";
      made.qcow2.backing_format = "raw";
    }
    const auto created = context_.complete(create_image(context_, path_, made));
    ASSERT_TRUE(created) << created.error().message;
  }

  test::OpenImage open() {
    auto image = test::open_qcow2(context_, path_);
    EXPECT_TRUE(image) << image.error().message;
    return std::move(*image);
  }

  /// A range that the model does not share with a request under way.
  struct Range {
    u64 offset;
    u64 length;
  };
  Range some_range(u64 most) {
    const u64 sectors = model_.size() / 512;
    const u64 first = random_.below(sectors);
    const u64 count = 1 + random_.below(std::min(sectors - first, 1 + random_.below(most / 512)));
    return {first * 512, count * 512};
  }

  void change(test::OpenImage& image) {
    const auto [offset, length] = some_range(random_.below(4) == 0 ? 1 << 20 : 16 << 10);
    const auto here = std::span(model_).subspan(offset, length);
    switch (random_.below(8)) {
      case 0:
        ASSERT_TRUE(image.write_zeroes(offset, length, random_.below(2) == 0));
        std::ranges::fill(here, u8{0});
        break;
      case 1: {
        ASSERT_TRUE(image.discard(offset, length));
        // It reads as zeroes where a cluster was dropped, and as before elsewhere.
        std::vector<u8> now(length);
        ASSERT_TRUE(image.read(offset, now));
        for (u64 i = 0; i < length; ++i) ASSERT_TRUE(now[i] == 0 || now[i] == here[i]) << offset + i;
        std::ranges::copy(now, here.begin());
        break;
      }
      case 2: {
        const u64 cluster = GetParam().cluster_size;
        const u64 first = offset / cluster * cluster;
        std::vector<u8> bytes(std::min(cluster, model_.size() - first), static_cast<u8>(random_.next()));
        for (u64 i = 0; i < bytes.size(); i += 7) bytes[i] = static_cast<u8>(i);
        std::ranges::copy(bytes, model_.begin() + static_cast<std::ptrdiff_t>(first));
        ASSERT_TRUE(context_.complete(image->write_compressed(first, bytes)));
        break;
      }
      case 3: ASSERT_TRUE(image.flush()); break;
      default: {
        for (u8& byte : here) byte = static_cast<u8>(random_.next());
        const auto status = image.write(offset, here);
        ASSERT_TRUE(status) << status.error().message;
      }
    }
  }

  test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "disk.qcow2";
  test::ScriptedContext context_{7};
  Random random_{42};
  std::vector<u8> model_;
};

TEST_P(Qcow2ModelTest, ReadsAsWhatWasWritten) {
  for (int session = 0; session < 4; ++session) {
    auto image = open();
    ASSERT_EQ(image.content() == model_, true) << "session " << session;
    for (int i = 0; i < 60; ++i) {
      ASSERT_NO_FATAL_FAILURE(change(image)) << "session " << session << " step " << i;
      const auto [offset, length] = some_range(64 << 10);
      std::vector<u8> bytes(length);
      ASSERT_TRUE(image.read(offset, bytes));
      ASSERT_TRUE(std::ranges::equal(bytes, std::span(model_).subspan(offset, length)))
          << "session " << session << " step " << i;
    }
    const auto closed = image.close();
    ASSERT_TRUE(closed) << closed.error().message;
    ASSERT_EQ(test::problems(context_, path_), "") << "session " << session;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Qcow2ModelTest, testing::ValuesIn(kShapes),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace vert::storage::qcow2

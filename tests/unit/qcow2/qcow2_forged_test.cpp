// Tables that point to where they must not: the guest gets an error, and the metadata stays as it is.
#include <gtest/gtest.h>

#include "support/image_rig.hpp"
#include "support/scripted_context.hpp"

namespace vert::storage::qcow2 {
namespace {

/// Clusters of a new image that has been written to: header, refcount table, refcount block, L1 table, L2
/// table, data.
class Qcow2ForgedTest : public testing::Test {
 protected:
  static constexpr u64 kCluster = 4096;
  static constexpr u64 kTable = 4 * kCluster;

  void SetUp() override {
    NewImage made;
    made.size = 4 << 20;
    made.qcow2.cluster_size = kCluster;
    ASSERT_TRUE(context_.complete(create_image(context_, path_, made)));
    auto image = test::open_qcow2(context_, path_);
    ASSERT_TRUE(image->write(0, std::vector<u8>(kCluster, 1)));
    ASSERT_TRUE(image->close());
    ASSERT_EQ(test::read_be<u64>(path_, kTable), (5 * kCluster) | kCopied);
  }
  void forge_entry(u64 index, u64 entry) { test::patch_be<u64>(path_, kTable + index * 8, entry); }

  test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "disk.qcow2";
  test::ScriptedContext context_{1};
};

TEST_F(Qcow2ForgedTest, TheGuestCannotWriteMetadata) {
  for (const u64 cluster : {0, 1, 2, 3, 4}) {
    SetUp();
    forge_entry(1, (cluster * kCluster) | kCopied);
    if (cluster == 0) forge_entry(1, 512 | kCopied);  // 0 means that there is none
    const auto before = test::file_bytes(path_);
    auto image = test::open_qcow2(context_, path_);
    ASSERT_TRUE(image);
    const auto status = image->write(kCluster, std::vector<u8>(512, 0xEE));
    ASSERT_FALSE(status) << cluster;
    EXPECT_EQ(status.error().system_error, EIO);
    auto after = test::file_bytes(path_);
    EXPECT_EQ(storage::qcow2::load_be<u64>(after.data() + 72), kIncompatibleCorrupt);
    std::fill_n(after.begin() + 72, 8, u8{0});
    EXPECT_EQ(before, after) << cluster;
    // From now on nothing is written; reading goes on.
    EXPECT_FALSE(image->write(0, std::vector<u8>(512)));
    EXPECT_FALSE(image->flush());
    std::vector<u8> seen(512);
    EXPECT_TRUE(image->read(0, seen));
  }
}

TEST_F(Qcow2ForgedTest, MetadataThatCountsAsFreeIsNotGivenAway) {
  for (const u64 cluster : {0, 1, 2, 3, 4}) {
    SetUp();
    test::patch_be<u16>(path_, 2 * kCluster + cluster * 2, 0);
    auto image = test::open_qcow2(context_, path_);
    ASSERT_TRUE(image);
    const auto status = image->write(kCluster * 8, std::vector<u8>(512, 0xEE));
    ASSERT_FALSE(status) << cluster;
    EXPECT_EQ(status.error().system_error, EIO);
    EXPECT_NE(status.error().message.find("counts as free"), std::string::npos) << status.error().message;
  }
}

TEST_F(Qcow2ForgedTest, TablesOnTopOfEachOtherCanOnlyBeRead) {
  for (const u64 cluster : {1, 2, 3}) {
    SetUp();
    test::patch_be<u64>(path_, 3 * kCluster, (cluster * kCluster) | kCopied);
    EXPECT_FALSE(test::open_qcow2(context_, path_)) << cluster;
    EXPECT_TRUE(
        test::open_qcow2(context_, path_, {.image = {.read_only = true}, .snapshot = {}, .repair = false}));
  }
}

TEST_F(Qcow2ForgedTest, EntriesThatNameNoClusterAreErrors) {
  forge_entry(1, (5 * kCluster + 512) | kCopied);
  auto image = test::open_qcow2(context_, path_);
  ASSERT_TRUE(image);
  std::vector<u8> seen(512);
  const auto status = image->read(kCluster, seen);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().system_error, EIO);
}

TEST_F(Qcow2ForgedTest, WhatLiesBehindTheFilesEndIsAnErrorAndNotZeroes) {
  constexpr u64 kBehind = u64{1} << 40;
  forge_entry(1, kBehind | kCopied);
  test::patch_be<u64>(path_, 3 * kCluster + 8, kBehind | kCopied);  // another L2 table
  const auto before = test::file_bytes(path_);
  auto image = test::open_qcow2(context_, path_, {.image = {.read_only = true}, .snapshot = {}});
  ASSERT_TRUE(image);
  std::vector<u8> bytes(512);
  EXPECT_TRUE(image->read(0, bytes));
  for (const u64 offset : {kCluster, kCluster * kCluster / 8}) {
    const auto missing = image->read(offset, bytes);
    ASSERT_FALSE(missing) << offset;
    EXPECT_EQ(missing.error().system_error, EIO);
    EXPECT_NE(missing.error().message.find("is cut short"), std::string::npos) << missing.error().message;
  }
  EXPECT_EQ(test::file_bytes(path_), before);
}

TEST_F(Qcow2ForgedTest, CompressedGarbageIsAnError) {
  const u64 bits = Geometry{.cluster_bits = 12}.compressed_offset_bits();
  forge_entry(1, kCompressedFlag | u64{1} << bits | (5 * kCluster));
  auto image = test::open_qcow2(context_, path_);
  ASSERT_TRUE(image);
  std::vector<u8> seen(512);
  const auto status = image->read(kCluster, seen);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().system_error, EIO);
}

TEST_F(Qcow2ForgedTest, ALeakIsFoundAndFreed) {
  test::patch_be<u16>(path_, 2 * kCluster + 5 * 2, 2);
  auto image = test::open_qcow2(context_, path_, {.image = {}, .snapshot = {}, .repair = true});
  ASSERT_TRUE(image);
  auto result = image->check(Repair::kLeaks);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->leaks, 1U);
  EXPECT_EQ(result->leaks_fixed, 1U);
  EXPECT_EQ(result->corruptions, 0U);
  ASSERT_TRUE(image->close());
  EXPECT_EQ(test::problems(context_, path_), "");
}

TEST_F(Qcow2ForgedTest, CountsThatAreTooLowAreFoundAndRebuilt) {
  test::patch_be<u16>(path_, 2 * kCluster + 5 * 2, 0);
  test::patch_be<u64>(path_, 72, kIncompatibleCorrupt);
  auto image = test::open_qcow2(context_, path_, {.image = {}, .snapshot = {}, .repair = true});
  ASSERT_TRUE(image);
  auto result = image->check(Repair::kAll);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_GT(result->corruptions, 0U);
  EXPECT_EQ(result->corruptions, result->corruptions_fixed);
  ASSERT_TRUE(image->close());
  EXPECT_EQ(test::problems(context_, path_), "");
  const auto again = test::open_qcow2(context_, path_);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->content()[0], 1);
}

TEST_F(Qcow2ForgedTest, AWrongCopiedFlagIsFoundAndMended) {
  forge_entry(0, 5 * kCluster);
  auto image = test::open_qcow2(context_, path_, {.image = {}, .snapshot = {}, .repair = true});
  ASSERT_TRUE(image);
  auto result = image->check(Repair::kAll);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->corruptions, 1U);
  EXPECT_EQ(result->corruptions_fixed, 1U);
  ASSERT_TRUE(image->close());
  EXPECT_EQ(test::problems(context_, path_), "");
}

TEST_F(Qcow2ForgedTest, SnapshotsOfCountsWithoutRoomAreRefusedAndLeaveNoTrace) {
  NewImage made;
  made.size = 1 << 20;
  made.qcow2.cluster_size = kCluster;
  made.qcow2.refcount_bits = 1;
  ASSERT_TRUE(context_.complete(create_image(context_, path_, made)));
  auto image = test::open_qcow2(context_, path_);
  ASSERT_TRUE(image->write(0, std::vector<u8>(kCluster * 3, 1)));
  const auto status = image->snapshot("one");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "'" + path_ + "': a refcount of 1 bits cannot become larger than 1");
  ASSERT_TRUE(image->write(0, std::vector<u8>(kCluster * 5, 2)));
  ASSERT_TRUE(image->close());
  EXPECT_EQ(test::problems(context_, path_), "");
}

}  // namespace
}  // namespace vert::storage::qcow2

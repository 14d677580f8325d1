#include "storage/raw_image.hpp"

#include <fcntl.h>

#include <chrono>
#include <filesystem>
#include <numeric>
#include <thread>

#include "temporary_file.hpp"

namespace vert::storage {
namespace {

class RawImageTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = IoContext::create();
    ASSERT_TRUE(made) << made.error().message;
    context_ = std::move(*made);
  }

  Result<std::unique_ptr<Image>> open(const ImageOptions& options = {}) {
    return context_->complete(open_image(*context_, disk_.path(), options));
  }
  Status read(Image& image, u64 offset, std::span<u8> to) {
    const iovec piece = buffer_of(to);
    return context_->complete(image.read(offset, Buffers(&piece, 1)));
  }
  Status write(Image& image, u64 offset, std::span<const u8> from) {
    const iovec piece = buffer_of(from);
    return context_->complete(image.write(offset, Buffers(&piece, 1)));
  }

  std::vector<u8> content_ = [] {
    std::vector<u8> bytes(64 << 10);
    std::iota(bytes.begin(), bytes.end(), u8{1});
    return bytes;
  }();
  TemporaryFile disk_{content_};
  std::unique_ptr<IoContext> context_;
};

TEST_F(RawImageTest, IsTheFile) {
  const auto image = open();
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ((*image)->format(), Format::kRaw);
  EXPECT_EQ((*image)->size(), content_.size());
  std::vector<u8> bytes(512);
  ASSERT_TRUE(read(**image, 1024, bytes));
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), content_.begin() + 1024));
  ASSERT_TRUE(write(**image, 512, bytes));
  EXPECT_EQ(disk_.bytes()[512], content_[1024]);
}

TEST_F(RawImageTest, ALastSectorCutShortReadsAsZeroesBehindItsEnd) {
  disk_.write(std::vector<u8>(700, 9));
  const auto image = open();
  ASSERT_TRUE(image);
  ASSERT_EQ((*image)->size(), 1024U);
  std::vector<u8> bytes(512, 1);
  ASSERT_TRUE(read(**image, 512, bytes));
  EXPECT_EQ(bytes[187], 9);
  EXPECT_EQ(bytes[188], 0);
}

TEST_F(RawImageTest, AllCacheModesReadAndWrite) {
  for (const CacheMode mode :
       {CacheMode::kWriteback, CacheMode::kNone, CacheMode::kWritethrough, CacheMode::kUnsafe}) {
    const auto image = open({.format = {}, .read_only = false, .cache = mode});
    if (!image && mode == CacheMode::kNone) continue;  // a tmpfs has none
    ASSERT_TRUE(image) << image.error().message;
    const std::vector<u8> written(512, static_cast<u8>(mode));
    ASSERT_TRUE(write(**image, 4608, written));
    ASSERT_TRUE(context_->complete((*image)->flush()));
    std::vector<u8> bytes(512, 99);
    ASSERT_TRUE(read(**image, 4608, bytes));
    EXPECT_EQ(bytes, written);
    EXPECT_EQ(disk_.bytes()[4608], static_cast<u8>(mode));
  }
}

TEST_F(RawImageTest, ZeroesAndDiscards) {
  const auto image = open();
  ASSERT_TRUE(image);
  ASSERT_TRUE(context_->complete((*image)->write_zeroes(512, 1024, false)));
  ASSERT_TRUE(context_->complete((*image)->write_zeroes(8192, 8192, true)));
  ASSERT_TRUE(context_->complete((*image)->discard(32768, 4096)));
  const auto bytes = disk_.bytes();
  EXPECT_EQ(bytes.size(), content_.size());
  EXPECT_EQ(bytes[511], content_[511]);
  for (u64 i = 512; i < 1536; ++i) ASSERT_EQ(bytes[i], 0);
  for (u64 i = 8192; i < 16384; ++i) ASSERT_EQ(bytes[i], 0);
  EXPECT_EQ(bytes[1536], content_[1536]);
}

TEST_F(RawImageTest, ResizesTheFile) {
  const auto image = open();
  ASSERT_TRUE(image);
  ASSERT_TRUE(context_->complete((*image)->resize(1 << 20)));
  EXPECT_EQ((*image)->size(), u64{1} << 20);
  EXPECT_EQ(disk_.bytes().size(), std::size_t{1} << 20);
}

TEST_F(RawImageTest, AGuestCannotTurnAProbedImageIntoAnotherFormat) {
  std::vector<u8> header(512);
  header[0] = 'Q';
  header[1] = 'F';
  header[2] = 'I';
  header[3] = 0xFB;
  {
    const auto image = open();
    ASSERT_TRUE(image);
    const auto refused = write(**image, 0, header);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().system_error, EPERM);
    // Nor in two steps.
    const std::vector<u8> half = {'Q', 'F'};
    ASSERT_TRUE(write(**image, 0, half));
    EXPECT_FALSE(write(**image, 2, std::span(header).subspan(2)));
  }
  const auto named = open({.format = Format::kRaw});
  ASSERT_TRUE(named);
  EXPECT_TRUE(write(**named, 0, header));
}

TEST_F(RawImageTest, AWriterHasAnImageAlone) {
  auto writer = open();
  ASSERT_TRUE(writer);
  const auto second = open();
  ASSERT_FALSE(second);
  EXPECT_EQ(
      second.error().message,
      "'" + disk_.path() + "' is in use by another process; stop that, or open it with readonly in both");
  EXPECT_FALSE(open({.read_only = true}));
  writer->reset();
  const auto reader = open({.read_only = true});
  EXPECT_TRUE(reader);
  EXPECT_TRUE(open({.read_only = true}));
  EXPECT_FALSE(open());
}

TEST_F(RawImageTest, IsWaitedForWhileTheKernelLetsGoOfIt) {
  auto writer = open();
  ASSERT_TRUE(writer);
  std::thread releases([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    writer->reset();
  });
  EXPECT_TRUE(open());
  releases.join();
}

TEST_F(RawImageTest, WhatIsMissingFromAFileCutShortIsAnError) {
  const auto image = open();
  ASSERT_TRUE(image);
  std::filesystem::resize_file(disk_.path(), 10'000);
  std::vector<u8> bytes(512, 1);
  EXPECT_TRUE(read(**image, 8192, bytes));
  const auto missing = read(**image, 16384, bytes);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().system_error, EIO);
  EXPECT_NE(missing.error().message.find("is cut short: it ends at byte 10000"), std::string::npos);
}

TEST_F(RawImageTest, SaysWhatCannotBeOpened) {
  const auto missing = context_->complete(open_image(*context_, "/nowhere/disk.img", {}));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "cannot open '/nowhere/disk.img': No such file or directory");
  const auto folder = context_->complete(open_image(*context_, testing::TempDir(), {.read_only = true}));
  ASSERT_FALSE(folder);
  EXPECT_NE(folder.error().message.find("is neither a file nor a block device"), std::string::npos);
}

}  // namespace
}  // namespace vert::storage

// GuestMemory: layout and bounds, code versions, the dirty log.
#include "memory/guest_memory.hpp"

#include <gtest/gtest.h>
#include <algorithm>
#include <thread>

namespace vert::test {
namespace {

using memory::Frame;
using memory::GuestMemory;
using memory::RamRegion;

constexpr u64 kLowSize = 4 * kPageSize;
constexpr u64 kHighBase = u64{1} << 32;
constexpr u64 kHighSize = 2 * kPageSize;

class GuestMemoryTest : public ::testing::Test {
 protected:
  std::unique_ptr<GuestMemory> memory_ =
      GuestMemory::create({{Gpa(0), kLowSize}, {Gpa(kHighBase), kHighSize}}).value();

  [[nodiscard]] bool write(u64 gpa, std::vector<u8> bytes) { return memory_->write(Gpa(gpa), bytes); }
};

TEST_F(GuestMemoryTest, HostAddressesEndWithTheRegion) {
  EXPECT_EQ(memory_->size(), kLowSize + kHighSize);
  EXPECT_NE(memory_->host(Gpa(0), kLowSize), nullptr);
  EXPECT_EQ(memory_->host(Gpa(0), kLowSize + 1), nullptr);
  EXPECT_NE(memory_->host(Gpa(kLowSize - 1), 1), nullptr);
  EXPECT_EQ(memory_->host(Gpa(kLowSize - 1), 2), nullptr);
  EXPECT_EQ(memory_->host(Gpa(kLowSize), 1), nullptr);
  EXPECT_EQ(memory_->host(Gpa(kHighBase - 1), 1), nullptr);
  EXPECT_NE(memory_->host(Gpa(kHighBase + kHighSize - 8), 8), nullptr);
  EXPECT_EQ(memory_->host(Gpa(kHighBase + kHighSize - 8), ~u64{0}), nullptr);
  EXPECT_EQ(memory_->host(Gpa(~u64{0}), 1), nullptr);
}

TEST_F(GuestMemoryTest, GpaOfIsTheReverseOfHost) {
  for (const u64 gpa : {u64{0}, u64{kLowSize - 1}, kHighBase, kHighBase + kHighSize - 1})
    EXPECT_EQ(memory_->gpa_of(memory_->host(Gpa(gpa), 1)), Gpa(gpa));
}

TEST_F(GuestMemoryTest, CopiesAllOrNothing) {
  EXPECT_TRUE(write(kLowSize - 2, {1, 2}));
  EXPECT_FALSE(write(kLowSize - 2, {7, 8, 9}));
  EXPECT_EQ(memory_->load<u16>(Gpa(kLowSize - 2)), 0x0201);
  EXPECT_EQ(memory_->load<u32>(Gpa(kLowSize - 2)), std::nullopt);
  EXPECT_EQ(memory_->load<u8>(Gpa(kLowSize)), std::nullopt);
  EXPECT_TRUE(memory_->read(Gpa(0), {}));
  EXPECT_TRUE(memory_->write(Gpa(0), {}));
}

TEST_F(GuestMemoryTest, FramesCountOverAllRegions) {
  EXPECT_EQ(memory_->frame_count(), 6U);
  EXPECT_EQ(memory_->frame_of(memory_->host(Gpa(kPageSize + 5), 1)), 1U);
  EXPECT_EQ(memory_->frame_of(memory_->host(Gpa(kHighBase), 1)), 4U);
}

TEST(GuestMemory, RefusesNonsense) {
  EXPECT_FALSE(GuestMemory::create({}).has_value());
  EXPECT_FALSE(GuestMemory::create({{Gpa(0), 0}}).has_value());
  EXPECT_FALSE(GuestMemory::create({{Gpa(0), 100}}).has_value());
  EXPECT_FALSE(GuestMemory::create({{Gpa(12), kPageSize}}).has_value());
  EXPECT_FALSE(GuestMemory::create({{Gpa(0), 2 * kPageSize}, {Gpa(kPageSize), kPageSize}}).has_value());
  EXPECT_FALSE(GuestMemory::create({{Gpa(kPageSize), kPageSize}, {Gpa(0), kPageSize}}).has_value());
  EXPECT_FALSE(GuestMemory::create({{Gpa(~kPageOffsetMask), 2 * kPageSize}}).has_value());
  const auto huge = GuestMemory::create({{Gpa(0), u64{1} << 43}});
  ASSERT_FALSE(huge.has_value());
  EXPECT_NE(huge.error().message.find("8388608 MiB"), std::string::npos) << huge.error().message;
}

TEST_F(GuestMemoryTest, CodeVersionsFollowWritesToWatchedPages) {
  const u32 before = memory_->code_version(1);
  EXPECT_TRUE(write(kPageSize, {1}));
  EXPECT_EQ(memory_->code_version(1), before);  // nobody watches
  memory_->watch_code(1);
  memory_->watch_code(1);
  EXPECT_TRUE(write(kPageSize + 9, {1}));
  EXPECT_NE(memory_->code_version(1), before);
  const u32 neighbour = memory_->code_version(2);
  EXPECT_TRUE(write(2 * kPageSize, {1}));
  EXPECT_EQ(memory_->code_version(2), neighbour);
}

TEST_F(GuestMemoryTest, WriteAcrossPagesMarksBoth) {
  memory_->watch_code(1);
  memory_->watch_code(2);
  const u32 first = memory_->code_version(1);
  const u32 second = memory_->code_version(2);
  EXPECT_TRUE(write(2 * kPageSize - 1, {1, 2}));
  EXPECT_NE(memory_->code_version(1), first);
  EXPECT_NE(memory_->code_version(2), second);
}

TEST_F(GuestMemoryTest, DirtyLogTellsEachPageOncePerTake) {
  EXPECT_TRUE(write(0, {1}));
  memory_->set_dirty_log(true);
  EXPECT_TRUE(memory_->take_dirty().empty());
  EXPECT_TRUE(write(3 * kPageSize, {1}));
  EXPECT_TRUE(write(3 * kPageSize, {2}));
  EXPECT_TRUE(write(kHighBase + kPageSize, {1}));
  EXPECT_EQ(memory_->take_dirty(), (std::vector<Frame>{3, 5}));
  EXPECT_TRUE(memory_->take_dirty().empty());
  EXPECT_TRUE(write(3 * kPageSize, {3}));
  EXPECT_EQ(memory_->take_dirty(), (std::vector<Frame>{3}));
  memory_->set_dirty_log(false);
  EXPECT_TRUE(write(0, {1}));
  EXPECT_TRUE(memory_->take_dirty().empty());
}

TEST_F(GuestMemoryTest, RestartedDirtyLogForgetsWhatWasBefore) {
  memory_->set_dirty_log(true);
  EXPECT_TRUE(write(0, {1}));
  memory_->set_dirty_log(true);
  EXPECT_TRUE(memory_->take_dirty().empty());
  EXPECT_TRUE(write(0, {2}));
  EXPECT_EQ(memory_->take_dirty(), (std::vector<Frame>{0}));
}

TEST_F(GuestMemoryTest, CodeMarksAndDirtyLogDoNotDisturbEachOther) {
  memory_->watch_code(0);
  memory_->set_dirty_log(true);
  const u32 before = memory_->code_version(0);
  EXPECT_TRUE(write(0, {1}));
  memory_->watch_code(0);
  EXPECT_TRUE(write(0, {2}));
  EXPECT_EQ(memory_->code_version(0), before + 2);
  EXPECT_EQ(memory_->take_dirty(), (std::vector<Frame>{0}));
  memory_->set_dirty_log(false);
  memory_->watch_code(0);
  EXPECT_TRUE(write(0, {3}));
  EXPECT_EQ(memory_->code_version(0), before + 3);
}

TEST_F(GuestMemoryTest, NoWriteEscapesTheDirtyLog) {
  // A copy made from what the log tells must end equal to the original, though writes go on meanwhile.
  memory_->set_dirty_log(true);
  u8* page = memory_->host(Gpa(0), kPageSize);
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (u64 value = 1; !stop; ++value) {
      std::atomic_ref(*reinterpret_cast<u64*>(page)).store(value, std::memory_order_relaxed);
      memory_->written(page, sizeof value);
    }
  });
  u64 copy = 0;
  const auto sync = [&] {
    for (const Frame frame : memory_->take_dirty()) {
      if (frame == 0) copy = std::atomic_ref(*reinterpret_cast<u64*>(page)).load(std::memory_order_relaxed);
    }
  };
  for (int i = 0; i < 2000; ++i) sync();
  stop = true;
  writer.join();
  sync();
  EXPECT_EQ(copy, memory_->load<u64>(Gpa(0)));
}

}  // namespace
}  // namespace vert::test

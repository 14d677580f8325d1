// Many requests at once, whose operations end in any order, on clusters that they share.
#include <gtest/gtest.h>

#include "support/image_rig.hpp"
#include "support/random.hpp"
#include "support/scripted_context.hpp"

namespace vert::storage::qcow2 {
namespace {

using test::Random;

constexpr u64 kSector = 512;
constexpr u64 kSectors = 256;

/// One request of a sector or a few, with its own memory.
struct Pending {
  u64 first = 0;
  u64 count = 0;
  std::vector<u8> bytes;
  iovec piece = {};
  std::optional<Task<Status>> task;
};

class Qcow2ConcurrencyTest : public testing::TestWithParam<u64> {
 protected:
  void SetUp() override {
    NewImage made;
    made.size = kSectors * kSector;
    made.qcow2.cluster_size = 4096;
    ASSERT_TRUE(context_.complete(create_image(context_, path_, made)));
  }

  test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "disk.qcow2";
  test::ScriptedContext context_{GetParam()};
  Random random_{GetParam() + 100};
};

/// Sectors are written by at most one request at a time, so each has the value of the last one that ended.
TEST_P(Qcow2ConcurrencyTest, EachSectorHasWhatWasWrittenToItLast) {
  auto image = test::open_qcow2(context_, path_);
  ASSERT_TRUE(image);
  std::vector<u8> model(kSectors, 0);
  std::vector<bool> busy(kSectors, false);
  std::list<Pending> pending;
  const auto settle = [&] {
    for (auto one = pending.begin(); one != pending.end();) {
      if (!one->task->done()) {
        ++one;
        continue;
      }
      const auto status = one->task->take();
      EXPECT_TRUE(status) << status.error().message;
      for (u64 i = 0; i < one->count; ++i) busy[one->first + i] = false;
      one = pending.erase(one);
    }
  };
  for (int step = 0; step < 600; ++step) {
    const u64 first = random_.below(kSectors);
    const u64 count = 1 + random_.below(std::min<u64>(kSectors - first, 12));
    bool is_free = true;
    for (u64 i = 0; i < count; ++i) is_free = is_free && !busy[first + i];
    if (is_free) {
      Pending& one = pending.emplace_back();
      const auto value = static_cast<u8>(random_.below(4) == 0 ? 0 : 1 + random_.below(255));
      one.first = first;
      one.count = count;
      one.bytes.assign(count * kSector, value);
      one.piece = buffer_of(std::span<u8>(one.bytes));
      for (u64 i = 0; i < count; ++i) {
        busy[first + i] = true;
        model[first + i] = value;
      }
      if (value != 0)
        one.task.emplace((*image)->write(first * kSector, Buffers(&one.piece, 1)));
      else
        one.task.emplace((*image)->write_zeroes(first * kSector, count * kSector, random_.below(2) == 0));
    } else if (random_.below(4) == 0) {
      Pending& one = pending.emplace_back();
      one.task.emplace((*image)->flush());
    }
    if (random_.below(3) != 0) context_.run_once(IoContext::Wait::kLook);
    settle();
  }
  while (!pending.empty()) {
    ASSERT_FALSE(context_.is_idle()) << "a request waits for nothing";
    context_.run_once(IoContext::Wait::kLook);
    settle();
  }
  const auto content = image->content();
  for (u64 i = 0; i < kSectors; ++i)
    for (u64 byte = 0; byte < kSector; ++byte)
      ASSERT_EQ(content[i * kSector + byte], model[i]) << "sector " << i;
  ASSERT_TRUE(image->close());
  EXPECT_EQ(test::problems(context_, path_), "");
}

/// A discard lets go of clusters that reads and writes are still at: they must not be given to others yet.
TEST_P(Qcow2ConcurrencyTest, ClustersAreNotReusedUnderRequests) {
  auto image = test::open_qcow2(context_, path_);
  ASSERT_TRUE(image);
  constexpr u64 kCluster = 4096;
  for (int round = 0; round < 20; ++round) {
    const std::vector<u8> old(kCluster, 0x11);
    ASSERT_TRUE(image->write(0, old));
    ASSERT_TRUE(image->flush());
    std::vector<u8> seen(kCluster, 0x33);
    const iovec to = buffer_of(std::span<u8>(seen));
    auto read = (*image)->read(0, Buffers(&to, 1));
    auto discard = (*image)->discard(0, kCluster);
    auto flush = (*image)->flush();
    const std::vector<u8> others(kCluster, 0x22);
    const iovec from = buffer_of(std::span(others));
    const u64 elsewhere = kCluster * (1 + static_cast<u64>(round));
    auto write = (*image)->write(elsewhere, Buffers(&from, 1));
    while (!read.done() || !discard.done() || !flush.done() || !write.done())
      context_.run_once(IoContext::Wait::kLook);
    for (const u8 byte : seen) ASSERT_NE(byte, 0x22) << "round " << round;
    EXPECT_TRUE(read.take() && discard.take() && flush.take() && write.take());
  }
  ASSERT_TRUE(image->close());
  EXPECT_EQ(test::problems(context_, path_), "");
}

INSTANTIATE_TEST_SUITE_P(Orders, Qcow2ConcurrencyTest, testing::Range<u64>(0, 12));

}  // namespace
}  // namespace vert::storage::qcow2

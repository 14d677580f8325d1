// What a driver offers arrives at the device, and comes back; both rings.
#include <algorithm>
#include <random>

#include "driver_rig.hpp"

namespace vert::test {
namespace {

using Pop = Virtqueue::Pop;

constexpr u64 kData = DriverRig::kData;

class VirtqueueTest : public testing::TestWithParam<QueueFeatures> {
 protected:
  std::unique_ptr<DriverRig> rig_ = make_driver(GetParam());
  Virtqueue& queue_ = *rig_->queue;
  Request request_;
};

TEST_P(VirtqueueTest, IsEmptyAtFirst) {
  EXPECT_EQ(queue_.pop(request_), Pop::kEmpty);
  EXPECT_FALSE(rig_->take_used());
  EXPECT_FALSE(queue_.interrupt_wanted());
}

TEST_P(VirtqueueTest, GivesChainsAsSpansOfGuestMemory) {
  rig_->store(kData, u64{0x1122334455667788});
  const u16 id = rig_->offer({{kData, 8}, {kData + 0x100, 16}, {kData + 0x2000, 4, true}});
  ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
  EXPECT_EQ(request_.id, id);
  ASSERT_EQ(request_.readable.size(), 2U);
  EXPECT_EQ(request_.readable[0].data(), rig_->memory->host(Gpa(kData), 8));
  EXPECT_EQ(request_.readable_size, 24U);
  ASSERT_EQ(request_.writable.size(), 1U);
  EXPECT_EQ(request_.writable[0].size(), 4U);
  EXPECT_EQ(queue_.pop(request_), Pop::kEmpty);
}

TEST_P(VirtqueueTest, GivesIndirectTablesAsIfTheyWereChains) {
  if (!GetParam().indirect) GTEST_SKIP() << "without indirect descriptors";
  rig_->offer({{kData, 8}, {kData + 0x100, 16, true}, {kData + 0x200, 16, true}}, true);
  ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
  EXPECT_EQ(request_.readable_size, 8U);
  EXPECT_EQ(request_.writable_size, 32U);
}

TEST_P(VirtqueueTest, IndirectTablesWithoutTheFeatureBreakIt) {
  if (GetParam().indirect) GTEST_SKIP() << "with indirect descriptors";
  rig_->offer({{kData, 8}}, true);
  EXPECT_EQ(queue_.pop(request_), Pop::kBroken);
}

TEST_P(VirtqueueTest, BuffersComeBackWithTheirLengthsInTheOrderOfUse) {
  const u16 first = rig_->offer({{kData, 8, true}});
  const u16 second = rig_->offer({{kData + 0x100, 8}});
  Request other;
  ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
  ASSERT_EQ(queue_.pop(other), Pop::kRequest);
  queue_.push(other, 0);
  queue_.push(request_, 5);
  EXPECT_EQ(rig_->take_used(), (Used{second, 0}));
  EXPECT_EQ(rig_->take_used(), (Used{first, 5}));
  EXPECT_FALSE(rig_->take_used());
}

TEST_P(VirtqueueTest, WhatWasPutBackComesAgain) {
  // Often enough that the ring wraps between the two.
  for (int round = 0; round < 20; ++round) {
    const u16 id = rig_->offer({{kData, 8}, {kData + 0x100, 8}, {kData + 0x200, 4, true}});
    ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
    queue_.put_back(request_);
    ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
    EXPECT_EQ(request_.readable_size, 16U);
    queue_.push(request_, 4);
    EXPECT_EQ(rig_->take_used(), (Used{id, 4})) << round;
  }
}

TEST_P(VirtqueueTest, CopiesAcrossSegments) {
  for (u8 i = 0; i < 8; ++i) rig_->store(kData + i * 0x10U, i);
  std::vector<Buffer> buffers;
  for (u32 i = 0; i < 4; ++i) buffers.push_back({kData + i * 0x10U, 1});
  buffers.push_back({kData + 0x1000, 3, true});
  buffers.push_back({kData + 0x2000, 3, true});
  rig_->offer(buffers);
  ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
  std::array<u8, 8> bytes{};
  EXPECT_EQ(request_.copy_out(1, bytes), 3U);
  EXPECT_EQ(bytes, (std::array<u8, 8>{1, 2, 3}));
  const std::array<u8, 4> answer{9, 8, 7, 6};
  EXPECT_EQ(request_.copy_in(2, answer), 4U);
  EXPECT_EQ(rig_->load<u8>(kData + 0x1002), 9);
  EXPECT_EQ(rig_->load<u16>(kData + 0x2000), 0x0708);
  EXPECT_EQ(request_.copy_in(5, answer), 1U) << "no further than the buffer";
}

TEST_P(VirtqueueTest, WhatTheDeviceWroteIsInTheDirtyLog) {
  rig_->offer({{kData, 0x1800, true}});
  ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
  rig_->memory->set_dirty_log(true);
  queue_.push(request_, 0x1800);
  const auto dirty = rig_->memory->take_dirty();
  for (const u64 page : {kData >> kPageShift, (kData >> kPageShift) + 1})
    EXPECT_TRUE(std::ranges::find(dirty, page) != dirty.end()) << page;
}

TEST_P(VirtqueueTest, InterruptsAreWantedUnlessSuppressed) {
  for (const bool suppressed : {false, true}) {
    if (suppressed && GetParam().event_index && !GetParam().packed) break;  // its flag counts no more
    if (suppressed) rig_->suppress_interrupts();
    if (!suppressed && GetParam().event_index) rig_->want_interrupt_after(1);
    rig_->offer({{kData, 8}});
    ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
    queue_.push(request_, 0);
    EXPECT_EQ(queue_.interrupt_wanted(), !suppressed);
    EXPECT_FALSE(queue_.interrupt_wanted()) << "nothing was used since";
    EXPECT_TRUE(rig_->take_used());
  }
}

TEST_P(VirtqueueTest, WithTheEventIndexAnInterruptComesWhenItWasWanted) {
  if (!GetParam().event_index) GTEST_SKIP() << "without the event index";
  // Often enough that all indices and wrap counters come by.
  for (int round = 0; round < 20; ++round) {
    rig_->want_interrupt_after(3);
    for (int i = 1; i <= 4; ++i) {
      rig_->offer({{kData, 8}});
      ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
      queue_.push(request_, 0);
      EXPECT_EQ(queue_.interrupt_wanted(), i == 3) << round << ' ' << i;
    }
    while (rig_->take_used()) {
    }
  }
}

TEST_P(VirtqueueTest, NotificationsAreAskedForAndMissedBuffersSeen) {
  for (int round = 0; round < 20; ++round) {
    EXPECT_FALSE(queue_.enable_notifications());
    rig_->offer({{kData, 8}});
    EXPECT_TRUE(rig_->device_wants_notification()) << round;
    EXPECT_TRUE(queue_.enable_notifications()) << "a buffer has come already";
    ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
    queue_.disable_notifications();
    queue_.push(request_, 0);
    rig_->offer({{kData, 8}});
    EXPECT_FALSE(rig_->device_wants_notification()) << round;
    ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
    queue_.push(request_, 0);
    while (rig_->take_used()) {
    }
  }
}

TEST_P(VirtqueueTest, RandomTrafficComesBackWholeThroughAllWraps) {
  std::mt19937 random(1);
  struct InFlight {
    Request request;
    u16 slots;
  };
  std::vector<InFlight> in_flight;
  std::vector<u16> expected;
  unsigned slots = 0;
  for (int step = 0; step < 5'000; ++step) {
    const auto length = static_cast<u16>(1 + random() % 3);
    if (random() % 2 == 0 && slots + length <= rig_->size()) {
      std::vector<Buffer> buffers;
      for (u16 i = 0; i < length; ++i)
        buffers.push_back({kData + i * 0x1000U, static_cast<u32>(1 + random() % 9), i == 2});
      const u16 id = rig_->offer(buffers);
      Request request;
      ASSERT_EQ(queue_.pop(request), Pop::kRequest) << step;
      ASSERT_EQ(request.id, id);
      u64 bytes = 0;
      for (const Buffer& buffer : buffers) bytes += buffer.length;
      ASSERT_EQ(request.readable_size + request.writable_size, bytes);
      in_flight.push_back({request, length});
      slots += length;
    } else if (!in_flight.empty()) {
      // In order: the split driver of this rig reuses its descriptors in a ring.
      InFlight done = std::move(in_flight.front());
      in_flight.erase(in_flight.begin());
      const auto written = static_cast<u32>(done.request.writable_size);
      queue_.push(done.request, written);
      ASSERT_EQ(rig_->take_used(), (Used{done.request.id, written})) << step;
      slots -= done.slots;
    }
  }
}

TEST_P(VirtqueueTest, GoesOnFromItsState) {
  for (int i = 0; i < 11; ++i) {
    rig_->offer({{kData, 8}});
    ASSERT_EQ(queue_.pop(request_), Pop::kRequest);
    queue_.push(request_, 0);
    ASSERT_TRUE(rig_->take_used());
  }
  const auto restored = Virtqueue::create(*rig_->memory, DriverRig::kLayout, GetParam()).value();
  ASSERT_TRUE(restored->restore(queue_.state()));
  EXPECT_EQ(restored->pop(request_), Pop::kEmpty);
  const u16 id = rig_->offer({{kData, 8, true}});
  ASSERT_EQ(restored->pop(request_), Pop::kRequest);
  restored->push(request_, 8);
  EXPECT_EQ(rig_->take_used(), (Used{id, 8}));
}

constexpr QueueFeatures kSplit{};
constexpr QueueFeatures kSplitAll{.indirect = true, .event_index = true};
constexpr QueueFeatures kPacked{.packed = true};
constexpr QueueFeatures kPackedAll{.packed = true, .indirect = true, .event_index = true};

std::string name_of(const testing::TestParamInfo<QueueFeatures>& info) {
  const QueueFeatures& features = info.param;
  return std::string(features.packed ? "packed" : "split") + (features.indirect ? "_indirect" : "") +
         (features.event_index ? "_event_index" : "");
}

INSTANTIATE_TEST_SUITE_P(Rings, VirtqueueTest, testing::Values(kSplit, kSplitAll, kPacked, kPackedAll),
                         name_of);

}  // namespace
}  // namespace vert::test

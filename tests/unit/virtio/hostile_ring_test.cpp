// Rings that break the rules: the queue says so, and neither loops nor reaches beyond RAM.
#include <random>

#include "driver_rig.hpp"

namespace vert::test {
namespace {

using Pop = Virtqueue::Pop;

constexpr u64 kData = DriverRig::kData;
constexpr u64 kRam = DriverRig::kRamSize;
constexpr QueueFeatures kIndirectFeatures{.indirect = true};
constexpr QueueFeatures kPackedFeatures{.packed = true, .indirect = true};

class HostileRingTest : public testing::TestWithParam<QueueFeatures> {
 protected:
  void expect_broken(const std::vector<Buffer>& buffers) {
    for (const bool indirect : {false, true}) {
      const auto driver = make_driver(GetParam());
      driver->offer(buffers, indirect);
      Request request;
      EXPECT_EQ(driver->queue->pop(request), Pop::kBroken) << indirect;
    }
  }
};

TEST_P(HostileRingTest, BuffersOutsideRam) {
  expect_broken({{kRam, 1}});
  expect_broken({{kRam - 4, 5}});
  expect_broken({{~u64{0}, 2}});
  expect_broken({{~u64{0} - 3, 8}});
  expect_broken({{kData, 8}, {0, ~u32{0}}});
}

TEST_P(HostileRingTest, ReadableBehindWritable) { expect_broken({{kData, 8, true}, {kData, 8}}); }

TEST_P(HostileRingTest, IndirectTablesOfOddOrNoLength) {
  for (const u32 length : {0U, 15U, 17U, 1025U * 16U, ~u32{0}}) {
    const auto driver = make_driver(GetParam());
    if (GetParam().packed) {
      static_cast<PackedDriver&>(*driver).put({DriverRig::kTables, length}, 1, kIndirect);
    } else {
      driver->store_descriptor(SplitDriver::descriptor(0), {DriverRig::kTables, length}, kIndirect, 0);
      static_cast<SplitDriver&>(*driver).publish(0);
    }
    Request request;
    EXPECT_EQ(driver->queue->pop(request), Pop::kBroken) << length;
  }
}

TEST_P(HostileRingTest, BuffersOfferedAnewWhileTheDeviceHasThem) {
  const auto driver = make_driver(GetParam());
  std::vector<Request> requests(driver->size() + 1U);
  for (u16 i = 0; i < driver->size(); ++i) {
    driver->offer({{kData, 8}}, false);
    ASSERT_EQ(driver->queue->pop(requests[i]), Pop::kRequest);
  }
  driver->offer({{kData, 8}}, false);
  EXPECT_NE(driver->queue->pop(requests.back()), Pop::kRequest);
}

/// Bytes of all kinds where the ring is: whatever comes of it, it ends, and every span lies in RAM.
TEST_P(HostileRingTest, RandomRingsGiveOnlyGuestMemory) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 3'000; ++round) {
    const auto driver = make_driver(GetParam());
    memory::GuestMemory& memory = *driver->memory;
    for (const u64 part : {DriverRig::kLayout.descriptors, DriverRig::kLayout.driver, DriverRig::kTables}) {
      for (u64 offset = 0; offset < 0x90; offset += 2)
        driver->store(part + offset, static_cast<u16>(random() % 4 == 0 ? random() : random() % 16));
    }
    Request request;
    for (int i = 0; i < 20; ++i) {
      const Pop result = driver->queue->pop(request);
      if (result != Pop::kRequest) break;
      const u8* ram = memory.host(Gpa(0), kRam);
      for (const auto& span : request.readable)
        ASSERT_TRUE(span.data() >= ram && span.data() + span.size() <= ram + kRam);
      for (const auto& span : request.writable)
        ASSERT_TRUE(span.data() >= ram && span.data() + span.size() <= ram + kRam);
      if (random() % 2 == 0) driver->queue->push(request, static_cast<u32>(random()));
      static_cast<void>(driver->queue->interrupt_wanted());
      static_cast<void>(driver->queue->enable_notifications());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rings, HostileRingTest, testing::Values(kIndirectFeatures, kPackedFeatures),
                         [](const auto& parameter) { return parameter.param.packed ? "packed" : "split"; });

TEST(HostileSplitRing, ChainsThatLoop) {
  SplitDriver driver(kIndirectFeatures);
  driver.store_descriptor(SplitDriver::descriptor(0), {kData, 8}, kNext, 1);
  driver.store_descriptor(SplitDriver::descriptor(1), {kData, 8}, kNext, 0);
  driver.publish(0);
  Request request;
  EXPECT_EQ(driver.queue->pop(request), Pop::kBroken);
}

TEST(HostileSplitRing, TablesInTables) {
  SplitDriver driver(kIndirectFeatures);
  driver.store_descriptor(DriverRig::kTables, {DriverRig::kTables, 16}, kIndirect, 0);
  driver.store_descriptor(SplitDriver::descriptor(0), {DriverRig::kTables, 16}, kIndirect, 0);
  driver.publish(0);
  Request request;
  EXPECT_EQ(driver.queue->pop(request), Pop::kBroken);
}

TEST(HostileSplitRing, IndicesBeyondTheRing) {
  for (const u16 head : {u16{8}, u16{0xFFFF}}) {
    SplitDriver driver(kIndirectFeatures);
    driver.publish(head);
    Request request;
    EXPECT_EQ(driver.queue->pop(request), Pop::kBroken) << head;
  }
  SplitDriver driver(kIndirectFeatures);
  driver.store(DriverRig::kLayout.driver + 2, u16{9});  // more available than there are descriptors
  Request request;
  EXPECT_EQ(driver.queue->pop(request), Pop::kBroken);
}

TEST(HostilePackedRing, ChainsThatNeverEnd) {
  PackedDriver driver(kPackedFeatures);
  for (u16 i = 0; i < driver.size(); ++i) driver.put({kData, 8}, 1, kNext);
  Request request;
  EXPECT_EQ(driver.queue->pop(request), Pop::kBroken);
}

TEST(VirtqueueLayout, OfTheWrongSizeOrPlaceIsRefused) {
  const auto memory = memory::GuestMemory::create({{Gpa(0), kRam}}).value();
  const auto refused = [&](bool packed, auto change) {
    QueueLayout layout = DriverRig::kLayout;
    change(layout);
    return !Virtqueue::create(*memory, layout, {.packed = packed}).has_value();
  };
  for (const bool packed : {false, true}) {
    EXPECT_FALSE(refused(packed, [](QueueLayout&) {}));
    EXPECT_TRUE(refused(packed, [](QueueLayout& l) { l.size = 0; }));
    EXPECT_TRUE(refused(packed, [](QueueLayout& l) { l.size = 2048; }));
    EXPECT_EQ(refused(packed, [](QueueLayout& l) { l.size = 7; }), !packed);
    EXPECT_TRUE(refused(packed, [](QueueLayout& l) { l.descriptors += 8; }));
    EXPECT_TRUE(refused(packed, [](QueueLayout& l) { l.driver += 1; }));
    EXPECT_TRUE(refused(packed, [](QueueLayout& l) { l.device += 2; }));
    EXPECT_TRUE(refused(packed, [](QueueLayout& l) { l.descriptors = kRam - 0x70; }));
    EXPECT_TRUE(refused(packed, [](QueueLayout& l) { l.driver = kRam; }));
    EXPECT_TRUE(refused(packed, [](QueueLayout& l) { l.device = ~u64{0} - 3; }));
  }
}

TEST(VirtqueueState, ThatNoQueueCanHaveIsRefused) {
  const auto memory = memory::GuestMemory::create({{Gpa(0), kRam}}).value();
  const auto split = Virtqueue::create(*memory, DriverRig::kLayout, {}).value();
  EXPECT_TRUE(split->restore({.next = 3, .used = 0xFFFB}));
  EXPECT_FALSE(split->restore({.next = 3, .used = 0xFFFA}));
  EXPECT_FALSE(split->restore({.next = 3, .next_wrap = false, .used = 3}));
  const auto packed = Virtqueue::create(*memory, DriverRig::kLayout, {.packed = true}).value();
  EXPECT_TRUE(packed->restore({.next = 3, .next_wrap = false, .used = 4}));
  EXPECT_FALSE(packed->restore({.next = 8}));
  EXPECT_FALSE(packed->restore({.next = 4, .used = 5}));
}

}  // namespace
}  // namespace vert::test

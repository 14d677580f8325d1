// The block device, from the driver's request to the image and back.
#include "device/virtio/block.hpp"

#include <chrono>
#include <numeric>
#include <thread>

#include "fake_image.hpp"
#include "pci_rig.hpp"

namespace vert::test {
namespace {

using device::virtio::Block;
namespace block = device::virtio::block;
using namespace std::chrono_literals;

constexpr u64 kHeader = DriverRig::kData;
constexpr u64 kStatusByte = DriverRig::kData + 0x100;
constexpr u64 kBytes = DriverRig::kData + 0x1000;
constexpr u64 kDiskSize = u64{1} << 20;
constexpr u8 kUntouched = 0xEE;

template <typename Condition>
bool wait_for(Condition condition) {
  for (int i = 0; i < 10'000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

class BlockTest : public testing::Test {
 protected:
  void start(QueueFeatures rings = {}, u64 features = feature::kVersion1 | block::feature::kFlush,
             Block::Options options = {.serial = "vert-0001"}) {
    std::iota(disk_.bytes.begin(), disk_.bytes.end(), u8{3});
    auto context = storage::IoContext::create().value();
    auto image = std::make_unique<FakeImage>(*context, disk_);
    options.on_full = [this] { ++full_; };
    options.on_error = [this](const Error&) { ++errors_; };
    auto device = Block::create(std::move(context), std::move(image), std::move(options)).value();
    device_ = device.get();
    rig_.emplace(std::move(device), rings);
    if (rings.packed) features |= feature::kRingPacked;
    rig_->start(features);
  }

  /// A request whose header lies at kHeader and whose status is written to kStatusByte.
  u16 offer(const block::Header& header, std::vector<Buffer> data) {
    auto& driver = *rig_->driver;
    driver.store(kHeader, header);
    driver.store(kStatusByte, kUntouched);
    data.insert(data.begin(), {kHeader, sizeof header, false});
    data.push_back({kStatusByte, 1, true});
    return driver.offer(data);
  }
  std::optional<Used> wait_for_used() {
    std::optional<Used> used;
    wait_for([&] { return (used = rig_->driver->take_used()).has_value(); });
    return used;
  }
  /// Its status, or kUntouched if it does not come back.
  u8 carry_out(const block::Header& header, std::vector<Buffer> data, u32 written = 1) {
    const u16 id = offer(header, std::move(data));
    rig_->doorbell(0);
    EXPECT_EQ(wait_for_used(), (Used{id, written}));
    return rig_->driver->load<u8>(kStatusByte);
  }
  bool needs_reset() {
    return wait_for([&] { return (rig_->status() & status::kNeedsReset) != 0; });
  }
  [[nodiscard]] u64 config(u64 offset, unsigned size) {
    return rig_->read(device::virtio::VirtioPci::kDeviceConfig + offset, size);
  }

  FakeDisk disk_{kDiskSize};
  std::atomic<int> full_ = 0;
  std::atomic<int> errors_ = 0;
  Block* device_ = nullptr;
  std::optional<PciRig> rig_;
};

class BlockTransferTest : public BlockTest, public testing::WithParamInterface<bool> {};

TEST_P(BlockTransferTest, ReadsAndWritesSectors) {
  start({.packed = GetParam()});
  auto& memory = *rig_->driver->memory;
  for (u64 round = 0; round < 20; ++round) {
    const u64 sector = round * 7;
    EXPECT_EQ(carry_out({block::kIn, 0, sector}, {{kBytes, 512, true}, {kBytes + 0x1000, 1024, true}}, 1537),
              block::kOk);
    std::vector<u8> bytes(1024);
    ASSERT_TRUE(memory.read(Gpa(kBytes + 0x1000), bytes));
    ASSERT_TRUE(
        std::equal(bytes.begin(), bytes.end(), disk_.bytes.begin() + static_cast<i64>(sector * 512 + 512)));
  }
  rig_->driver->store(kBytes, u64{0x1122'3344'5566'7788});
  EXPECT_EQ(carry_out({block::kOut, 0, 5}, {{kBytes, 512, false}}), block::kOk);
  EXPECT_EQ(disk_.bytes[5 * 512], 0x88);
  EXPECT_EQ(disk_.asked().back(), "write 2560 512");
}

INSTANTIATE_TEST_SUITE_P(Rings, BlockTransferTest, testing::Bool(),
                         [](const auto& parameter) { return parameter.param ? "packed" : "split"; });

TEST_F(BlockTest, RefusesWhatIsNotOnTheDisk) {
  start();
  constexpr u64 kLast = kDiskSize / 512 - 1;
  EXPECT_EQ(carry_out({block::kIn, 0, kLast}, {{kBytes, 512, true}}, 513), block::kOk);
  EXPECT_EQ(carry_out({block::kIn, 0, kLast}, {{kBytes, 1024, true}}), block::kIoError);
  EXPECT_EQ(carry_out({block::kOut, 0, kLast + 1}, {{kBytes, 512, false}}), block::kIoError);
  EXPECT_EQ(carry_out({block::kIn, 0, ~u64{0}}, {{kBytes, 512, true}}), block::kIoError);
  EXPECT_EQ(carry_out({block::kOut, 0, ~u64{0} / 512}, {{kBytes, 512, false}}), block::kIoError);
  EXPECT_EQ(carry_out({block::kIn, 0, 0}, {{kBytes, 100, true}}), block::kIoError) << "no whole sector";
  EXPECT_EQ(disk_.asked(), (std::vector<std::string>{fmt::format("read {} 512", kLast * 512)}));
}

TEST_F(BlockTest, HasASerialNumber) {
  start();
  EXPECT_EQ(carry_out({block::kGetId, 0, 0}, {{kBytes, 20, true}}, 21), block::kOk);
  EXPECT_EQ(rig_->driver->load<u64>(kBytes), 0x3030'302d'7472'6576U) << "vert-000";
  EXPECT_EQ(rig_->driver->load<u16>(kBytes + 8), '1');
}

TEST_F(BlockTest, DoesNotKnowOtherRequests) {
  start();
  EXPECT_EQ(carry_out({14, 0, 0}, {{kBytes, 512, false}}), block::kUnsupported);
  EXPECT_EQ(carry_out({~0U, 0, 0}, {}), block::kUnsupported);
}

TEST_F(BlockTest, FlushesWhenAsked) {
  start();
  EXPECT_EQ(carry_out({block::kOut, 0, 0}, {{kBytes, 512, false}}), block::kOk);
  EXPECT_EQ(carry_out({block::kFlush, 0, 0}, {}), block::kOk);
  EXPECT_EQ(disk_.asked(), (std::vector<std::string>{"write 0 512", "flush"}));
}

TEST_F(BlockTest, WritesAreStableForADriverThatDoesNotFlush) {
  start({}, feature::kVersion1);
  EXPECT_EQ(carry_out({block::kOut, 0, 0}, {{kBytes, 512, false}}), block::kOk);
  EXPECT_EQ(disk_.asked(), (std::vector<std::string>{"write 0 512", "flush"}));
}

TEST_F(BlockTest, TheDriverCanSwitchTheWriteCacheOff) {
  start();
  EXPECT_EQ(config(32, 1), 1U);
  rig_->write(device::virtio::VirtioPci::kDeviceConfig + 32, 1, 0);
  EXPECT_EQ(carry_out({block::kOut, 0, 0}, {{kBytes, 512, false}}), block::kOk);
  EXPECT_EQ(disk_.asked(), (std::vector<std::string>{"write 0 512", "flush"}));
}

TEST_F(BlockTest, DiscardsAndWritesZeroes) {
  start();
  rig_->driver->store(kBytes, block::Segment{8, 16, 0});
  rig_->driver->store(kBytes + 16, block::Segment{100, 1, 0});
  EXPECT_EQ(carry_out({block::kDiscard, 0, 0}, {{kBytes, 32, false}}), block::kOk);
  EXPECT_EQ(carry_out({block::kWriteZeroes, 0, 0}, {{kBytes + 16, 16, false}}), block::kOk);
  rig_->driver->store(kBytes, block::Segment{0, 2, block::kUnmapFlag});
  EXPECT_EQ(carry_out({block::kWriteZeroes, 0, 0}, {{kBytes, 16, false}}), block::kOk);
  EXPECT_EQ(disk_.asked(), (std::vector<std::string>{"discard 4096 8192", "discard 51200 512",
                                                     "zero 51200 512", "zero 0 1024 unmap"}));
}

TEST_F(BlockTest, RefusesBadSegments) {
  start();
  rig_->driver->store(kBytes, block::Segment{kDiskSize / 512, 1, 0});
  EXPECT_EQ(carry_out({block::kDiscard, 0, 0}, {{kBytes, 16, false}}), block::kIoError);
  rig_->driver->store(kBytes, block::Segment{0, 1, block::kUnmapFlag});
  EXPECT_EQ(carry_out({block::kDiscard, 0, 0}, {{kBytes, 16, false}}), block::kUnsupported);
  EXPECT_EQ(carry_out({block::kDiscard, 0, 0}, {{kBytes, 15, false}}), block::kIoError);
  EXPECT_EQ(carry_out({block::kDiscard, 0, 0}, {{kBytes, 33 * 16, false}}), block::kIoError) << "too many";
  EXPECT_TRUE(disk_.asked().empty());
}

TEST_F(BlockTest, AReadOnlyDiskIsNotWritten) {
  disk_.read_only = true;
  start({}, feature::kVersion1);
  EXPECT_NE(rig_->offered() & block::feature::kReadOnly, 0U);
  EXPECT_EQ(rig_->offered() & (block::feature::kDiscard | block::feature::kFlush), 0U);
  EXPECT_EQ(carry_out({block::kOut, 0, 0}, {{kBytes, 512, false}}), block::kIoError);
  rig_->driver->store(kBytes, block::Segment{0, 1, 0});
  EXPECT_EQ(carry_out({block::kDiscard, 0, 0}, {{kBytes, 16, false}}), block::kIoError);
  EXPECT_TRUE(disk_.asked().empty());
}

TEST_F(BlockTest, TellsItsGeometry) {
  start({}, feature::kVersion1, {.queues = 4});
  EXPECT_EQ(config(0, 8), kDiskSize / 512);
  EXPECT_EQ(config(12, 4), 254U) << "seg_max";
  EXPECT_EQ(config(20, 4), 512U) << "blk_size";
  EXPECT_EQ(config(24, 1), 3U) << "physical_block_exp";
  EXPECT_EQ(config(34, 2), 4U) << "num_queues";
  EXPECT_EQ(config(60, 4), 0U) << "behind its end";
}

TEST_F(BlockTest, AnErrorOfTheImageIsAnIoError) {
  start();
  disk_.set_error(EIO);
  EXPECT_EQ(carry_out({block::kIn, 0, 0}, {{kBytes, 512, true}}), block::kIoError);
  EXPECT_EQ(carry_out({block::kOut, 0, 0}, {{kBytes, 512, false}}), block::kIoError);
  EXPECT_EQ(carry_out({block::kFlush, 0, 0}, {}), block::kIoError);
  EXPECT_EQ(full_, 0);
}

TEST_F(BlockTest, TheFirstErrorOfTheImageIsReported) {
  start();
  EXPECT_EQ(carry_out({block::kIn, 0, ~u64{0}}, {{kBytes, 512, true}}), block::kIoError);
  EXPECT_EQ(errors_, 0) << "the driver's own";
  disk_.set_error(EIO);
  EXPECT_EQ(carry_out({block::kIn, 0, 0}, {{kBytes, 512, true}}), block::kIoError);
  EXPECT_EQ(carry_out({block::kOut, 0, 0}, {{kBytes, 512, false}}), block::kIoError);
  EXPECT_EQ(errors_, 1);
}

TEST_F(BlockTest, GoesOnInAnotherMachineWithItsCacheAsItWas) {
  constexpr u64 kFeatures = feature::kVersion1 | block::feature::kFlush | block::feature::kConfigWriteback;
  constexpr u64 kWriteback = VirtioPci::kDeviceConfig + offsetof(block::Config, writeback);
  start({}, kFeatures);
  rig_->write(kWriteback, 1, 0);
  rig_->pci.pause();
  const base::Document saved = rig_->pci.save().value();
  rig_->pci.resume();
  rig_->write(PciRig::kStatus, 1, 0);
  EXPECT_EQ(rig_->read(kWriteback, 1), 1U);
  rig_->pci.pause();
  ASSERT_TRUE(rig_->pci.restore(saved));
  EXPECT_EQ(rig_->pci.save().value(), saved);
  rig_->pci.resume();
  EXPECT_EQ(rig_->read(kWriteback, 1), 0U);
  EXPECT_EQ(carry_out({block::kOut, 0, 5}, {{kBytes, 512, false}}), block::kOk);
}

TEST_F(BlockTest, IsNotSavedWhileARequestWaitsForRoom) {
  start();
  disk_.set_error(ENOSPC);
  offer({block::kOut, 0, 1}, {{kBytes, 512, false}});
  rig_->doorbell(0);
  ASSERT_TRUE(wait_for([&] { return full_ == 1; }));
  rig_->pci.pause();
  EXPECT_FALSE(rig_->pci.save());
  disk_.set_error(0);
  rig_->pci.resume();
  EXPECT_TRUE(wait_for_used());
  rig_->pci.pause();
  EXPECT_TRUE(rig_->pci.save());
}

TEST_F(BlockTest, AFullHostParksTheRequestUntilResume) {
  start();
  disk_.set_error(ENOSPC);
  const u16 id = offer({block::kOut, 0, 9}, {{kBytes, 512, false}});
  rig_->doorbell(0);
  ASSERT_TRUE(wait_for([&] { return full_ == 1; }));
  rig_->pci.pause();
  EXPECT_FALSE(rig_->driver->take_used());
  rig_->pci.resume();  // still full
  ASSERT_TRUE(wait_for([&] { return full_ == 2; }));
  rig_->pci.pause();
  disk_.set_error(0);
  rig_->pci.resume();
  EXPECT_EQ(wait_for_used(), (Used{id, 1}));
  EXPECT_EQ(rig_->driver->load<u8>(kStatusByte), block::kOk);
}

TEST_F(BlockTest, AResetDropsParkedRequests) {
  start();
  disk_.set_error(ENOSPC);
  offer({block::kOut, 0, 9}, {{kBytes, 512, false}});
  rig_->doorbell(0);
  ASSERT_TRUE(wait_for([&] { return full_ == 1; }));
  rig_->write(PciRig::kStatus, 1, 0);
  disk_.set_error(0);
  rig_->pci.pause();
  rig_->pci.resume();
  EXPECT_FALSE(rig_->driver->take_used());
  EXPECT_EQ(rig_->driver->load<u8>(kStatusByte), kUntouched);
}

TEST_F(BlockTest, APauseWaitsForWhatIsInFlightAndBeginsNothing) {
  start();
  disk_.held = true;
  const u16 first = offer({block::kOut, 0, 1}, {{kBytes, 512, false}});
  rig_->doorbell(0);
  ASSERT_TRUE(wait_for([&] { return disk_.waiting == 1; }));
  std::atomic<bool> paused = false;
  std::thread pauser([&] {
    rig_->pci.pause();
    paused = true;
  });
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(paused);
  disk_.held = false;
  pauser.join();
  EXPECT_EQ(rig_->driver->take_used(), (Used{first, 1}));
  const u16 second = offer({block::kOut, 0, 2}, {{kBytes, 512, false}});
  rig_->doorbell(0);
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(rig_->driver->take_used());
  rig_->pci.resume();
  EXPECT_EQ(wait_for_used(), (Used{second, 1}));
}

TEST_F(BlockTest, AResetWaitsForWhatIsInFlight) {
  start();
  disk_.held = true;
  offer({block::kIn, 0, 1}, {{kBytes, 512, true}});
  rig_->doorbell(0);
  ASSERT_TRUE(wait_for([&] { return disk_.waiting == 1; }));
  std::thread release([&] {
    std::this_thread::sleep_for(20ms);
    disk_.held = false;
  });
  rig_->write(PciRig::kStatus, 1, 0);
  EXPECT_FALSE(disk_.held);
  EXPECT_EQ(disk_.waiting, 0);
  release.join();
}

TEST_F(BlockTest, ARequestWithoutHeaderOrStatusBreaksTheQueue) {
  start();
  rig_->driver->offer({{kHeader, 15, false}, {kStatusByte, 1, true}});
  rig_->doorbell(0);
  EXPECT_TRUE(needs_reset());
}

TEST_F(BlockTest, ARequestWithoutStatusBreaksTheQueue) {
  start();
  rig_->driver->offer({{kHeader, 16, false}});
  rig_->doorbell(0);
  EXPECT_TRUE(needs_reset());
  rig_->write(PciRig::kStatus, 1, 0);
  EXPECT_EQ(rig_->status(), 0);
}

TEST_F(BlockTest, ResizesWhileRunning) {
  start();
  rig_->enable_msix();
  ASSERT_TRUE(device_->resize(2 * kDiskSize));
  EXPECT_EQ(config(0, 8), 2 * kDiskSize / 512);
  EXPECT_TRUE(wait_for([&] { return !rig_->messages.empty(); }));
}

TEST_F(BlockTest, ClosesTheImageAtTheEnd) {
  start();
  rig_.reset();
  EXPECT_EQ(disk_.asked(), (std::vector<std::string>{"close"}));
}

}  // namespace
}  // namespace vert::test

// The PCI transport: a driver finds the device, agrees on features, hands queues over, and is interrupted.
#include <cstring>
#include <random>
#include <string>

#include "pci_rig.hpp"

namespace vert::test {
namespace {

using device::virtio::VirtioHost;

constexpr u64 kOwnFeature = u64{1} << 5;

/// Writes down what it is told.
class RecordingDevice final : public VirtioDevice {
 public:
  struct Record {
    std::string calls;
    VirtioHost* host = nullptr;
    u64 features = 0;
    std::map<unsigned, std::unique_ptr<Virtqueue>> queues;
    std::array<u8, 4> config{1, 2, 3, 4};
  };
  explicit RecordingDevice(Record& record) : record_(record) {}

  [[nodiscard]] u16 type() const override { return device::virtio::kBlockDevice; }
  [[nodiscard]] u64 features() const override { return kOwnFeature; }
  [[nodiscard]] std::span<const u16> queue_sizes() const override {
    static constexpr std::array<u16, 2> kSizes = {64, 8};
    return kSizes;
  }
  void read_config(u32 offset, std::span<u8> to) const override {
    for (std::size_t i = 0; i < to.size(); ++i)
      to[i] = offset + i < record_.config.size() ? record_.config[offset + i] : u8{0};
  }
  void write_config(u32 offset, std::span<const u8> from) override {
    for (std::size_t i = 0; i < from.size(); ++i)
      if (offset + i < record_.config.size()) record_.config[offset + i] = from[i];
  }
  void start(VirtioHost& host, u64 features) override {
    record_.calls += "start ";
    record_.host = &host;
    record_.features = features;
  }
  void queue_ready(unsigned index, std::unique_ptr<Virtqueue> queue) override {
    record_.calls += "ready" + std::to_string(index) + " ";
    record_.queues[index] = std::move(queue);
  }
  void queue_notify(unsigned index) override { record_.calls += "notify" + std::to_string(index) + " "; }
  void pause() override { record_.calls += "pause "; }
  void resume() override { record_.calls += "resume "; }
  void queue_reset(unsigned index) override {
    record_.calls += "reset" + std::to_string(index) + " ";
    record_.queues.erase(index);
  }
  void reset() override {
    record_.calls += "reset ";
    record_.queues.clear();
  }

  [[nodiscard]] std::optional<device::virtio::QueueState> queue_state(unsigned index) const override {
    return record_.queues.at(index)->state();
  }
  [[nodiscard]] Result<base::Document> save() const override { return base::Document("all of it"); }
  [[nodiscard]] Status restore(const base::Document& document) override {
    record_.calls += "restore ";
    return document == base::Document("all of it") ? Status() : make_error("that is not mine");
  }

 private:
  Record& record_;
};

class VirtioPciTest : public testing::Test {
 protected:
  VirtioPciTest() { calls(); }
  std::string calls() { return std::exchange(record_.calls, {}); }

  RecordingDevice::Record record_;
  PciRig rig_{std::make_unique<RecordingDevice>(record_)};
};

TEST_F(VirtioPciTest, SaysWhatItIsAndWhereItsRegistersAre) {
  EXPECT_EQ(rig_.pci.config_read(0, 4), 0x1042'1AF4U);
  std::map<u32, u32> offsets;
  auto at = static_cast<u16>(rig_.pci.config_read(device::kPciCapabilityPointer, 1));
  for (; at != 0; at = static_cast<u16>(rig_.pci.config_read(static_cast<u16>(at + 1), 1))) {
    if (rig_.pci.config_read(at, 1) != 0x09) continue;
    EXPECT_EQ(rig_.pci.config_read(static_cast<u16>(at + 4), 1), 0U) << "BAR";
    offsets[rig_.pci.config_read(static_cast<u16>(at + 3), 1)] =
        rig_.pci.config_read(static_cast<u16>(at + 8), 4);
  }
  const std::map<u32, u32> expected = {{1, VirtioPci::kCommon},
                                       {2, VirtioPci::kNotify},
                                       {3, VirtioPci::kIsr},
                                       {4, VirtioPci::kDeviceConfig},
                                       {5, 0}};
  EXPECT_EQ(offsets, expected);
  EXPECT_EQ(rig_.pci.config_read(static_cast<u16>(rig_.capability(0x11) + 2), 2), 2U) << "three vectors";
  EXPECT_EQ(rig_.read(PciRig::kQueueCount, 2), 2U);
}

TEST_F(VirtioPciTest, TakesFeaturesThatItOffers) {
  EXPECT_NE(rig_.offered() & kOwnFeature, 0U);
  EXPECT_TRUE(rig_.negotiate(feature::kVersion1 | kOwnFeature));
}

TEST_F(VirtioPciTest, RefusesDriversWithoutVersion1AndFeaturesThatItDoesNotOffer) {
  EXPECT_FALSE(rig_.negotiate(kOwnFeature));
  rig_.write(PciRig::kStatus, 1, 0);
  EXPECT_FALSE(rig_.negotiate(feature::kVersion1 | u64{1} << 6));
  rig_.write(PciRig::kStatus, 1, PciRig::kReady);
  EXPECT_EQ(calls(), "reset ") << "not started";
}

TEST_F(VirtioPciTest, HandsItsQueuesOverOnceTheDriverIsReady) {
  ASSERT_TRUE(rig_.negotiate(feature::kVersion1 | kOwnFeature));
  rig_.enable_queue(0);
  rig_.doorbell(0);
  EXPECT_EQ(calls(), "") << "not before the driver is ready";
  rig_.write(PciRig::kStatus, 1, PciRig::kReady);
  EXPECT_EQ(calls(), "start ready0 notify0 ");
  EXPECT_EQ(record_.features, feature::kVersion1 | kOwnFeature);
  rig_.doorbell(0);
  rig_.doorbell(1);
  rig_.doorbell(77);
  EXPECT_EQ(calls(), "notify0 ") << "queue 1 is not enabled";
  EXPECT_EQ(rig_.read(PciRig::kQueueEnable, 2), 1U);
}

TEST_F(VirtioPciTest, TheRegistersOfAnEnabledQueueStand) {
  rig_.start();
  rig_.write(PciRig::kQueueSelect, 2, 0);
  rig_.write(PciRig::kQueueDescriptors, 8, 0x7000);
  rig_.write(PciRig::kQueueSize, 2, 2);
  EXPECT_EQ(rig_.read(PciRig::kQueueDescriptors, 8), DriverRig::kLayout.descriptors);
  EXPECT_EQ(rig_.read(PciRig::kQueueSize, 2), DriverRig::kLayout.size);
}

TEST_F(VirtioPciTest, AQueueThatCannotBeNeedsReset) {
  ASSERT_TRUE(rig_.negotiate(feature::kVersion1));
  for (const auto& layout : {QueueLayout{7, 0x1000, 0x2000, 0x3000}, QueueLayout{128, 0x1000, 0x2000, 0x3000},
                             QueueLayout{8, ~u64{0} << 4, 0x2000, 0x3000}}) {
    rig_.enable_queue(0, layout);
    EXPECT_EQ(rig_.read(PciRig::kQueueEnable, 2), 0U);
    EXPECT_NE(rig_.status() & status::kNeedsReset, 0);
    rig_.write(PciRig::kStatus, 1, 0);
    EXPECT_EQ(rig_.status(), 0);
    ASSERT_TRUE(rig_.negotiate(feature::kVersion1));
  }
}

TEST_F(VirtioPciTest, IsAsNewAfterAReset) {
  rig_.start();
  rig_.enable_msix();
  calls();
  rig_.write(PciRig::kStatus, 1, 0);
  EXPECT_EQ(calls(), "reset ");
  EXPECT_EQ(rig_.status(), 0);
  EXPECT_EQ(rig_.read(PciRig::kQueueSize, 2), 64U);
  EXPECT_EQ(rig_.read(PciRig::kQueueEnable, 2), 0U);
  EXPECT_EQ(rig_.read(PciRig::kQueueVector, 2), VirtioPci::kNoVector);
  EXPECT_EQ(rig_.read(PciRig::kConfigVector, 2), VirtioPci::kNoVector);
  rig_.start();
  EXPECT_EQ(calls(), "start ready0 notify0 ");
}

TEST_F(VirtioPciTest, AQueueIsResetAloneAndComesBack) {
  rig_.start(feature::kVersion1 | feature::kRingReset);
  calls();
  rig_.write(PciRig::kQueueReset, 2, 1);
  EXPECT_EQ(calls(), "reset0 ");
  EXPECT_EQ(rig_.read(PciRig::kQueueReset, 2), 0U) << "done";
  EXPECT_EQ(rig_.read(PciRig::kQueueEnable, 2), 0U);
  rig_.enable_queue(0);
  EXPECT_EQ(calls(), "ready0 notify0 ");
}

TEST_F(VirtioPciTest, InterruptsByThePinUntilTheIsrIsRead) {
  rig_.start();
  record_.host->queue_interrupt(0);
  EXPECT_TRUE(rig_.line.level);
  rig_.set_command(device::kPciCommandMemory | device::kPciCommandBusMaster |
                   device::kPciCommandInterruptDisable);
  EXPECT_FALSE(rig_.line.level);
  rig_.set_command(device::kPciCommandMemory | device::kPciCommandBusMaster);
  EXPECT_TRUE(rig_.line.level);
  EXPECT_EQ(rig_.read(VirtioPci::kIsr, 1), 1U);
  EXPECT_FALSE(rig_.line.level);
  EXPECT_EQ(rig_.read(VirtioPci::kIsr, 1), 0U);
  record_.host->config_changed();
  EXPECT_EQ(rig_.read(VirtioPci::kIsr, 1), 2U);
}

TEST_F(VirtioPciTest, InterruptsByTheQueuesVectorWithMsix) {
  rig_.start();
  rig_.enable_msix();
  record_.host->queue_interrupt(0);
  record_.host->config_changed();
  record_.host->queue_interrupt(1);  // it has no vector
  const std::vector<std::pair<u64, u32>> expected = {{0xFEE0'0000, 0x41}, {0xFEE0'0000, 0x40}};
  EXPECT_EQ(rig_.messages, expected);
  EXPECT_FALSE(rig_.line.level);
  rig_.write(PciRig::kQueueVector, 2, 3);
  EXPECT_EQ(rig_.read(PciRig::kQueueVector, 2), VirtioPci::kNoVector) << "there is no such vector";
}

TEST_F(VirtioPciTest, ABrokenDriverIsToldAndHeardNoMore) {
  rig_.start();
  calls();
  record_.host->needs_reset();
  EXPECT_EQ(rig_.read(VirtioPci::kIsr, 1), 2U);
  EXPECT_NE(rig_.status() & status::kNeedsReset, 0);
  rig_.doorbell(0);
  EXPECT_EQ(calls(), "");
}

TEST_F(VirtioPciTest, WorksOnlyAsABusMaster) {
  rig_.start();
  calls();
  rig_.set_command(device::kPciCommandMemory);
  rig_.doorbell(0);
  EXPECT_EQ(calls(), "pause ");
  rig_.set_command(device::kPciCommandMemory | device::kPciCommandBusMaster);
  EXPECT_EQ(calls(), "resume notify0 ") << "what the driver asked for meanwhile is looked at";
}

TEST_F(VirtioPciTest, RestsWhileTheMachineIsPaused) {
  rig_.start();
  calls();
  rig_.pci.pause();
  rig_.set_command(device::kPciCommandMemory);
  rig_.set_command(device::kPciCommandMemory | device::kPciCommandBusMaster);
  EXPECT_EQ(calls(), "pause ");
  rig_.pci.resume();
  EXPECT_EQ(calls(), "resume notify0 ");
}

TEST_F(VirtioPciTest, TheDevicesConfigurationIsItsOwn) {
  EXPECT_EQ(rig_.read(VirtioPci::kDeviceConfig, 4), 0x04030201U);
  EXPECT_EQ(rig_.read(VirtioPci::kDeviceConfig + 2, 4), 0x0403U);
  rig_.write(VirtioPci::kDeviceConfig + 1, 1, 9);
  EXPECT_EQ(record_.config[1], 9);
}

// Through configuration space (virtio 1.2, 4.1.4.9).

class VirtioPciWindowTest : public VirtioPciTest {
 protected:
  void place(u32 bar, u32 offset, u32 length) {
    rig_.pci.config_write(window_ + 4, 1, bar);
    rig_.pci.config_write(window_ + 8, 4, offset);
    rig_.pci.config_write(window_ + 12, 4, length);
  }
  [[nodiscard]] u32 get(u32 offset, u32 length) {
    place(0, offset, length);
    return rig_.pci.config_read(data_, 4) & static_cast<u32>((u64{1} << 8 * length) - 1);
  }
  void put(u32 offset, u32 length, u32 value) {
    place(0, offset, length);
    rig_.pci.config_write(data_, 4, value);
  }

  const u16 window_ = rig_.virtio_capability(5);
  const u16 data_ = static_cast<u16>(window_ + 16);
};

TEST_F(VirtioPciWindowTest, ReachesTheRegistersWithoutTheBar) {
  rig_.start();
  calls();
  rig_.set_command(device::kPciCommandBusMaster);
  put(PciRig::kQueueSelect, 2, 1);
  EXPECT_EQ(get(PciRig::kQueueSelect, 2), 1U);
  EXPECT_EQ(get(PciRig::kStatus, 1), PciRig::kReady);
  EXPECT_EQ(get(VirtioPci::kDeviceConfig, 4), 0x04030201U);
  put(VirtioPci::kNotify, 2, 0);
  EXPECT_EQ(calls(), "notify0 ");
  record_.host->queue_interrupt(0);
  EXPECT_EQ(get(VirtioPci::kIsr, 1), 1U);
  EXPECT_FALSE(rig_.line.level) << "reading the ISR status took it";
}

TEST_F(VirtioPciWindowTest, ANarrowReadOfTheDataReadsTheRegister) {
  rig_.start();
  record_.host->queue_interrupt(0);
  place(0, VirtioPci::kIsr, 1);
  EXPECT_EQ(rig_.pci.config_read(data_, 1), 1U);
}

TEST_F(VirtioPciWindowTest, ReachesNothingButWholeRegistersOfItsRegions) {
  rig_.start();
  record_.host->queue_interrupt(0);
  calls();
  struct Place {
    u32 bar, offset, length;
  };
  constexpr u32 kTwoQueues = 2 * VirtioPci::kNotifyMultiplier;
  for (const Place& at : {Place{1, PciRig::kStatus, 1},
                          {0xFF, PciRig::kStatus, 1},
                          {0, PciRig::kStatus, 0},
                          {0, PciRig::kStatus, 3},
                          {0, PciRig::kStatus - 4, 8},
                          {0, PciRig::kStatus, ~0U},
                          {0, PciRig::kStatus - 1, 2},
                          {0, PciRig::kStatus - 2, 4},
                          {0, 0x40, 4},
                          {0, VirtioPci::kIsr, 2},
                          {0, VirtioPci::kNotify + kTwoQueues, 2},
                          {0, VirtioPci::kMsix, 4},
                          {0, VirtioPci::kBarSize, 4},
                          {0, ~0U, 1},
                          {0, ~0U - 3, 4}}) {
    place(at.bar, at.offset, at.length);
    rig_.pci.config_write(data_, 4, 0);
    EXPECT_EQ(rig_.pci.config_read(data_, 4), 0U) << at.bar << " " << at.offset << " " << at.length;
  }
  EXPECT_EQ(calls(), "");
  EXPECT_EQ(rig_.status(), PciRig::kReady);
  EXPECT_TRUE(rig_.line.level);
}

TEST_F(VirtioPciWindowTest, SavedConfigurationWritesNoRegister) {
  rig_.start();
  put(PciRig::kConfigVector, 2, 0);
  rig_.write(PciRig::kConfigVector, 2, 1);
  calls();
  ASSERT_TRUE(rig_.pci.restore_config(rig_.pci.save_config()));
  EXPECT_EQ(rig_.read(PciRig::kConfigVector, 2), 1U);
}

// Function-level reset.

TEST_F(VirtioPciTest, AFunctionLevelResetTakesTheDeviceAndItsConfiguration) {
  rig_.start();
  rig_.enable_msix();
  record_.host->config_changed();
  const u16 features = rig_.capability(0x13);
  ASSERT_NE(features, 0);
  EXPECT_EQ(rig_.pci.config_read(static_cast<u16>(features + 2), 2), 0x0306U) << "its length; TP and FLR";
  calls();
  rig_.pci.config_write(static_cast<u16>(features + 4), 1, 1);
  EXPECT_EQ(calls(), "reset pause ");
  EXPECT_EQ(rig_.pci.config_read(static_cast<u16>(features + 4), 2), 0U) << "done, and nothing is pending";
  EXPECT_EQ(rig_.pci.config_read(device::kPciCommand, 2), 0U);
  EXPECT_EQ(rig_.pci.config_read(device::kPciBar0, 4), 0U);
  EXPECT_EQ(rig_.pci.config_read(static_cast<u16>(rig_.capability(0x11) + 2), 2), 2U) << "MSI-X is off";

  rig_.place_bar();
  EXPECT_EQ(rig_.status(), 0);
  EXPECT_EQ(rig_.read(VirtioPci::kMsix + 12, 4), 1U) << "masked";
  rig_.start();
  EXPECT_EQ(calls(), "resume start ready0 notify0 ");
}

TEST_F(VirtioPciTest, OnlyTheResetBitResets) {
  rig_.start();
  const u16 features = rig_.capability(0x13);
  rig_.pci.config_write(features, 4, ~0U);
  rig_.pci.config_write(static_cast<u16>(features + 4), 2, 0xFFFE);
  EXPECT_EQ(rig_.status(), PciRig::kReady);
  rig_.pci.config_write(static_cast<u16>(features + 2), 4, 0x1'0000);
  rig_.place_bar();
  EXPECT_EQ(rig_.status(), 0) << "a wide write, too";
}

TEST_F(VirtioPciTest, BearsAnyAccess) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200'000; ++i) {
    const u64 offset =
        random() % 8 == 0 ? random() % VirtioPci::kBarSize : (random() % 5 << 12) + random() % 0x40;
    const unsigned size = 1U << random() % 4;
    const u64 value = random() % 2 == 0 ? random() : random() % 16;
    if (random() % 3 == 0)
      static_cast<void>(rig_.read(offset, size));
    else
      rig_.write(offset, size, value);
    if (random() % 4 == 0)
      rig_.pci.config_write(static_cast<u16>(0x40 + random() % 0x80), 1U << random() % 3,
                            static_cast<u32>(random() % 4 == 0 ? random() : random() % 16));
    if (random() % 16 == 0)
      static_cast<void>(rig_.pci.config_read(static_cast<u16>(random() % 0xC0), 1U << random() % 3));
    if (random() % 64 == 0) rig_.place_bar();
    if (random() % 64 == 0) rig_.set_command(static_cast<u32>(random() % 8) | device::kPciCommandMemory);
    if (record_.calls.size() > 1000) calls();
  }
}

}  // namespace
}  // namespace vert::test

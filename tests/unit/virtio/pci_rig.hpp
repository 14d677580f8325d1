// A driver that reaches a virtio device through PCI configuration space and its BAR.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "device/virtio/virtio_pci.hpp"
#include "driver_rig.hpp"

namespace vert::test {

using device::virtio::VirtioDevice;
using device::virtio::VirtioPci;
namespace feature = device::virtio::feature;
namespace status = device::virtio::status;

class PciRig {
 public:
  static constexpr u64 kBar = 0xC000'0000;
  static constexpr u8 kReady =
      status::kAcknowledge | status::kDriver | status::kFeaturesOk | status::kDriverOk;

  // Registers of the common configuration.
  static constexpr u64 kDeviceFeatureSelect = 0x00;
  static constexpr u64 kDeviceFeature = 0x04;
  static constexpr u64 kDriverFeatureSelect = 0x08;
  static constexpr u64 kDriverFeature = 0x0C;
  static constexpr u64 kConfigVector = 0x10;
  static constexpr u64 kQueueCount = 0x12;
  static constexpr u64 kStatus = 0x14;
  static constexpr u64 kQueueSelect = 0x16;
  static constexpr u64 kQueueSize = 0x18;
  static constexpr u64 kQueueVector = 0x1A;
  static constexpr u64 kQueueEnable = 0x1C;
  static constexpr u64 kQueueDescriptors = 0x20;
  static constexpr u64 kQueueDriver = 0x28;
  static constexpr u64 kQueueDevice = 0x30;
  static constexpr u64 kQueueReset = 0x3A;

  explicit PciRig(std::unique_ptr<VirtioDevice> device, QueueFeatures features = {},
                  std::shared_ptr<memory::GuestMemory> ram = nullptr)
      : driver(make_driver(features, std::move(ram))),
        pci(
            "virtio-test", {mmio, ports}, *driver->memory, line,
            [this](u64 address, u32 data) { messages.emplace_back(address, data); }, std::move(device)) {
    driver->queue.reset();  // the device makes its own
    place_bar();
  }

  void place_bar() {
    pci.config_write(device::kPciBar0, 4, kBar);
    set_command(device::kPciCommandMemory | device::kPciCommandBusMaster);
  }

  void set_command(u32 value) { pci.config_write(device::kPciCommand, 2, value); }
  [[nodiscard]] u64 read(u64 offset, unsigned size) { return mmio.read(kBar + offset, size); }
  void write(u64 offset, unsigned size, u64 value) { mmio.write(kBar + offset, size, value); }
  [[nodiscard]] u8 status() { return static_cast<u8>(read(kStatus, 1)); }

  [[nodiscard]] u64 offered() {
    u64 features = 0;
    for (u32 half : {0U, 1U}) {
      write(kDeviceFeatureSelect, 4, half);
      features |= read(kDeviceFeature, 4) << (32 * half);
    }
    return features;
  }
  /// Up to FEATURES_OK; whether the device took them.
  [[nodiscard]] bool negotiate(u64 features) {
    write(kStatus, 1, status::kAcknowledge | status::kDriver);
    for (u32 half : {0U, 1U}) {
      write(kDriverFeatureSelect, 4, half);
      write(kDriverFeature, 4, features >> (32 * half) & 0xFFFF'FFFF);
    }
    write(kStatus, 1, status::kAcknowledge | status::kDriver | status::kFeaturesOk);
    return (status() & status::kFeaturesOk) != 0;
  }
  void enable_queue(u16 index, const QueueLayout& layout = DriverRig::kLayout) {
    write(kQueueSelect, 2, index);
    write(kQueueSize, 2, layout.size);
    write(kQueueDescriptors, 8, layout.descriptors);
    write(kQueueDriver, 4, layout.driver);
    write(kQueueDriver + 4, 4, layout.driver >> 32);
    write(kQueueDevice, 8, layout.device);
    write(kQueueEnable, 2, 1);
  }
  void start(u64 features = feature::kVersion1) {
    ASSERT_TRUE(negotiate(features));
    enable_queue(0);
    write(kStatus, 1, kReady);
    ASSERT_EQ(status(), kReady);
  }
  /// With the rings of `drivers`, one a queue, of which `driver` is the first.
  void start(u64 features, const std::vector<DriverRig*>& drivers) {
    ASSERT_TRUE(negotiate(features));
    for (u16 i = 0; i < drivers.size(); ++i) enable_queue(i, drivers[i]->layout);
    write(kStatus, 1, kReady);
    ASSERT_EQ(status(), kReady);
  }
  void doorbell(u16 queue) { write(VirtioPci::kNotify + queue * VirtioPci::kNotifyMultiplier, 2, queue); }
  void enable_msix() {
    for (u32 vector : {0U, 1U}) {
      write(VirtioPci::kMsix + vector * 16, 8, 0xFEE0'0000);
      write(VirtioPci::kMsix + vector * 16 + 8, 4, 0x40 + vector);
      write(VirtioPci::kMsix + vector * 16 + 12, 4, 0);
    }
    pci.config_write(static_cast<u16>(capability(device::Msix::kCapabilityId) + 2), 2, 0x8000);
    write(kConfigVector, 2, 0);
    write(kQueueSelect, 2, 0);
    write(kQueueVector, 2, 1);
  }
  /// The first capability of that kind; 0 if there is none.
  [[nodiscard]] u16 capability(u8 id) {
    return find_capability([&](u16 at) { return pci.config_read(at, 1) == id; });
  }
  /// The same for virtio's own kinds.
  [[nodiscard]] u16 virtio_capability(u8 type) {
    return find_capability([&](u16 at) {
      return pci.config_read(at, 1) == 0x09 && pci.config_read(static_cast<u16>(at + 3), 1) == type;
    });
  }
  template <typename IsWanted>
  [[nodiscard]] u16 find_capability(IsWanted is_wanted) {
    auto at = static_cast<u16>(pci.config_read(device::kPciCapabilityPointer, 1));
    while (at != 0 && !is_wanted(at)) at = static_cast<u16>(pci.config_read(static_cast<u16>(at + 1), 1));
    return at;
  }

  struct Line final : device::InterruptLine {
    void set(bool on) override { level = on; }
    std::atomic<bool> level = false;
  };

  memory::Bus mmio;
  memory::Bus ports;
  Line line;
  std::vector<std::pair<u64, u32>> messages;
  std::unique_ptr<DriverRig> driver;
  VirtioPci pci;
};

}  // namespace vert::test

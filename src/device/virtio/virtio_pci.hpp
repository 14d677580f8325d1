// The PCI transport of a virtio device (virtio 1.2, 4.1): one function with one memory BAR.
//
// Owned by machine/. Registers on any vCPU thread; interrupts on any thread. Two mutexes: one for the
// registers and all calls of the device, and further in one for the interrupt pin. The device's threads take
// only the latter, so that a reset can wait for them.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "device/interrupt_line.hpp"
#include "device/pci/msix.hpp"
#include "device/pci/pci_device.hpp"
#include "device/virtio/device.hpp"

namespace vert::device::virtio {

/// Device status (virtio 1.2, 2.1).
namespace status {
inline constexpr u8 kAcknowledge = 1;
inline constexpr u8 kDriver = 2;
inline constexpr u8 kDriverOk = 4;
inline constexpr u8 kFeaturesOk = 8;
inline constexpr u8 kNeedsReset = 64;
inline constexpr u8 kFailed = 128;
}  // namespace status

struct VirtioQueueState {
  u16 size = 0;
  bool enabled = false;
  u16 vector = 0xFFFF;
  u64 descriptors = 0;
  u64 driver = 0;
  u64 device = 0;
  bool works = false;  // enabled, and it did not break
  QueueState position;

  template <typename Archive>
  void fields(Archive& a) {
    a("size", size);
    a("enabled", enabled);
    a("vector", vector);
    a("descriptors", descriptors);
    a("driver", driver);
    a("device", device);
    a("works", works);
    a("position", position);
  }
};

struct VirtioPciState {
  u32 device_feature_select = 0;
  u32 driver_feature_select = 0;
  u64 driver_features = 0;
  u16 queue_select = 0;
  u8 status = 0;
  u8 config_generation = 0;
  u16 config_vector = 0xFFFF;
  u8 isr = 0;
  std::vector<VirtioQueueState> queues;
  MsixState msix;

  template <typename Archive>
  void fields(Archive& a) {
    a("device_feature_select", device_feature_select);
    a("driver_feature_select", driver_feature_select);
    a("driver_features", driver_features);
    a("queue_select", queue_select);
    a("status", status);
    a("config_generation", config_generation);
    a("config_vector", config_vector);
    a("isr", isr);
    a("queues", queues);
    a("msix", msix);
  }
};

class VirtioPci final : public PciDevice, private memory::BusDevice, private VirtioHost {
 public:
  static constexpr u16 kVendor = 0x1AF4;
  static constexpr u16 kFirstDevice = 0x1040;  // plus the device type
  static constexpr u16 kNoVector = 0xFFFF;

  // Places in the BAR.
  static constexpr u32 kCommon = 0x0000;
  static constexpr u32 kIsr = 0x1000;
  static constexpr u32 kDeviceConfig = 0x2000;
  static constexpr u32 kNotify = 0x3000;
  static constexpr u32 kMsix = 0x4000;
  static constexpr u32 kBarSize = 0x8000;
  static constexpr u32 kNotifyMultiplier = 4;

  /// `memory` and `line` outlive it.
  VirtioPci(std::string name, PciBuses buses, memory::GuestMemory& memory, InterruptLine& line,
            Msix::Send send, std::unique_ptr<VirtioDevice> device);
  ~VirtioPci() override;

  /// While the machine is paused, the device touches no guest memory.
  void pause();
  void resume();
  /// Back to power-on.
  void reset();
  /// The transport, the configuration space and the device. Only while paused, with no vCPU running. Error:
  /// why the device cannot be saved now.
  [[nodiscard]] Result<base::Document> save() const;
  /// Likewise. After an error, the function is as before, or as after reset().
  [[nodiscard]] Status restore(const base::Document& document);
  /// Whether one of its messages, as they stand, is an NMI or INIT.
  [[nodiscard]] bool sends_unmaskable() const;

 private:
  struct Queue {
    u16 size = 0;
    bool enabled = false;
    QueueLayout layout;
    std::unique_ptr<Virtqueue> waiting;  // enabled, and the driver is not ready yet
  };

  [[nodiscard]] u64 read(u64 offset, unsigned size) override;
  void write(u64 offset, unsigned size, u64 value) override;
  void on_config_read(u16 offset, unsigned size) override;
  void on_config_written(u16 offset, unsigned size, u32 value) override;
  void on_config_changed() override;

  void queue_interrupt(unsigned queue) override;
  void config_changed() override;
  void needs_reset() override;

  struct Region {
    u8 type;
    u32 offset;
    u32 size;
  };
  /// A window on the registers in configuration space, for who cannot reach the BAR (4.1.4.9).
  struct Window {
    u64 offset;
    unsigned size;  // 1, 2 or 4
  };

  [[nodiscard]] std::array<Region, 4> regions() const;
  u16 add_virtio_capability(const Region& region, u8 extra);
  void add_capabilities();
  [[nodiscard]] std::optional<Window> window() const;
  [[nodiscard]] u64 read_common(u64 offset, unsigned size);
  void write_common(u64 offset, unsigned size, u64 value);
  void write_queue(u64 offset, unsigned size, u64 value);
  void write_driver_features(u32 value);
  void write_status(u8 value);
  [[nodiscard]] Result<std::unique_ptr<Virtqueue>> make_queue(unsigned index);
  void enable_queue(unsigned index);
  void reset_queue(unsigned index);
  void clear_queue(unsigned index);
  void notify(unsigned index);
  void start();
  void reset_device();
  void reset_registers();
  [[nodiscard]] VirtioPciState save_transport() const;
  [[nodiscard]] VirtioQueueState save_queue(unsigned index) const;
  [[nodiscard]] Status check(const VirtioPciState& state) const;
  [[nodiscard]] Status restore_transport(const VirtioPciState& state);
  [[nodiscard]] Status restore_queue(unsigned index, const VirtioQueueState& state);
  [[nodiscard]] Status restore_parts(const VirtioPciState& state, const base::Document& document);

  [[nodiscard]] u64 offered() const;
  [[nodiscard]] bool accepted(u64 feature) const { return (driver_features_ & feature) != 0; }
  [[nodiscard]] bool has_status(u8 bits) const { return (status_.load() & bits) == bits; }
  [[nodiscard]] u16 stored_vector(u64 value) const;
  [[nodiscard]] u8 take_isr();
  void raise(u16 vector, u8 isr_bit);
  void drive_pin();
  void hold_device(bool on);

  memory::GuestMemory& memory_;
  InterruptLine& line_;
  Msix msix_;
  u16 msix_capability_ = 0;
  u16 window_capability_ = 0;
  u16 reset_capability_ = 0;
  const std::unique_ptr<VirtioDevice> device_;

  mutable std::mutex mutex_;  // all until the next one
  u32 device_feature_select_ = 0;
  u32 driver_feature_select_ = 0;
  u64 driver_features_ = 0;
  u16 queue_select_ = 0;
  std::vector<Queue> queues_;
  bool bus_master_ = false;
  bool machine_paused_ = false;
  bool held_ = true;  // the device is paused, for one of the two

  std::atomic<u8> status_ = 0;
  std::atomic<u8> config_generation_ = 0;
  std::atomic<u16> config_vector_ = kNoVector;
  std::vector<std::atomic<u16>> queue_vectors_;

  mutable std::mutex pin_mutex_;
  u8 isr_ = 0;
  bool pin_disabled_ = false;
};

}  // namespace vert::device::virtio

// What a virtio device is to its transport, and the transport to it.
//
// Calls of a device come one at a time, on vCPU threads, with the transport's lock held. A device that works
// on a thread of its own locks for itself; it may call VirtioHost from there, at any time before reset()
// returns.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "device/virtio/virtqueue.hpp"

namespace vert::device::virtio {

/// Device types (virtio 1.2, 5).
inline constexpr u16 kNetworkDevice = 1;
inline constexpr u16 kBlockDevice = 2;
inline constexpr u16 kConsoleDevice = 3;
inline constexpr u16 kEntropyDevice = 4;

/// Feature bits of all devices (virtio 1.2, 6).
namespace feature {
inline constexpr u64 kIndirectDescriptors = u64{1} << 28;
inline constexpr u64 kEventIndex = u64{1} << 29;
inline constexpr u64 kVersion1 = u64{1} << 32;
inline constexpr u64 kRingPacked = u64{1} << 34;
inline constexpr u64 kNotificationData = u64{1} << 38;
inline constexpr u64 kRingReset = u64{1} << 40;
}  // namespace feature

/// What a device may ask of its transport. Any thread; none of it calls the device.
class VirtioHost {
 public:
  virtual ~VirtioHost() = default;
  /// Buffers of the queue were used, and interrupt_wanted() said so.
  virtual void queue_interrupt(unsigned queue) = 0;
  /// The device-specific configuration changed.
  virtual void config_changed() = 0;
  /// The driver broke the rules: it has to reset the device (DEVICE_NEEDS_RESET).
  virtual void needs_reset() = 0;
};

class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;

  [[nodiscard]] virtual u16 type() const = 0;
  /// Of its own, below bit 24 and from 50 on; the transport offers those of the rings.
  [[nodiscard]] virtual u64 features() const = 0;
  /// The largest size of each queue; at most Virtqueue::kMaxSize.
  [[nodiscard]] virtual std::span<const u16> queue_sizes() const = 0;

  /// Its configuration space, from `offset` on; bytes beyond it are zero.
  virtual void read_config(u32 offset, std::span<u8> to) const = 0;
  virtual void write_config(u32 offset, std::span<const u8> from) = 0;

  /// The driver is ready; `features` are those it accepted. queue_ready() follows for each enabled queue.
  virtual void start(VirtioHost& host, u64 features) = 0;
  /// The device takes `queue` over, until queue_reset() or reset().
  virtual void queue_ready(unsigned index, std::unique_ptr<Virtqueue> queue) = 0;
  /// There may be buffers; also once after queue_ready().
  virtual void queue_notify(unsigned index) = 0;
  /// Nothing is taken from queues and nothing is in flight from when this returns until resume().
  virtual void pause() = 0;
  virtual void resume() = 0;
  /// Once this returns, the device neither touches the queue nor the buffers that were in it.
  virtual void queue_reset(unsigned index) = 0;
  /// The same for all queues, and the device is as before start(). Also when it has not been started.
  virtual void reset() = 0;

  // Only while paused.

  /// How far the device has come with the queue; nothing if it has none there, or the queue broke.
  [[nodiscard]] virtual std::optional<QueueState> queue_state(unsigned index) const = 0;
  /// What else it has to remember. Error: why it cannot be saved now.
  [[nodiscard]] virtual Result<base::Document> save() const = 0;
  /// Comes after start() and queue_ready(), if the driver was ready.
  [[nodiscard]] virtual Status restore(const base::Document& document) = 0;

 protected:
  VirtioDevice() = default;
};

}  // namespace vert::device::virtio

// A virtqueue as its device sees it (virtio 1.2, 2.6), made when the driver enables it.
//
// Owned by the device; one thread at a time. The ring is in guest memory and the guest is hostile: indices
// and descriptors are copied once, then checked, and nothing that the guest writes makes a call here loop or
// reach beyond RAM. A ring that breaks the rules gives kBroken: the device then asks to be reset.
#pragma once

#include <memory>

#include "base/archive.hpp"
#include "base/error.hpp"
#include "device/virtio/request.hpp"

namespace vert::device::virtio {

/// Where the driver put the three parts (virtio 1.2, 4.1.4.3), as guest-physical addresses.
struct QueueLayout {
  u16 size = 0;  // in descriptors
  u64 descriptors = 0;
  u64 driver = 0;
  u64 device = 0;
};

/// Of the features that were negotiated, those that change the ring.
struct QueueFeatures {
  bool packed = false;
  bool indirect = false;
  bool event_index = false;
};

/// How far the device has come. Without requests in flight, this and guest memory are the whole queue.
struct QueueState {
  u16 next = 0;  // where the next available buffer will be
  bool next_wrap = true;
  u16 used = 0;  // where the next used buffer will go
  bool used_wrap = true;

  template <typename Archive>
  void fields(Archive& a) {
    a("next", next);
    a("next_wrap", next_wrap);
    a("used", used);
    a("used_wrap", used_wrap);
  }
};

class Virtqueue {
 public:
  static constexpr u16 kMaxSize = 1024;

  enum class Pop : u8 { kEmpty, kRequest, kBroken };

  /// Error: a size that is no power of two (packed: 0), or above kMaxSize; parts that are not aligned or not
  /// in RAM. `memory` outlives the queue.
  [[nodiscard]] static Result<std::unique_ptr<Virtqueue>> create(memory::GuestMemory& memory,
                                                                 const QueueLayout& layout,
                                                                 QueueFeatures features);
  virtual ~Virtqueue() = default;
  Virtqueue(const Virtqueue&) = delete;
  Virtqueue& operator=(const Virtqueue&) = delete;

  /// Takes the next available buffer. There are never more requests in flight than descriptors.
  [[nodiscard]] virtual Pop pop(Request& request) = 0;
  /// Undoes the last pop(), which gave `request`.
  virtual void put_back(const Request& request) = 0;
  /// Gives a request back to the driver; the first `written` bytes of its writable part are the answer. In
  /// any order.
  void push(const Request& request, u32 written);
  /// Whether the driver wants an interrupt for what was pushed since this was last asked.
  [[nodiscard]] virtual bool interrupt_wanted() = 0;

  /// Asks the driver to notify the device of the next buffer. True if there is one already, and no
  /// notification will come for it.
  [[nodiscard]] virtual bool enable_notifications() = 0;
  /// Lets it know that the device looks by itself. Notifications may come nevertheless.
  virtual void disable_notifications() = 0;

  [[nodiscard]] virtual QueueState state() const = 0;
  /// False: not a state that a queue of this size can have.
  [[nodiscard]] virtual bool restore(const QueueState& state) = 0;

 protected:
  explicit Virtqueue(memory::GuestMemory& memory) : memory_(memory) {}

  virtual void push_used(const Request& request, u32 written) = 0;

  /// Descriptors of an indirect table (virtio 1.2, 2.7.5.3 and 2.8.7), or nothing if it is none.
  [[nodiscard]] std::span<const u8> indirect_table(u64 address, u32 length) const;
  [[nodiscard]] memory::GuestMemory& memory() { return memory_; }

 private:
  memory::GuestMemory& memory_;
};

}  // namespace vert::device::virtio

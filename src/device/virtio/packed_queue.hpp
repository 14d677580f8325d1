// The packed ring (virtio 1.2, 2.8): one ring of descriptors, which the device overwrites as it uses them.
#pragma once

#include "device/virtio/virtqueue.hpp"

namespace vert::device::virtio {

class PackedQueue final : public Virtqueue {
 public:
  /// Null if the parts are not aligned or not in RAM.
  [[nodiscard]] static std::unique_ptr<Virtqueue> create(memory::GuestMemory& memory,
                                                         const QueueLayout& layout, QueueFeatures features);

  [[nodiscard]] Pop pop(Request& request) override;
  void put_back(const Request& request) override;
  [[nodiscard]] bool interrupt_wanted() override;
  [[nodiscard]] bool enable_notifications() override;
  void disable_notifications() override;
  [[nodiscard]] QueueState state() const override;
  [[nodiscard]] bool restore(const QueueState& state) override;

 protected:
  void push_used(const Request& request, u32 written) override;

 private:
  /// A place in the ring, and the wrap counter there, which changes each time round (2.8.1).
  struct Position {
    u16 index = 0;
    bool wrap = true;
  };

  PackedQueue(memory::GuestMemory& memory, u16 size, QueueFeatures features)
      : Virtqueue(memory), size_(size), features_(features) {}

  [[nodiscard]] u8* descriptor(u16 index) const;
  [[nodiscard]] bool is_available(Position position) const;
  [[nodiscard]] bool gather_table(std::span<const u8> table, RequestBuilder& builder) const;
  void advance(Position& position, u16 slots) const;
  [[nodiscard]] unsigned distance(Position from, Position to) const;

  const u16 size_;
  const QueueFeatures features_;
  u8* ring_ = nullptr;
  const u8* driver_event_ = nullptr;  // what interrupts the driver wants
  u8* device_event_ = nullptr;        // what notifications the device wants

  Position next_;
  Position used_;
  u32 unsignalled_ = 0;  // slots used since the driver was last told, at most twice the ring
};

}  // namespace vert::device::virtio

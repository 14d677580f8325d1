// The split ring (virtio 1.2, 2.7): a table of descriptors, the driver's ring of heads of chains, and the
// device's ring of those it has used.
#pragma once

#include "device/virtio/virtqueue.hpp"

namespace vert::device::virtio {

class SplitQueue final : public Virtqueue {
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
  SplitQueue(memory::GuestMemory& memory, u16 size, QueueFeatures features)
      : Virtqueue(memory), size_(size), features_(features) {}

  [[nodiscard]] bool gather_chain(std::span<const u8> table, u16 index, bool in_table,
                                  RequestBuilder& builder) const;
  [[nodiscard]] u16 available_index() const;

  const u16 size_;
  const QueueFeatures features_;
  const u8* descriptors_ = nullptr;
  const u8* available_ = nullptr;
  u8* used_ring_ = nullptr;

  u16 next_ = 0;       // free-running, as the indices in the rings
  u16 used_ = 0;       // likewise
  u16 signalled_ = 0;  // `used_` when the driver was last told
};

}  // namespace vert::device::virtio

#include "device/virtio/split_queue.hpp"

#include "device/virtio/ring_access.hpp"

namespace vert::device::virtio {
namespace {

// Both rings begin with flags and an index; behind their elements is the other side's event index.
constexpr u32 kFlags = 0;
constexpr u32 kIndex = 2;
constexpr u32 kElements = 4;
constexpr u32 kAvailableSize = 2;
constexpr u32 kUsedSize = 8;
constexpr u16 kNoInterrupt = 1;
constexpr u16 kNoNotify = 1;

struct Descriptor {
  u64 address;
  u32 length;
  u16 flags;
  u16 next;
};
static_assert(sizeof(Descriptor) == kDescriptorSize);

struct UsedElement {
  u32 id;
  u32 length;
};

}  // namespace

std::unique_ptr<Virtqueue> SplitQueue::create(memory::GuestMemory& memory, const QueueLayout& layout,
                                              QueueFeatures features) {
  const u64 size = layout.size;
  std::unique_ptr<SplitQueue> queue(new SplitQueue(memory, layout.size, features));
  queue->descriptors_ = ring_part(memory, layout.descriptors, size * kDescriptorSize, 16);
  queue->available_ = ring_part(memory, layout.driver, kElements + size * kAvailableSize + 2, 2);
  queue->used_ring_ = ring_part(memory, layout.device, kElements + size * kUsedSize + 2, 4);
  const bool complete =
      queue->descriptors_ != nullptr && queue->available_ != nullptr && queue->used_ring_ != nullptr;
  return complete ? std::move(queue) : nullptr;
}

u16 SplitQueue::available_index() const { return load_u16(available_ + kIndex, std::memory_order_acquire); }

Virtqueue::Pop SplitQueue::pop(Request& request) {
  const auto waiting = static_cast<u16>(available_index() - next_);
  if (waiting == 0) return Pop::kEmpty;
  const auto in_flight = static_cast<u16>(next_ - used_);
  if (waiting > size_ || in_flight >= size_) return Pop::kBroken;  // offered anew while the device has it
  const u8* element = available_ + kElements + (next_ % size_) * kAvailableSize;
  const u16 head = load_u16(element, std::memory_order_relaxed);
  RequestBuilder builder(memory(), request);
  const std::span table(descriptors_, size_ * kDescriptorSize);
  if (!gather_chain(table, head, false, builder)) return Pop::kBroken;
  request.id = head;
  request.ring_slots = 1;
  ++next_;
  return Pop::kRequest;
}

void SplitQueue::put_back(const Request& /*request*/) { --next_; }

/// Follows a chain through `table`. It has at most as many links as the table has descriptors: more are a
/// loop. Normal descriptors may end in one that names an indirect table, in which there is no other
/// (virtio 1.2, 2.7.5.3).
bool SplitQueue::gather_chain(std::span<const u8> table, u16 index, bool in_table,
                              RequestBuilder& builder) const {
  const std::size_t count = table.size() / kDescriptorSize;
  for (std::size_t links = 0; links < count; ++links) {
    if (index >= count) return false;
    const auto descriptor = copy_once<Descriptor>(table.data() + index * kDescriptorSize);
    const bool more = (descriptor.flags & kDescriptorNext) != 0;
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      if (in_table || more || !features_.indirect) return false;
      const auto indirect = indirect_table(descriptor.address, descriptor.length);
      return !indirect.empty() && gather_chain(indirect, 0, true, builder);
    }
    const bool writes = (descriptor.flags & kDescriptorWrite) != 0;
    if (!builder.add(descriptor.address, descriptor.length, writes)) return false;
    if (!more) return true;
    index = descriptor.next;
  }
  return false;
}

void SplitQueue::push_used(const Request& request, u32 written) {
  u8* element = used_ring_ + kElements + (used_ % size_) * kUsedSize;
  const UsedElement used{request.id, written};
  std::memcpy(element, &used, sizeof used);
  memory().written(element, sizeof used);
  ++used_;
  store_u16(memory(), used_ring_ + kIndex, used_, std::memory_order_release);
}

bool SplitQueue::interrupt_wanted() {
  const auto since = static_cast<u16>(used_ - signalled_);
  signalled_ = used_;
  if (since == 0) return false;
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the index is seen before the wish is read
  if (!features_.event_index)
    return (load_u16(available_ + kFlags, std::memory_order_relaxed) & kNoInterrupt) == 0;
  const u16 event = load_u16(available_ + kElements + size_ * kAvailableSize, std::memory_order_relaxed);
  return static_cast<u16>(used_ - event - 1) < since;  // virtio 1.2, 2.7.10
}

bool SplitQueue::enable_notifications() {
  if (features_.event_index)
    store_u16(memory(), used_ring_ + kElements + size_ * kUsedSize, next_, std::memory_order_relaxed);
  else
    store_u16(memory(), used_ring_ + kFlags, 0, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the wish is seen before the index is read
  return available_index() != next_;
}

void SplitQueue::disable_notifications() {
  if (!features_.event_index) store_u16(memory(), used_ring_ + kFlags, kNoNotify, std::memory_order_relaxed);
}

QueueState SplitQueue::state() const { return {.next = next_, .used = used_}; }

bool SplitQueue::restore(const QueueState& state) {
  next_ = state.next;
  used_ = signalled_ = state.used;
  return state.next_wrap && state.used_wrap && static_cast<u16>(next_ - used_) <= size_;
}

}  // namespace vert::device::virtio

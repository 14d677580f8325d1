#include "device/virtio/packed_queue.hpp"

#include <algorithm>

#include "device/virtio/ring_access.hpp"

namespace vert::device::virtio {
namespace {

constexpr u16 kAvailable = 1U << 7;
constexpr u16 kUsed = 1U << 15;
constexpr u32 kDescriptorFlags = 14;

// Event suppression (2.8.10): an offset with the wrap counter in bit 15, and flags.
constexpr u32 kEventSize = 4;
constexpr u32 kEventFlags = 2;
constexpr u16 kEventWrap = 1U << 15;
constexpr u16 kEventsOff = 1;
constexpr u16 kEventAtOffset = 2;

struct Descriptor {
  u64 address;
  u32 length;
  u16 id;
  u16 flags;
};
static_assert(sizeof(Descriptor) == kDescriptorSize);

}  // namespace

std::unique_ptr<Virtqueue> PackedQueue::create(memory::GuestMemory& memory, const QueueLayout& layout,
                                               QueueFeatures features) {
  std::unique_ptr<PackedQueue> queue(new PackedQueue(memory, layout.size, features));
  queue->ring_ = ring_part(memory, layout.descriptors, u64{layout.size} * kDescriptorSize, 16);
  queue->driver_event_ = ring_part(memory, layout.driver, kEventSize, 4);
  queue->device_event_ = ring_part(memory, layout.device, kEventSize, 4);
  const bool complete =
      queue->ring_ != nullptr && queue->driver_event_ != nullptr && queue->device_event_ != nullptr;
  return complete ? std::move(queue) : nullptr;
}

u8* PackedQueue::descriptor(u16 index) const { return ring_ + index * kDescriptorSize; }

bool PackedQueue::is_available(Position position) const {
  const u16 flags = load_u16(descriptor(position.index) + kDescriptorFlags, std::memory_order_acquire);
  return ((flags & kAvailable) != 0) == position.wrap && ((flags & kUsed) != 0) != position.wrap;
}

void PackedQueue::advance(Position& position, u16 slots) const {
  const unsigned index = position.index + slots;
  if (index >= size_) position.wrap = !position.wrap;
  position.index = static_cast<u16>(index >= size_ ? index - size_ : index);
}

/// How many slots `to` is ahead of `from`, with the wrap counters taken into account.
unsigned PackedQueue::distance(Position from, Position to) const {
  const auto place = [this](Position position) { return position.index + (position.wrap ? 0U : size_); };
  return (place(to) + 2U * size_ - place(from)) % (2U * size_);
}

/// A chain lies in the slots that follow, and its last descriptor has the identifier (2.8.6).
Virtqueue::Pop PackedQueue::pop(Request& request) {
  if (!is_available(next_)) return Pop::kEmpty;
  const unsigned free_slots = size_ - distance(used_, next_);
  RequestBuilder builder(memory(), request);
  Position position = next_;
  bool more = true;
  for (u16 slots = 1; more; ++slots) {
    if (slots > free_slots) return Pop::kBroken;  // a loop, or slots that the device still has
    const auto descriptor_at = copy_once<Descriptor>(descriptor(position.index));
    advance(position, 1);
    more = (descriptor_at.flags & kDescriptorNext) != 0;
    if ((descriptor_at.flags & kDescriptorIndirect) != 0) {
      if (slots != 1 || more || !features_.indirect) return Pop::kBroken;
      const auto table = indirect_table(descriptor_at.address, descriptor_at.length);
      if (table.empty() || !gather_table(table, builder)) return Pop::kBroken;
    } else if (!builder.add(descriptor_at.address, descriptor_at.length,
                            (descriptor_at.flags & kDescriptorWrite) != 0)) {
      return Pop::kBroken;
    }
    request.id = descriptor_at.id;
    request.ring_slots = slots;
  }
  next_ = position;
  return Pop::kRequest;
}

void PackedQueue::put_back(const Request& request) {
  const bool wraps = request.ring_slots > next_.index;
  next_.index = static_cast<u16>(next_.index + (wraps ? size_ : 0) - request.ring_slots);
  if (wraps) next_.wrap = !next_.wrap;
}

/// All of the table, in order; no flag but "write" counts there (2.8.7).
bool PackedQueue::gather_table(std::span<const u8> table, RequestBuilder& builder) const {
  for (std::size_t offset = 0; offset < table.size(); offset += kDescriptorSize) {
    const auto descriptor_at = copy_once<Descriptor>(table.data() + offset);
    const bool writes = (descriptor_at.flags & kDescriptorWrite) != 0;
    if (!builder.add(descriptor_at.address, descriptor_at.length, writes)) return false;
  }
  return true;
}

void PackedQueue::push_used(const Request& request, u32 written) {
  u8* at = descriptor(used_.index);
  const auto flags = static_cast<u16>((used_.wrap ? kAvailable | kUsed : 0) |
                                      (request.writable.empty() ? 0 : kDescriptorWrite));
  const Descriptor used{0, written, request.id, flags};
  constexpr std::size_t kFromLength = offsetof(Descriptor, length);
  std::memcpy(at + kFromLength, reinterpret_cast<const u8*>(&used) + kFromLength,
              kDescriptorFlags - kFromLength);
  memory().written(at, kDescriptorSize);
  store_u16(memory(), at + kDescriptorFlags, flags, std::memory_order_release);
  advance(used_, request.ring_slots);
  unsignalled_ = std::min<u32>(unsignalled_ + request.ring_slots, 2U * size_);
}

bool PackedQueue::interrupt_wanted() {
  const u32 since = std::exchange(unsignalled_, 0);
  if (since == 0) return false;
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the descriptors are seen before the wish is read
  const u16 flags = load_u16(driver_event_ + kEventFlags, std::memory_order_acquire);
  if (flags == kEventsOff) return false;
  if (flags != kEventAtOffset || !features_.event_index) return true;
  const u16 event = load_u16(driver_event_, std::memory_order_relaxed);
  const auto index = static_cast<u16>(event & ~kEventWrap);
  if (index >= size_) return true;
  // The driver wants to know once the descriptor there is used: `used_` is past it by 1 to `since`.
  const unsigned ahead = distance({index, (event & kEventWrap) != 0}, used_);
  return ahead != 0 && ahead <= since;
}

bool PackedQueue::enable_notifications() {
  if (features_.event_index) {
    const auto event = static_cast<u16>(next_.index | (next_.wrap ? kEventWrap : 0));
    store_u16(memory(), device_event_, event, std::memory_order_relaxed);
  }
  store_u16(memory(), device_event_ + kEventFlags, features_.event_index ? kEventAtOffset : 0,
            std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the wish is seen before the descriptor is read
  return is_available(next_);
}

void PackedQueue::disable_notifications() {
  store_u16(memory(), device_event_ + kEventFlags, kEventsOff, std::memory_order_relaxed);
}

QueueState PackedQueue::state() const {
  return {.next = next_.index, .next_wrap = next_.wrap, .used = used_.index, .used_wrap = used_.wrap};
}

bool PackedQueue::restore(const QueueState& state) {
  if (state.next >= size_ || state.used >= size_) return false;
  next_ = {state.next, state.next_wrap};
  used_ = {state.used, state.used_wrap};
  unsignalled_ = 0;
  return distance(used_, next_) <= size_;
}

}  // namespace vert::device::virtio

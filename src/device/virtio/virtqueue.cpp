#include "device/virtio/virtqueue.hpp"

#include <bit>

#include "device/virtio/packed_queue.hpp"
#include "device/virtio/ring_access.hpp"
#include "device/virtio/split_queue.hpp"

namespace vert::device::virtio {

Result<std::unique_ptr<Virtqueue>> Virtqueue::create(memory::GuestMemory& memory, const QueueLayout& layout,
                                                     QueueFeatures features) {
  const bool valid_size =
      layout.size != 0 && layout.size <= kMaxSize && (features.packed || std::has_single_bit(layout.size));
  if (!valid_size) return make_error("a virtqueue cannot have {} descriptors", layout.size);
  std::unique_ptr<Virtqueue> queue;
  if (features.packed)
    queue = PackedQueue::create(memory, layout, features);
  else
    queue = SplitQueue::create(memory, layout, features);
  if (queue == nullptr)
    return make_error("a virtqueue at {:#x}, {:#x} and {:#x} is not aligned or not in RAM",
                      layout.descriptors, layout.driver, layout.device);
  return queue;
}

/// What the device wrote counts for the dirty log and for translated code before the driver learns of it.
void Virtqueue::push(const Request& request, u32 written) {
  for (const auto& span : request.writable) memory_.written(span.data(), span.size());
  push_used(request, written);
}

std::span<const u8> Virtqueue::indirect_table(u64 address, u32 length) const {
  if (length == 0 || length % kDescriptorSize != 0) return {};
  if (length / kDescriptorSize > RequestBuilder::kMaxDescriptors) return {};
  const u8* host = memory_.host(Gpa(address), length);
  return host == nullptr ? std::span<const u8>() : std::span(host, length);
}

}  // namespace vert::device::virtio

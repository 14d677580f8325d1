#include "device/virtio/served_queue.hpp"

namespace vert::device::virtio {

void ServedQueue::open(VirtioHost& host, unsigned index, std::unique_ptr<Virtqueue> queue) {
  host_ = &host;
  index_ = index;
  queue_ = std::move(queue);
}

bool ServedQueue::take(Request& request) {
  if (queue_ == nullptr) return false;
  Virtqueue::Pop result = queue_->pop(request);
  // One more look, not as many as a guest would like that makes buffers available and takes them back.
  if (result == Virtqueue::Pop::kEmpty && queue_->enable_notifications()) result = queue_->pop(request);
  if (result == Virtqueue::Pop::kBroken) {
    close();
    host_->needs_reset();
  }
  return result == Virtqueue::Pop::kRequest;
}

void ServedQueue::finish(const Request& request, u32 written) {
  queue_->push(request, written);
  if (queue_->interrupt_wanted()) host_->queue_interrupt(index_);
}

}  // namespace vert::device::virtio

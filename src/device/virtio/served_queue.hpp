// A virtqueue together with whom to tell about it: what a device keeps of each of its queues.
//
// Owned by the device, which locks. Closed until the driver has enabled the queue, and again once it broke.
#pragma once

#include <memory>

#include "device/virtio/device.hpp"

namespace vert::device::virtio {

class ServedQueue {
 public:
  void open(VirtioHost& host, unsigned index, std::unique_ptr<Virtqueue> queue);
  void close() { queue_.reset(); }
  [[nodiscard]] bool is_open() const { return queue_ != nullptr; }
  [[nodiscard]] std::optional<QueueState> state() const {
    return is_open() ? std::optional(queue_->state()) : std::nullopt;
  }

  /// The next request. False if there is none: the driver notifies the device of the next. A broken queue is
  /// closed, and the driver told.
  [[nodiscard]] bool take(Request& request);
  /// As if the request that was taken last had not been.
  void put_back(const Request& request) { queue_->put_back(request); }
  /// The first `written` bytes of its writable part are the answer.
  void finish(const Request& request, u32 written);

 private:
  VirtioHost* host_ = nullptr;
  unsigned index_ = 0;
  std::unique_ptr<Virtqueue> queue_;
};

}  // namespace vert::device::virtio

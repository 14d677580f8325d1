// A buffer that the driver made available to a device, as spans of guest memory (virtio 1.2, 2.6.4).
//
// Lengths and addresses were checked against RAM when it was taken from the ring. The bytes remain the
// guest's, which may change them at any moment: copy a header out once, then look at it.
#pragma once

#include <span>
#include <vector>

#include "memory/guest_memory.hpp"

namespace vert::device::virtio {

struct Request {
  std::vector<std::span<const u8>> readable;
  std::vector<std::span<u8>> writable;
  u64 readable_size = 0;
  u64 writable_size = 0;
  u16 id = 0;          // the ring's: how the driver knows the buffer
  u16 ring_slots = 0;  // how many places it takes in a packed ring

  /// Copies from the readable part, as if it were one piece; returns how much there was to copy.
  std::size_t copy_out(u64 offset, std::span<u8> to) const;
  /// The same into the writable part.
  std::size_t copy_in(u64 offset, std::span<const u8> from) const;
};

/// Puts a request together from descriptors, and refuses what is no valid chain (virtio 1.2, 2.6.5).
class RequestBuilder {
 public:
  /// In one request: as many as the largest queue has, indirect tables included.
  static constexpr unsigned kMaxDescriptors = 1024;

  RequestBuilder(const memory::GuestMemory& memory, Request& request);

  /// False: outside RAM, a readable part behind a writable one, too many, or 4 GiB and more in all. Empty
  /// descriptors add nothing.
  [[nodiscard]] bool add(u64 address, u32 length, bool device_writes);

 private:
  const memory::GuestMemory& memory_;
  Request& request_;
  unsigned descriptors_ = 0;
};

}  // namespace vert::device::virtio

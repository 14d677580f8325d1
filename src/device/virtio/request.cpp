#include "device/virtio/request.hpp"

#include <algorithm>
#include <cstring>

namespace vert::device::virtio {
namespace {

/// Calls `use(part, done)` for the pieces of [offset, offset + size); returns how much of it there was.
template <typename Spans, typename Use>
std::size_t for_parts(const Spans& spans, u64 offset, std::size_t size, Use use) {
  std::size_t done = 0;
  for (const auto& span : spans) {
    if (done == size) break;
    if (offset >= span.size()) {
      offset -= span.size();
      continue;
    }
    const auto part = span.subspan(offset, std::min(size - done, span.size() - offset));
    use(part, done);
    done += part.size();
    offset = 0;
  }
  return done;
}

}  // namespace

std::size_t Request::copy_out(u64 offset, std::span<u8> to) const {
  return for_parts(readable, offset, to.size(), [&](std::span<const u8> part, std::size_t done) {
    std::memcpy(to.data() + done, part.data(), part.size());
  });
}

std::size_t Request::copy_in(u64 offset, std::span<const u8> from) const {
  return for_parts(writable, offset, from.size(), [&](std::span<u8> part, std::size_t done) {
    std::memcpy(part.data(), from.data() + done, part.size());
  });
}

RequestBuilder::RequestBuilder(const memory::GuestMemory& memory, Request& request)
    : memory_(memory), request_(request) {
  request.readable.clear();
  request.writable.clear();
  request.readable_size = request.writable_size = 0;
}

bool RequestBuilder::add(u64 address, u32 length, bool device_writes) {
  if (++descriptors_ > kMaxDescriptors) return false;
  if (!device_writes && request_.writable_size != 0) return false;
  if (length == 0) return true;
  u8* host = memory_.host(Gpa(address), length);
  if (host == nullptr) return false;
  u64& size = device_writes ? request_.writable_size : request_.readable_size;
  size += length;
  if (request_.readable_size + request_.writable_size > ~u32{0}) return false;
  if (device_writes)
    request_.writable.emplace_back(host, length);
  else
    request_.readable.emplace_back(host, length);
  return true;
}

}  // namespace vert::device::virtio

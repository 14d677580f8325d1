// Scattered memory of one request, as iovecs: guest RAM mostly.
#pragma once

#include <sys/uio.h>

#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "base/types.hpp"

namespace vert::storage {

/// The pieces stay their owner's, at least until the request has ended.
using Buffers = std::span<const iovec>;

[[nodiscard]] u64 total_size(Buffers buffers);
/// `length` bytes from `offset` on, which `buffers` has.
[[nodiscard]] std::vector<iovec> slice(Buffers buffers, u64 offset, u64 length);
[[nodiscard]] iovec buffer_of(std::span<u8> bytes);
/// For writing only: nobody writes to `bytes`.
[[nodiscard]] iovec buffer_of(std::span<const u8> bytes);

/// Memory as O_DIRECT wants it, zeroed.
class AlignedBytes {
 public:
  explicit AlignedBytes(u64 size)
      : bytes_(static_cast<u8*>(::operator new(size, kAlignment)), Free{}), size_(size) {
    std::memset(bytes_.get(), 0, size);
  }
  [[nodiscard]] std::span<u8> span() const { return {bytes_.get(), size_}; }

 private:
  static constexpr std::align_val_t kAlignment{4096};
  struct Free {
    void operator()(u8* bytes) const { ::operator delete(bytes, kAlignment); }
  };
  std::unique_ptr<u8[], Free> bytes_;
  u64 size_;
};

/// `from` is as long as `buffers`.
void copy_to(Buffers buffers, std::span<const u8> from);
/// `to` is as long as `buffers`.
void copy_from(Buffers buffers, std::span<u8> to);
void fill_zero(Buffers buffers);

}  // namespace vert::storage

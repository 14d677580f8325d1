#include "storage/buffers.hpp"

#include <algorithm>
#include <cstring>

namespace vert::storage {

u64 total_size(Buffers buffers) {
  u64 size = 0;
  for (const iovec& piece : buffers) size += piece.iov_len;
  return size;
}

std::vector<iovec> slice(Buffers buffers, u64 offset, u64 length) {
  std::vector<iovec> part;
  for (const iovec& piece : buffers) {
    if (length == 0) break;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const u64 size = std::min<u64>(piece.iov_len - offset, length);
    part.push_back({static_cast<u8*>(piece.iov_base) + offset, size});
    length -= size;
    offset = 0;
  }
  return part;
}

iovec buffer_of(std::span<u8> bytes) { return {bytes.data(), bytes.size()}; }
iovec buffer_of(std::span<const u8> bytes) { return {const_cast<u8*>(bytes.data()), bytes.size()}; }

void copy_to(Buffers buffers, std::span<const u8> from) {
  for (const iovec& piece : buffers) {
    const auto part = from.first(std::min<std::size_t>(piece.iov_len, from.size()));
    std::memcpy(piece.iov_base, part.data(), part.size());
    from = from.subspan(part.size());
  }
}

void copy_from(Buffers buffers, std::span<u8> to) {
  for (const iovec& piece : buffers) {
    const auto part = to.first(std::min<std::size_t>(piece.iov_len, to.size()));
    std::memcpy(part.data(), piece.iov_base, part.size());
    to = to.subspan(part.size());
  }
}

void fill_zero(Buffers buffers) {
  for (const iovec& piece : buffers) std::memset(piece.iov_base, 0, piece.iov_len);
}

}  // namespace vert::storage

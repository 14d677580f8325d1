// A disk image as a flat array of bytes: what the search for a kernel needs of an image format.
#pragma once

#include <span>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::machine::disk_boot {

class BlockReader {
 public:
  BlockReader() = default;
  BlockReader(const BlockReader&) = delete;
  BlockReader& operator=(const BlockReader&) = delete;
  virtual ~BlockReader() = default;

  [[nodiscard]] virtual u64 size() const = 0;

  /// Fills `bytes` from `offset`; all of them lie below size().
  virtual Status read(u64 offset, std::span<u8> bytes) = 0;
};

}  // namespace vert::machine::disk_boot

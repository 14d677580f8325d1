// A disk image as a flat array of bytes: what the search for a kernel needs of an image format.
#pragma once

#include <span>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::machine::disk_boot {

/// read() runs in a confined child process, which has one thread: it may read from descriptors(), allocate
/// memory and compute, nothing else, and must not wait for a thread or for a lock that another thread may
/// hold at the fork.
class BlockReader {
 public:
  BlockReader() = default;
  BlockReader(const BlockReader&) = delete;
  BlockReader& operator=(const BlockReader&) = delete;
  virtual ~BlockReader() = default;

  [[nodiscard]] virtual u64 size() const = 0;

  /// Fills `bytes` from `offset`; all of them lie below size().
  virtual Status read(u64 offset, std::span<u8> bytes) = 0;

  /// The file descriptors that read() uses. The child has no others.
  [[nodiscard]] virtual std::vector<int> descriptors() const = 0;
};

}  // namespace vert::machine::disk_boot

// How much memory the host has. Asks the kernel, not /proc, which a sandbox may hide. Any thread.
#pragma once

#include <optional>

#include "base/types.hpp"

namespace vert::base {

struct HostMemory {
  u64 ram = 0;
  u64 swap = 0;
  /// More than that, a guest would not get when it touches it.
  [[nodiscard]] u64 total() const { return ram + swap; }
};

/// Nothing where the host does not say.
[[nodiscard]] std::optional<HostMemory> host_memory();

}  // namespace vert::base

// Guest memory at linear addresses, as a debugger reads it: no faults, no accessed bits.
#pragma once

#include <vector>

#include "base/error.hpp"
#include "cpu/engine.hpp"
#include "machine/code_listing.hpp"

namespace vert::machine {

struct GuestBytes {
  u64 address = 0;
  std::vector<u8> bytes;            // up to the first that is not mapped to RAM
  CodeKind kind = CodeKind::kUser;  // how the vCPU would run code there
};

/// On the vCPU's thread, or while it is paused. Error: nothing is mapped at `address`.
[[nodiscard]] Result<GuestBytes> read_linear(const cpu::VcpuContext& context, const cpu::CpuState& state,
                                             u64 address, std::size_t size);

}  // namespace vert::machine

// A vCPU's state as text for people: registers, segments, control registers and the bytes at RIP.
#pragma once

#include <string>

#include "cpu/engine.hpp"

namespace vert::machine {

/// Several lines, the last without a newline. On the vCPU's thread, or while it is paused.
[[nodiscard]] std::string dump_state(const cpu::VcpuContext& context, const cpu::CpuState& state);

}  // namespace vert::machine

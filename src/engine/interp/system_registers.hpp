// Control, debug and model-specific registers: what their writes check and change.
#pragma once

#include <optional>

#include "engine/interp/core.hpp"

namespace vert::interp {

// MOV to and from CRn and DRn (SDM 2B, MOV); dispatched to from MOV's function.
Outcome mov_control(Core& core, const Op& op);
Outcome mov_debug(Core& core, const Op& op);

/// Writes CR0 with all its checks and consequences (SDM 3A, 2.5); #GP(0) if they fail.
[[nodiscard]] cpu::MaybeFault write_cr0(Core& core, u64 value);

/// RDMSR and WRMSR: nothing or false means #GP(0). An MSR that vert does not know is logged once.
[[nodiscard]] std::optional<u64> read_msr(Core& core, u32 index);
[[nodiscard]] bool write_msr(Core& core, u32 index, u64 value);

/// SGDT, SIDT, SLDT, STR and SMSW raise #GP(0) outside ring 0 under UMIP (SDM 3A, 2.5).
[[nodiscard]] inline bool umip_forbids(const cpu::CpuState& state) {
  return state.cpl != 0 && (state.cr4 & x86::cr4::UMIP) != 0;
}

/// The guest's time-stamp counter now.
[[nodiscard]] u64 guest_tsc(const cpu::CpuState& state);

}  // namespace vert::interp

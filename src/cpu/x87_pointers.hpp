// FIP, FOP and FDP, the x87's memory of its last instruction: when processors change them, and when XSAVE
// shows them. Vendors differ; the CPU model decides. Pure.
#pragma once

#include "cpu/cpu_state.hpp"
#include "x86/cpu_model.hpp"

namespace vert::cpu {

struct X87PointerRules {
  bool hidden = false;  // XSAVE and FXSAVE store zeroes unless an exception is pending (APM 2, 11.5.8)
  bool opcode_raised =
      false;                 // FOP is that of the last instruction with an unmasked exception (SDM 1, 8.1.9)
  bool data_raised = false;  // and so is FDP (SDM 1, 8.1.8)
  bool selectors = false;    // FCS and FDS do not always read as zero (SDM 1, 8.1.8)
};

[[nodiscard]] inline X87PointerRules x87_pointer_rules(const x86::CpuModel& model) {
  const bool intel = model.vendor() == x86::Vendor::kIntel;
  return {.hidden = !intel,
          .opcode_raised = intel,
          .data_raised = model.has(x86::Feature::FDP_EXCPTN_ONLY),
          .selectors = !model.has(x86::Feature::ZERO_FCS_FDS)};
}

/// FSW.ES: an unmasked exception is pending.
inline constexpr u16 kX87ErrorSummary = 0x80;

/// Processors keep FIP as wide as their linear addresses can be, and sign-extend it; FDP they keep whole.
[[nodiscard]] constexpr u64 kept_fip(u64 value) {
  constexpr unsigned kUnused = 64 - 57;
  return static_cast<u64>(static_cast<i64>(value << kUnused) >> kUnused);
}

[[nodiscard]] constexpr bool has_x87_pointers(const FpuState& fpu) {
  return fpu.fop != 0 || fpu.fip != 0 || fpu.fdp != 0 || fpu.fcs != 0 || fpu.fds != 0;
}

}  // namespace vert::cpu

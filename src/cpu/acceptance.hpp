// When a vCPU acts on what other threads ask of it.
//
// deliverable() decides that, and nothing else: engines ask it whenever what it depends on may have changed
// (IF, a shadow, the end of an NMI's handler, the activity), machine/ asks it before a vCPU's thread sleeps.
#pragma once

#include "cpu/engine.hpp"

namespace vert::cpu {

/// What a vCPU lets through between two instructions.
struct Acceptance {
  bool interrupts = false;  // RFLAGS.IF
  bool nmis = true;         // no NMI is being served
  bool shadow = false;      // of STI, MOV SS or POP SS
  Activity activity = Activity::kRunning;
};

[[nodiscard]] inline Acceptance acceptance_of(const CpuState& state) {
  return {.interrupts = (state.rflags & x86::rflags::IF) != 0,
          .nmis = !state.nmi_blocked,
          .shadow = state.sti_shadow || state.mov_ss_shadow,
          .activity = state.activity};
}

/// Those of `pending` that a vCPU can act on now (SDM 3A, 6.7.1, 6.8.1 and 8.4.2; SDM 2B, STI and MOV).
[[nodiscard]] constexpr u32 deliverable(u32 pending, const Acceptance& vcpu) {
  u32 open = VcpuEvents::kKick | VcpuEvents::kInit | VcpuEvents::kSipi;
  const bool listens = vcpu.activity == Activity::kRunning || vcpu.activity == Activity::kHalted;
  if (listens && !vcpu.shadow) {
    open |= VcpuEvents::kSmi;
    if (vcpu.nmis) open |= VcpuEvents::kNmi;
    if (vcpu.interrupts) open |= VcpuEvents::kInterrupt;
  }
  return pending & open;
}

}  // namespace vert::cpu

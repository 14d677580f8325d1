// FXSAVE, FXRSTOR, the XSAVE family, XGETBV and XSETBV (SDM 1, 10.5 and chapter 13).
//
// Functions over CpuState and Mmu, on the vCPU's thread. The area's layout is x86::CpuModel's.
#pragma once

#include "cpu/cpu_state.hpp"
#include "cpu/mmu.hpp"
#include "cpu/protection.hpp"
#include "engine/interp/vector_op.hpp"
#include "x86/cpu_model.hpp"

namespace vert::interp {

[[nodiscard]] cpu::MaybeFault xsave_family(const VectorOp& op, u64 offset, cpu::CpuState& state,
                                           cpu::Mmu& mmu, const x86::CpuModel& model);

/// XINUSE: the components that are not in their initial configuration (SDM 1, 13.6).
[[nodiscard]] u64 components_in_use(const cpu::CpuState& state, const x86::CpuModel& model);

/// True if XCR0 may take `value` (SDM 2D, XSETBV) given the bits that the CPU model allows.
[[nodiscard]] bool valid_xcr0(u64 value, u64 allowed);

}  // namespace vert::interp

// x87 instructions that move control state rather than compute: done here, in C++, in every format.
//
// Functions over FpuState, CpuState and Mmu, on the vCPU's thread.
#pragma once

#include "cpu/cpu_state.hpp"
#include "cpu/mmu.hpp"
#include "cpu/protection.hpp"
#include "engine/interp/vector_op.hpp"
#include "x86/cpu_model.hpp"

namespace vert::interp {

/// Exception bits of FSW and FCW (SDM 1, 8.1.3); those that keep a store from storing.
inline constexpr u32 kX87Exceptions = 0x3F;
inline constexpr u32 kX87NoStore = 0x1F;

[[nodiscard]] inline bool x87_exception_pending(const cpu::FpuState& fpu) {
  return (fpu.fsw & ~fpu.fcw & kX87Exceptions) != 0;
}

/// FCW as the processor keeps a loaded value: bit 6 reads as 1, reserved bits as 0.
[[nodiscard]] constexpr u16 normalized_fcw(u16 value) { return static_cast<u16>((value & 0x1F3F) | 0x40); }
/// Sets FSW.ES and B by what is pending and unmasked.
void update_error_summary(cpu::FpuState& fpu);
/// Changes FSW.TOP; physical registers keep their contents.
void set_top(cpu::FpuState& fpu, unsigned top);
/// Power-up state but for the registers' contents (FNINIT, SDM 2A).
void x87_init(cpu::FpuState& fpu);
/// Every MMX instruction but EMMS: TOP is 0, all registers are valid (SDM 1, 9.5.1).
void enter_mmx(cpu::FpuState& fpu);

/// FIP and FCS, FDP and FDS, of the current instruction.
void set_instruction_pointer(cpu::CpuState& state, bool selectors);
void set_data_pointer(cpu::CpuState& state, u8 segment, u64 offset, bool selectors);

/// FNINIT, FNCLEX, FLDCW, FNSTCW, FNSTSW, FLDENV, FNSTENV, FRSTOR, FNSAVE, FWAIT.
[[nodiscard]] cpu::MaybeFault x87_control(const VectorOp& op, const x86::Insn& insn, u64 offset,
                                          cpu::CpuState& state, cpu::Mmu& mmu, const x86::CpuModel& model);

}  // namespace vert::interp

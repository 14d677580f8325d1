// Protected-mode machinery that engines share: segment loads, far transfers, interrupt and exception
// delivery, task switches (SDM 3A, chapters 5 to 7), in real, virtual-8086, protected, compatibility and
// 64-bit mode.
//
// Pure over CpuState and Mmu, on the vCPU's thread. Each function either completes, or returns the fault it
// raises with `state` as the architecture leaves it (unchanged, but where the SDM says otherwise). RIP in
// `state` is that of the current instruction on entry; a far transfer that completes sets it to its target.
// Each updates mmu's privilege where CPL changes.
#pragma once

#include <optional>
#include <string>

#include "cpu/cpu_state.hpp"
#include "cpu/mmu.hpp"
#include "x86/exception.hpp"

namespace vert::cpu {

/// Nothing, or what was raised.
using MaybeFault = std::optional<x86::Fault>;

/// MOV, POP and LDS-family loads of a segment register other than CS.
[[nodiscard]] MaybeFault load_segment(CpuState& state, Mmu& mmu, x86::SegmentRegister reg, u16 selector);
[[nodiscard]] MaybeFault load_ldt(CpuState& state, Mmu& mmu, u16 selector);            // LLDT
[[nodiscard]] MaybeFault load_task_register(CpuState& state, Mmu& mmu, u16 selector);  // LTR

/// LAR, LSL, VERR, VERW: no fault but those of reading the descriptor; nothing in `value` if ZF becomes 0.
enum class DescriptorQuery : u8 { kAccessRights, kLimit, kReadable, kWritable };
[[nodiscard]] MaybeFault query_descriptor(CpuState& state, Mmu& mmu, DescriptorQuery query, u16 selector,
                                          std::optional<u32>& value);

/// Far JMP and CALL, direct or indirect; operand_size in bytes (2, 4, 8); next_rip is what a CALL pushes.
[[nodiscard]] MaybeFault far_jump(CpuState& state, Mmu& mmu, u16 selector, u64 offset, unsigned operand_size,
                                  u64 next_rip);
[[nodiscard]] MaybeFault far_call(CpuState& state, Mmu& mmu, u16 selector, u64 offset, unsigned operand_size,
                                  u64 next_rip);
[[nodiscard]] MaybeFault far_return(CpuState& state, Mmu& mmu, unsigned operand_size, u16 pop_bytes);
[[nodiscard]] MaybeFault interrupt_return(CpuState& state, Mmu& mmu, unsigned operand_size, u64 next_rip);

/// What an interrupt comes from: decides privilege checks and the EXT bit (SDM 3A, 6.12.1.2 and 6.13).
enum class InterruptSource : u8 {
  kExternal,      // hardware interrupt or NMI
  kException,     // raised by the processor
  kSoftware,      // INT n
  kSoftwareTrap,  // INT3, INTO: gate DPL is checked, but EXT and V86 IOPL are as for INT3/INTO
  kInt1,          // INT1 (ICEBP): as hardware, no DPL check
};

struct Interruption {
  u8 vector = 0;
  InterruptSource source = InterruptSource::kExternal;
  std::optional<u32> error_code;
  /// The RIP to push: of the faulting instruction, or of the next one.
  u64 return_rip = 0;
};

/// Delivers through the IDT, or the real-mode table. A fault here is the one met while delivering.
[[nodiscard]] MaybeFault deliver(CpuState& state, Mmu& mmu, const Interruption& interruption);

/// Delivers an exception raised by the instruction at state.rip (or, for traps, before it), sets CR2 or DR6,
/// RF in the pushed flags for faults, and escalates to #DF and triple fault (SDM 3A, table 6-5).
/// False after a triple fault: state.activity is kShutdown, and `why` tells the chain of faults.
[[nodiscard]] bool deliver_fault(CpuState& state, Mmu& mmu, const x86::Fault& fault, std::string& why);
/// As deliver_fault, for an external interrupt, NMI or software interrupt that may fault on its way.
[[nodiscard]] bool deliver_interruption(CpuState& state, Mmu& mmu, const Interruption& interruption,
                                        std::string& why);

/// The stack-pointer width in bytes in force: 8, 4 or 2 (SS.B).
[[nodiscard]] unsigned stack_width(const CpuState& state);

/// Misaligned accesses to memory raise #AC (SDM 3A, 6.15, #AC).
[[nodiscard]] bool checks_alignment(const CpuState& state);

/// Linear address of [offset, offset + size) in a segment for an access of that kind, with limit, type and
/// canonical checks: #GP(0), or #SS(0) for SS.
[[nodiscard]] MaybeFault segment_address(const CpuState& state, x86::SegmentRegister reg, u64 offset,
                                         u64 size, AccessKind kind, Gla& linear);

}  // namespace vert::cpu

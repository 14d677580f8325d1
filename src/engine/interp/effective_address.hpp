// Effective addresses of decoded memory operands (SDM 1, 3.7.5).
#pragma once

#include "cpu/cpu_state.hpp"
#include "x86/insn.hpp"

namespace vert::interp {

/// Cuts a value to 2, 4 or 8 bytes.
[[nodiscard]] constexpr u64 truncate(u64 value, unsigned size) {
  return size >= 8 ? value : value & ((u64{1} << (size * 8)) - 1);
}

/// The offset of the memory operand within its segment; wraps at the address size.
/// `next_rip` is the address of the following instruction, the base of RIP-relative operands.
[[nodiscard]] inline u64 effective_offset(const x86::Insn& insn, const cpu::CpuState& state, u64 next_rip) {
  const x86::MemoryOperand& mem = insn.mem;
  if (mem.absolute64) [[unlikely]]
    return static_cast<u64>(insn.imm);
  u64 offset = static_cast<u64>(i64{mem.displacement});
  if (mem.base < x86::kGprCount)
    offset += state.gpr[mem.base];
  else if (mem.base == x86::MemoryOperand::kRip)
    offset += next_rip;
  if (mem.index < x86::kGprCount) offset += state.gpr[mem.index] * mem.scale;
  return truncate(offset, insn.address_size);
}

}  // namespace vert::interp

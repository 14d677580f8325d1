// Guest memory as instructions of the vector unit access it: whole operands, active elements, gathers.
//
// Stateless helpers over CpuState and Mmu, on the vCPU's thread.
#pragma once

#include <span>

#include "cpu/cpu_state.hpp"
#include "cpu/mmu.hpp"
#include "cpu/protection.hpp"
#include "engine/interp/vector_op.hpp"

namespace vert::interp {

/// Segment-relative accesses of one instruction. On a fault nothing has been read or written.
class GuestAccess {
 public:
  GuestAccess(const cpu::CpuState& state, cpu::Mmu& mmu) : state_(state), mmu_(mmu) {}

  [[nodiscard]] cpu::MaybeFault linear(u8 segment, u64 offset, u64 size, cpu::AccessKind kind,
                                       Gla& address) const;
  /// As linear() in the operand's segment, with its alignment checked: #AC(0) by EFLAGS.AC, else #GP(0).
  [[nodiscard]] cpu::MaybeFault aligned(const VectorMemory& memory, u64 offset, u64 size,
                                        cpu::AccessKind kind, Gla& address) const;
  /// As aligned() for a masked operand: what no active element reaches need not be accessible.
  [[nodiscard]] cpu::MaybeFault aligned_masked(const VectorMemory& memory, u64 offset, u64 active,
                                               cpu::AccessKind kind) const;
  [[nodiscard]] cpu::MaybeFault read(u8 segment, u64 offset, std::span<u8> to) const;
  [[nodiscard]] cpu::MaybeFault write(u8 segment, u64 offset, std::span<const u8> from) const;
  [[nodiscard]] cpu::MaybeFault probe_write(u8 segment, u64 offset, u64 size) const;

  /// At an address that linear() gave.
  [[nodiscard]] cpu::MaybeFault read_at(Gla address, std::span<u8> to) const;
  [[nodiscard]] cpu::MaybeFault write_at(Gla address, std::span<const u8> from) const;

 private:
  [[nodiscard]] unsigned required_alignment(const VectorMemory& memory) const;
  [[nodiscard]] bool meets_checked_alignment(const VectorMemory& memory, Gla address) const;

  const cpu::CpuState& state_;
  cpu::Mmu& mmu_;
};

/// Reads those bytes of the operand at `offset` that the instruction touches.
[[nodiscard]] cpu::MaybeFault read_operand(const VectorOp& op, u64 offset, const cpu::CpuState& state,
                                           cpu::Mmu& mmu, std::span<u8> to);
[[nodiscard]] cpu::MaybeFault write_operand(const VectorOp& op, u64 offset, const cpu::CpuState& state,
                                            cpu::Mmu& mmu, std::span<const u8> from);

/// The fault of a write of the whole operand.
[[nodiscard]] cpu::MaybeFault probe_operand(const VectorOp& op, u64 offset, const cpu::CpuState& state,
                                            cpu::Mmu& mmu);

/// VGATHER and VSCATTER, element by element; those done are gone from the mask when one faults
/// (SDM 2C, VGATHERDPS). `base` is the offset without the index.
[[nodiscard]] cpu::MaybeFault gather(const VectorOp& op, u64 base, unsigned address_size,
                                     cpu::CpuState& state, cpu::Mmu& mmu);
[[nodiscard]] cpu::MaybeFault scatter(const VectorOp& op, u64 base, unsigned address_size,
                                      cpu::CpuState& state, cpu::Mmu& mmu);

/// MASKMOVQ and MASKMOVDQU: writes the bytes of `source` whose mask byte has its top bit set.
[[nodiscard]] cpu::MaybeFault write_masked_bytes(const VectorMemory& memory, u64 offset,
                                                 std::span<const u8> source, std::span<const u8> mask,
                                                 const cpu::CpuState& state, cpu::Mmu& mmu);

}  // namespace vert::interp

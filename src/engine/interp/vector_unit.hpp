// VectorUnit: x87, MMX, SSE to AVX-512, and the XSAVE family, for the reference interpreter.
//
// Instructions run on the host's own units: each distinct one gets a stub of host code with the same opcode
// and its memory operand replaced (vector_stub.hpp). What moves state wholesale, or touches memory in ways
// that faults must see, is C++ (vector_memory, x87, xsave). One object for each vCPU, on its thread.
//
// Known simplification: an unmasked x87 exception is #MF with CR0.NE = 0 too (no FERR# is wired).
#pragma once

#include <deque>
#include <map>

#include "cpu/engine.hpp"
#include "cpu/mmu.hpp"
#include "cpu/protection.hpp"
#include "engine/interp/vector_op.hpp"
#include "x86/insn.hpp"

namespace vert::interp {

class VectorUnit {
 public:
  /// Distinct instructions kept; one more replaces the oldest.
  static constexpr std::size_t kCapacity = 8192;

  /// Throws std::runtime_error if the host has no memory for stubs.
  explicit VectorUnit(const cpu::VcpuContext& context);
  ~VectorUnit();
  VectorUnit(const VectorUnit&) = delete;
  VectorUnit& operator=(const VectorUnit&) = delete;

  /// True if the instruction is this unit's.
  [[nodiscard]] static bool handles(const x86::Insn& insn);

  /// Prepares an instruction that handles() accepted and the CPU model allows. Null: it is #UD. The address
  /// stays valid for the unit's life, though the record may come to describe another instruction: execute()
  /// notices and prepares anew.
  [[nodiscard]] const VectorOp* prepare(const x86::Insn& insn, x86::CodeSize size);

  /// Executes it; on success the caller advances RIP. On a fault the state is as the architecture leaves it.
  /// `next_rip` is the base of RIP-relative operands.
  [[nodiscard]] cpu::MaybeFault execute(const VectorOp& op, const x86::Insn& insn, cpu::CpuState& state,
                                        cpu::Mmu& mmu, u64 next_rip);

 private:
  [[nodiscard]] cpu::MaybeFault run_stub(const VectorOp& op, u64 offset, const x86::Insn& insn,
                                         cpu::CpuState& state, cpu::Mmu& mmu);
  void load_frame(const StubPlan& plan, const cpu::CpuState& state);
  void store_frame(const VectorOp& op, u64 offset, const x86::Insn& insn, cpu::CpuState& state);
  void store_x87(const VectorOp& op, u64 offset, const x86::Insn& insn, cpu::CpuState& state);
  [[nodiscard]] VectorOp& new_slot();

  const x86::CpuModel* model_;
  StubArena arena_;
  StubFrame frame_;
  std::deque<VectorOp> pool_;
  std::size_t oldest_ = 0;
  std::map<VectorOp::Key, VectorOp*> by_key_;
};

}  // namespace vert::interp

// Descriptor-table registers, segment queries, and far-pointer loads.
#include "engine/interp/handlers.hpp"
#include "engine/interp/system_registers.hpp"

namespace vert::interp {

namespace {

using namespace x86;

[[nodiscard]] SegmentRegister memory_segment(const Op& op) {
  return static_cast<SegmentRegister>(op.insn.mem.segment);
}

/// LGDT and LIDT (SDM 2A): a 16-bit limit, then a base of 24, 32 or 64 bits.
Outcome load_table(Core& core, const Op& op, DescriptorTable cpu::CpuState::*table) {
  cpu::CpuState& state = core.state();
  if (state.cpl != 0) return core.raise(Fault::gp());
  const u64 at = effective_offset(op.insn, state, core.next_rip);
  u16 limit = 0;
  if (!core.read_segment(memory_segment(op), at, limit)) return Outcome::kFault;
  const u64 base_at = truncate(at + 2, op.insn.address_size);
  u64 base = 0;
  if (core.code64()) {
    if (!core.read_segment(memory_segment(op), base_at, base)) return Outcome::kFault;
    if (!is_canonical(base, core.context.model->linear_bits())) return core.raise(Fault::gp());
  } else {
    u32 base32 = 0;
    if (!core.read_segment(memory_segment(op), base_at, base32)) return Outcome::kFault;
    base = op.insn.operand_size == 2 ? base32 & 0xFFFFFF : base32;
  }
  state.*table = {base, limit};
  return Outcome::kNext;
}
Outcome lgdt(Core& core, const Op& op) { return load_table(core, op, &cpu::CpuState::gdtr); }
Outcome lidt(Core& core, const Op& op) { return load_table(core, op, &cpu::CpuState::idtr); }

/// SGDT and SIDT (SDM 2B): outside 64-bit mode always 32 bits of base.
Outcome store_table(Core& core, const Op& op, DescriptorTable cpu::CpuState::*table) {
  const cpu::CpuState& state = core.state();
  if (umip_forbids(state)) return core.raise(Fault::gp());
  const unsigned size = core.code64() ? 10 : 6;
  std::array<u8, 10> bytes;
  const DescriptorTable& from = state.*table;
  std::memcpy(bytes.data(), &from.limit, 2);
  std::memcpy(bytes.data() + 2, &from.base, 8);
  Gla linear;
  if (!core.operand_address(op, size, cpu::AccessKind::kWrite, linear)) return Outcome::kFault;
  if (!core.mmu.write_bytes(linear, std::span(bytes).first(size))) return core.raise(core.mmu.fault());
  return Outcome::kNext;
}
Outcome sgdt(Core& core, const Op& op) { return store_table(core, op, &cpu::CpuState::gdtr); }
Outcome sidt(Core& core, const Op& op) { return store_table(core, op, &cpu::CpuState::idtr); }

/// LLDT and LTR.
template <auto kLoad>
Outcome load_selector(Core& core, const Op& op) {
  if (core.state().real_addressing()) return core.raise(Fault::ud());
  if (core.state().cpl != 0) return core.raise(Fault::gp());
  u16 selector = 0;
  if (!core.load(op, 0, selector)) return Outcome::kFault;
  return core.raise(kLoad(core.state(), core.mmu, selector), Outcome::kNext);
}

/// SLDT and STR: 16 bits to memory, zero-extended to a register.
Outcome store_selector(Core& core, const Op& op, u16 selector) {
  if (core.state().real_addressing()) return core.raise(Fault::ud());
  if (umip_forbids(core.state())) return core.raise(Fault::gp());
  if (op.insn.operands[0].kind == OperandKind::kMemory)
    return core.store_memory(op, selector) ? Outcome::kNext : Outcome::kFault;
  core.set_gpr_sized(op.insn.operands[0].reg, selector, op.insn.operands[0].size);
  return Outcome::kNext;
}
Outcome sldt(Core& core, const Op& op) { return store_selector(core, op, core.state().ldtr.selector); }
Outcome str(Core& core, const Op& op) { return store_selector(core, op, core.state().tr.selector); }

/// LAR, LSL, VERR, VERW (SDM 2A, 2D): ZF says whether the descriptor can be seen.
template <cpu::DescriptorQuery kQuery>
Outcome query(Core& core, const Op& op) {
  if (core.state().real_addressing()) return core.raise(Fault::ud());
  constexpr bool kHasResult =
      kQuery == cpu::DescriptorQuery::kAccessRights || kQuery == cpu::DescriptorQuery::kLimit;
  u16 selector = 0;
  if (!core.load(op, kHasResult ? 1 : 0, selector)) return Outcome::kFault;
  std::optional<u32> value;
  if (const auto raised = cpu::query_descriptor(core.state(), core.mmu, kQuery, selector, value))
    return core.raise(*raised);
  if (kHasResult && value) core.set_gpr_sized(op.insn.operands[0].reg, *value, op.insn.operands[0].size);
  core.set_flags(rflags::ZF, value ? rflags::ZF : 0);
  return Outcome::kNext;
}

// SDM 2A, ARPL: raises the RPL of the destination to that of the source.
Outcome arpl(Core& core, const Op& op) {
  if (core.state().real_addressing()) return core.raise(Fault::ud());
  u16 source = 0;
  if (!core.load(op, 1, source)) return Outcome::kFault;
  bool raised = false;
  const bool done = core.modify<u16>(op, 0, [&](u16 old) {
    raised = (old & 3) < (source & 3);
    return raised ? static_cast<u16>((old & ~3) | (source & 3)) : old;
  });
  if (!done) return Outcome::kFault;
  core.set_flags(rflags::ZF, raised ? rflags::ZF : 0);
  return Outcome::kNext;
}

// SDM 2A, LDS/LES/LFS/LGS/LSS: offset first, then the selector.
template <SegmentRegister kSegment>
Outcome load_far_pointer(Core& core, const Op& op) {
  const unsigned size = op.insn.operand_size;
  const u64 at = effective_offset(op.insn, core.state(), core.next_rip);
  u64 offset = 0;
  const auto read_offset = [&]<typename T>(T value) {
    if (!core.read_segment(memory_segment(op), at, value)) return false;
    offset = value;
    return true;
  };
  const bool done = size == 2 ? read_offset(u16{}) : size == 4 ? read_offset(u32{}) : read_offset(u64{});
  u16 selector = 0;
  if (!done || !core.read_segment(memory_segment(op), truncate(at + size, op.insn.address_size), selector))
    return Outcome::kFault;
  if (const auto raised = cpu::load_segment(core.state(), core.mmu, kSegment, selector))
    return core.raise(*raised);
  core.set_gpr_sized(op.insn.operands[0].reg, offset, size);
  core.mode_changed();
  return Outcome::kEndBlock;
}

constexpr std::array kRows = {
    HandlerRow VERT_ANY_SIZE(LGDT, lgdt),
    HandlerRow VERT_ANY_SIZE(LIDT, lidt),
    HandlerRow VERT_ANY_SIZE(SGDT, sgdt),
    HandlerRow VERT_ANY_SIZE(SIDT, sidt),
    HandlerRow VERT_ANY_SIZE(LLDT, load_selector<cpu::load_ldt>),
    HandlerRow VERT_ANY_SIZE(LTR, load_selector<cpu::load_task_register>),
    HandlerRow VERT_ANY_SIZE(SLDT, sldt),
    HandlerRow VERT_ANY_SIZE(STR, str),
    HandlerRow VERT_ANY_SIZE(LAR, query<cpu::DescriptorQuery::kAccessRights>),
    HandlerRow VERT_ANY_SIZE(LSL, query<cpu::DescriptorQuery::kLimit>),
    HandlerRow VERT_ANY_SIZE(VERR, query<cpu::DescriptorQuery::kReadable>),
    HandlerRow VERT_ANY_SIZE(VERW, query<cpu::DescriptorQuery::kWritable>),
    HandlerRow VERT_ANY_SIZE(ARPL, arpl),
    HandlerRow VERT_ANY_SIZE(LDS, load_far_pointer<kDs>),
    HandlerRow VERT_ANY_SIZE(LES, load_far_pointer<kEs>),
    HandlerRow VERT_ANY_SIZE(LFS, load_far_pointer<kFs>),
    HandlerRow VERT_ANY_SIZE(LGS, load_far_pointer<kGs>),
    HandlerRow VERT_ANY_SIZE(LSS, load_far_pointer<kSs>),
};

}  // namespace

std::span<const HandlerRow> descriptor_handlers() { return kRows; }

}  // namespace vert::interp

// PUSH, POP and their relatives, PUSHF and POPF, ENTER and LEAVE.
#include "engine/interp/handlers.hpp"

namespace vert::interp {

namespace {

using namespace x86;

/// Stack operands are 64 bits wide in 64-bit mode unless 66h makes them 16 (SDM 1, 6.2.2); the decoder knows.
[[nodiscard]] unsigned stack_size(const Op& op) { return op.insn.operand_size; }

// SDM 2B, PUSH. A pushed segment register is zero-extended; PUSH RSP stores the old value.
Outcome push(Core& core, const Op& op) {
  u64 value = 0;
  const Operand& operand = op.insn.operands[0];
  if (operand.kind == OperandKind::kSegment)
    value = core.state().seg(static_cast<SegmentRegister>(operand.reg)).selector;
  else if (operand.kind == OperandKind::kImmediate)
    value = static_cast<u64>(op.insn.imm);
  else if (!core.load_zero_extended(op, 0, value))
    return Outcome::kFault;
  return core.push_sized(value, stack_size(op)) ? Outcome::kNext : Outcome::kFault;
}

Outcome pop_segment(Core& core, const Op& op) {
  const auto seg = static_cast<SegmentRegister>(op.insn.operands[0].reg);
  u16 selector = 0;
  // Only the low word is read, but the stack moves by the operand size.
  if (!core.top(selector)) return Outcome::kFault;
  const u64 rsp = core.moved_stack(stack_size(op));
  if (const auto raised = cpu::load_segment(core.state(), core.mmu, seg, selector))
    return core.raise(*raised);
  core.state().gpr[kRsp] = rsp;
  core.mode_changed();
  if (seg == kSs) core.state().mov_ss_shadow = true;
  return Outcome::kEndBlock;
}

// SDM 2B, POP. A memory operand based on RSP uses RSP after the increment.
Outcome pop(Core& core, const Op& op) {
  if (op.insn.operands[0].kind == OperandKind::kSegment) return pop_segment(core, op);
  const unsigned size = stack_size(op);
  u64 value = 0;
  if (!core.top_sized(value, size)) return Outcome::kFault;
  const u64 old_rsp = core.state().gpr[kRsp];
  core.drop(size);
  if (core.store_sized(op, 0, value, size)) return Outcome::kNext;
  core.state().gpr[kRsp] = old_rsp;
  return Outcome::kFault;
}

// SDM 2B, PUSHA and POPA: outside 64-bit mode only.
template <typename T>
Outcome pusha(Core& core, const Op&) {
  const std::array<u64, kGprCount> before = core.state().gpr;
  for (const u8 reg : {kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi}) {
    if (core.push(static_cast<T>(before[reg]))) continue;
    core.state().gpr[kRsp] = before[kRsp];
    return Outcome::kFault;
  }
  return Outcome::kNext;
}
template <typename T>
Outcome popa(Core& core, const Op&) {
  std::array<T, 8> values;
  for (unsigned i = 0; i < values.size(); ++i) {
    if (!core.top(values[i], u64{i} * sizeof(T))) return Outcome::kFault;
  }
  core.drop(sizeof values);
  for (unsigned i = 0; i < values.size(); ++i) {
    const u8 reg = static_cast<u8>(kRdi - i);
    if (reg != kRsp) core.set_gpr<T>(reg, values[i]);
  }
  return Outcome::kNext;
}

/// In virtual-8086 mode PUSHF, POPF, CLI, STI and INT n want IOPL 3, or act on VIF where CR4.VME gives them
/// that for 16-bit operands (SDM 3B, 20.2.7 and 20.3).
[[nodiscard]] bool uses_virtual_if(const cpu::CpuState& state) {
  return state.v86() && state.iopl() < 3 && (state.cr4 & cr4::VME) != 0;
}

// SDM 2B, PUSHF/PUSHFD/PUSHFQ: VM and RF are pushed as 0.
Outcome pushf(Core& core, const Op& op) {
  const cpu::CpuState& state = core.state();
  u64 image = state.rflags & ~(rflags::VM | rflags::RF);
  if (state.v86() && state.iopl() < 3) {
    if (!uses_virtual_if(state) || stack_size(op) != 2) return core.raise(Fault::gp());
    image = (image & ~rflags::IF) | rflags::IOPL;
    if ((state.rflags & rflags::VIF) != 0) image |= rflags::IF;
  }
  return core.push_sized(image, stack_size(op)) ? Outcome::kNext : Outcome::kFault;
}

/// POPF in virtual-8086 mode with IOPL < 3 under VME: IF of the image goes to VIF.
Outcome popf_virtual(Core& core, u64 image, unsigned size) {
  cpu::CpuState& state = core.state();
  if (!uses_virtual_if(state) || size != 2) return core.raise(Fault::gp());
  const bool pending = (state.rflags & rflags::VIP) != 0;
  if ((pending && (image & rflags::IF) != 0) || (image & rflags::TF) != 0) return core.raise(Fault::gp());
  constexpr u64 kLoaded = 0xFFFF & rflags::kDefined & ~(rflags::IF | rflags::IOPL);
  core.set_flags(kLoaded, image);
  core.set_flags(rflags::VIF, (image & rflags::IF) != 0 ? rflags::VIF : 0);
  core.drop(size);
  return Outcome::kEndBlock;
}

// SDM 2B, POPF/POPFD/POPFQ. The sensitive instruction that does not trap: above IOPL it keeps IF silently,
// and outside ring 0 IOPL.
Outcome popf(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  const unsigned size = stack_size(op);
  u64 image = 0;
  if (!core.top_sized(image, size)) return Outcome::kFault;
  if (state.v86() && state.iopl() < 3) return popf_virtual(core, image, size);

  u64 changeable = rflags::kArithmetic | rflags::TF | rflags::DF | rflags::NT;
  if (size > 2) changeable |= rflags::AC | rflags::ID;
  if (state.cpl <= state.iopl()) changeable |= rflags::IF;
  if (state.cpl == 0) changeable |= rflags::IOPL;
  const u64 before = state.rflags;
  core.set_flags(changeable, image);
  if (size > 2) state.rflags &= ~rflags::RF;
  core.drop(size);
  if (((before ^ state.rflags) & (rflags::TF | rflags::IF | rflags::AC | rflags::NT)) == 0)
    return Outcome::kNext;
  core.mode_changed();
  return Outcome::kEndBlock;
}

// SDM 2A, ENTER.
template <typename T>
Outcome enter_sized(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  const u64 saved_rsp = state.gpr[kRsp];
  const unsigned level = static_cast<unsigned>(op.insn.imm2) & 31;
  const auto fail = [&] {
    state.gpr[kRsp] = saved_rsp;
    return Outcome::kFault;
  };
  if (!core.push(core.gpr<T>(kRbp))) return fail();
  const T frame = static_cast<T>(core.stack_pointer());
  u64 outer = state.gpr[kRbp];
  for (unsigned i = 1; i < level; ++i) {
    T display;
    outer -= sizeof(T);
    if (!core.read_segment(kSs, outer & core.stack_mask(), display) || !core.push(display)) return fail();
  }
  if (level > 0 && !core.push(frame)) return fail();
  core.drop(u64{0} - static_cast<u16>(op.insn.imm));
  // The last stack slot must be writable, or ENTER faults with nothing changed.
  Gla address;
  if (!core.address_in(kSs, core.stack_pointer(), sizeof(T), cpu::AccessKind::kWrite, address)) return fail();
  if (!core.mmu.probe(cpu::AccessKind::kWrite, core.mmu.privilege(), address, 1)) {
    core.fault = core.mmu.fault();
    return fail();
  }
  if (core.stack_mask() == 0xFFFF && sizeof(T) == 4)
    core.set_gpr<u32>(kRbp, static_cast<u32>(frame));
  else
    core.set_gpr<T>(kRbp, frame);
  return Outcome::kNext;
}
Outcome enter(Core& core, const Op& op) {
  switch (stack_size(op)) {
    case 2: return enter_sized<u16>(core, op);
    case 4: return enter_sized<u32>(core, op);
    default: return enter_sized<u64>(core, op);
  }
}

// SDM 2A, LEAVE: RSP takes RBP at the stack's width, RBP is popped at the operand's.
Outcome leave(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  const u64 saved_rsp = state.gpr[kRsp];
  state.gpr[kRsp] = (saved_rsp & ~core.stack_mask()) | (state.gpr[kRbp] & core.stack_mask());
  u64 frame = 0;
  if (!core.top_sized(frame, stack_size(op))) {
    state.gpr[kRsp] = saved_rsp;
    return Outcome::kFault;
  }
  core.drop(stack_size(op));
  core.set_gpr_sized(kRbp, frame, stack_size(op));
  return Outcome::kNext;
}

constexpr std::array kRows = {
    HandlerRow VERT_ANY_SIZE(PUSH, push),        HandlerRow VERT_ANY_SIZE(POP, pop),
    HandlerRow VERT_ANY_SIZE(PUSHA, pusha<u16>), HandlerRow VERT_ANY_SIZE(PUSHAD, pusha<u32>),
    HandlerRow VERT_ANY_SIZE(POPA, popa<u16>),   HandlerRow VERT_ANY_SIZE(POPAD, popa<u32>),
    HandlerRow VERT_ANY_SIZE(PUSHF, pushf),      HandlerRow VERT_ANY_SIZE(PUSHFD, pushf),
    HandlerRow VERT_ANY_SIZE(PUSHFQ, pushf),     HandlerRow VERT_ANY_SIZE(POPF, popf),
    HandlerRow VERT_ANY_SIZE(POPFD, popf),       HandlerRow VERT_ANY_SIZE(POPFQ, popf),
    HandlerRow VERT_ANY_SIZE(ENTER, enter),      HandlerRow VERT_ANY_SIZE(LEAVE, leave),
};

}  // namespace

std::span<const HandlerRow> stack_handlers() { return kRows; }

}  // namespace vert::interp

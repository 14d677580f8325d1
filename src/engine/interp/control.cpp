// Control transfers: jumps, calls, returns, loops, software interrupts, SYSCALL and SYSENTER.
#include <algorithm>

#include "engine/interp/condition.hpp"
#include "engine/interp/handlers.hpp"

namespace vert::interp {

namespace {

using namespace x86;

/// Relative targets: the displacement counts from the next instruction.
[[nodiscard]] u64 relative_target(const Core& core, const Op& op) {
  return core.next_rip + static_cast<u64>(op.insn.imm);
}

/// Completes a far transfer that cpu/protection did: it has set CS:RIP.
Outcome far_done(Core& core, const cpu::MaybeFault& raised) {
  if (raised) return core.raise(*raised);
  core.mode_changed();
  return Outcome::kJump;
}

// FF /3, FF /5, 9A, EA are the far forms (SDM 2A, CALL and JMP).
[[nodiscard]] bool is_far(const Insn& insn, unsigned far_extension) {
  return insn.operands[0].kind == OperandKind::kFarPointer ||
         (insn.opcode == 0xFF && insn.has_modrm && ((insn.modrm >> 3) & 7) == far_extension);
}

/// The selector and offset of a far transfer: from the instruction, or from memory (offset first).
[[nodiscard]] bool far_target(Core& core, const Op& op, u16& selector, u64& offset) {
  if (op.insn.operands[0].kind == OperandKind::kFarPointer) {
    selector = static_cast<u16>(op.insn.imm2);
    offset = truncate(static_cast<u64>(op.insn.imm), op.insn.operand_size);
    return true;
  }
  const auto seg = static_cast<SegmentRegister>(op.insn.mem.segment);
  const u64 at = effective_offset(op.insn, core.state(), core.next_rip);
  // To AMD's processors the pointer has 32 bits of offset with REX.W, too.
  const unsigned size = core.is_amd() ? std::min<unsigned>(op.insn.operand_size, 4) : op.insn.operand_size;
  const auto read_offset = [&]<typename T>(T value) {
    if (!core.read_segment(seg, at, value)) return false;
    offset = value;
    return true;
  };
  const bool done = size == 2 ? read_offset(u16{}) : size == 4 ? read_offset(u32{}) : read_offset(u64{});
  return done && core.read_segment(seg, truncate(at + size, op.insn.address_size), selector);
}

// SDM 2A, JMP.
Outcome jmp(Core& core, const Op& op) {
  if (is_far(op.insn, 5)) {
    u16 selector = 0;
    u64 offset = 0;
    if (!far_target(core, op, selector, offset)) return Outcome::kFault;
    return far_done(
        core, cpu::far_jump(core.state(), core.mmu, selector, offset, op.insn.operand_size, core.next_rip));
  }
  u64 target = 0;
  if (op.insn.operands[0].kind == OperandKind::kImmediate)
    target = relative_target(core, op);
  else if (!core.load_zero_extended(op, 0, target))
    return Outcome::kFault;
  return core.jump(target, op.insn.operand_size);
}

/// A CALL to where no code can be, on AMD's processors: the stack's alignment comes first.
Outcome raise_target(Core& core, unsigned size) {
  Gla at;
  const u64 slot = core.state().gpr[kRsp] - size;
  const bool aligned = !core.code64() || core.address_in(kSs, slot, size, cpu::AccessKind::kWrite, at) ||
                       core.fault.vector != kAC;
  return aligned ? core.raise(Fault::gp()) : Outcome::kFault;
}

// SDM 2A, CALL. As Intel's processors do it, the return address is stored before the target is checked; AMD's
// check first. RSP moves after.
Outcome call(Core& core, const Op& op) {
  const unsigned size = op.insn.operand_size;
  if (is_far(op.insn, 3)) {
    u16 selector = 0;
    u64 offset = 0;
    if (!far_target(core, op, selector, offset)) return Outcome::kFault;
    return far_done(core, cpu::far_call(core.state(), core.mmu, selector, offset, size, core.next_rip));
  }
  u64 target = 0;
  if (op.insn.operands[0].kind == OperandKind::kImmediate)
    target = relative_target(core, op);
  else if (!core.load_zero_extended(op, 0, target))
    return Outcome::kFault;
  if (core.is_amd() && !core.valid_target(truncate(target, size))) return raise_target(core, size);
  const u64 old_rsp = core.state().gpr[kRsp];
  if (!core.push_sized(core.next_rip, size)) return Outcome::kFault;
  const Outcome outcome = core.jump(target, size);
  if (outcome == Outcome::kFault) core.state().gpr[kRsp] = old_rsp;
  return outcome;
}

// SDM 2B, RET: near (C2, C3) or far (CA, CB).
Outcome ret(Core& core, const Op& op) {
  const auto extra = static_cast<u16>(op.insn.operand_count > 0 ? op.insn.imm : 0);
  const unsigned size = op.insn.operand_size;
  if (op.insn.opcode == 0xCA || op.insn.opcode == 0xCB)
    return far_done(core, cpu::far_return(core.state(), core.mmu, size, extra));
  u64 target = 0;
  if (!core.top_sized(target, size)) return Outcome::kFault;
  const Outcome outcome = core.jump(target, size);
  if (outcome == Outcome::kJump) core.drop(size + extra);
  return outcome;
}

Outcome iret(Core& core, const Op& op) {
  if (core.state().nmi_blocked) core.context.events->merge_nmis();
  return far_done(core, cpu::interrupt_return(core.state(), core.mmu, op.insn.operand_size, core.next_rip));
}

// SDM 2A, Jcc.
template <Condition kCondition>
Outcome jcc(Core& core, const Op& op) {
  if (!holds(kCondition, core.state().rflags)) return Outcome::kNext;
  return core.jump(relative_target(core, op), op.insn.operand_size);
}

/// The count register of JCXZ and LOOP, by address size.
[[nodiscard]] u64 count_register(const Core& core, const Op& op) {
  return truncate(core.state().gpr[kRcx], op.insn.address_size);
}

// SDM 2A, JCXZ/JECXZ/JRCXZ.
Outcome jcxz(Core& core, const Op& op) {
  if (count_register(core, op) != 0) return Outcome::kNext;
  return core.jump(relative_target(core, op), op.insn.operand_size);
}

// SDM 2A, LOOP/LOOPcc. The count is only written back if the jump is allowed.
template <bool kWithZf, bool kZf>
Outcome loop(Core& core, const Op& op) {
  const u64 count = truncate(count_register(core, op) - 1, op.insn.address_size);
  const bool taken = count != 0 && (!kWithZf || core.flag(rflags::ZF) == kZf);
  Outcome outcome = Outcome::kNext;
  if (taken) outcome = core.jump(relative_target(core, op), op.insn.operand_size);
  if (outcome != Outcome::kFault) core.set_gpr_sized(kRcx, count, op.insn.address_size);
  return outcome;
}

/// Software interrupts: a fault met on the way is the instruction's own.
Outcome software_interrupt(Core& core, u8 vector, cpu::InterruptSource source) {
  return far_done(core, cpu::deliver(core.state(), core.mmu, {vector, source, std::nullopt, core.next_rip}));
}

// SDM 2A, INT n/INTO/INT3/INT1.
Outcome int_(Core& core, const Op& op) {
  return software_interrupt(core, static_cast<u8>(op.insn.imm), cpu::InterruptSource::kSoftware);
}
Outcome int3(Core& core, const Op&) {
  return software_interrupt(core, kBP, cpu::InterruptSource::kSoftwareTrap);
}
/// Data breakpoints that MOV SS or POP SS held back are this exception's, not another one's.
Outcome int1(Core& core, const Op&) {
  core.state().dr6 |= core.take_breakpoint_hits();
  return software_interrupt(core, kDB, cpu::InterruptSource::kInt1);
}
Outcome into(Core& core, const Op&) {
  if (!core.flag(rflags::OF)) return Outcome::kNext;
  return software_interrupt(core, kOF, cpu::InterruptSource::kSoftwareTrap);
}

// SDM 2A, BOUND: the index is signed; bounds are inclusive.
template <typename T>
Outcome bound(Core& core, const Op& op) {
  const auto seg = static_cast<SegmentRegister>(op.insn.mem.segment);
  const u64 at = effective_offset(op.insn, core.state(), core.next_rip);
  T lower;
  T upper;
  if (!core.read_segment(seg, at, lower) ||
      !core.read_segment(seg, truncate(at + sizeof(T), op.insn.address_size), upper))
    return Outcome::kFault;
  using Signed = std::make_signed_t<T>;
  const auto index = static_cast<Signed>(core.gpr<T>(op.insn.operands[0].reg));
  if (index < static_cast<Signed>(lower) || index > static_cast<Signed>(upper))
    return core.raise({kBR, false, 0, 0});
  return Outcome::kNext;
}

// The fast system calls load CS and SS with fixed, flat contents.

void set_flat_code(cpu::CpuState& state, u16 selector, u8 dpl, bool long_code) {
  const u16 attributes = static_cast<u16>(0xB | Segment::kS | Segment::kP | dpl << Segment::kDplShift |
                                          Segment::kG | (long_code ? Segment::kL : Segment::kDb));
  state.seg(kCs) = {selector, attributes, 0xFFFFFFFF, 0, false};
  state.cpl = dpl;
}
void set_flat_stack(cpu::CpuState& state, u16 selector, u8 dpl) {
  const u16 attributes = static_cast<u16>(0x3 | Segment::kS | Segment::kP | dpl << Segment::kDplShift |
                                          Segment::kG | Segment::kDb);
  state.seg(kSs) = {selector, attributes, 0xFFFFFFFF, 0, false};
}

/// Intel's processors know SYSCALL and SYSRET in 64-bit mode only; AMD's everywhere.
[[nodiscard]] bool has_syscall(const Core& core) {
  return (core.state().efer & efer::SCE) != 0 && (core.code64() || core.is_amd());
}

// SDM 2B, SYSCALL; APM 3, SYSCALL: AMD's enter by CSTAR from compatibility mode, and by STAR outside long
// mode.
Outcome syscall(Core& core, const Op&) {
  cpu::CpuState& state = core.state();
  if (!has_syscall(core)) return core.raise(Fault::ud());
  const bool to_long = state.long_mode();
  state.gpr[kRcx] = core.next_rip;
  u64 cleared = rflags::RF;
  if (to_long) {
    state.gpr[kR11] = state.rflags & ~rflags::RF;
    state.rip = core.code64() ? state.msr.lstar : state.msr.cstar;
    cleared |= state.msr.fmask;
  } else {
    state.rip = truncate(state.msr.star, 4);
    cleared |= rflags::VM | rflags::IF;
  }
  state.rflags = (state.rflags & ~cleared) | rflags::kFixed1;
  const u16 cs = static_cast<u16>((state.msr.star >> 32) & 0xFFFC);
  set_flat_code(state, cs, 0, to_long);
  set_flat_stack(state, static_cast<u16>(cs + 8), 0);
  core.mode_changed();
  return Outcome::kJump;
}

// SDM 2B, SYSRET: a non-canonical RCX faults in ring 0, before anything changes. APM 3, SYSRET: on AMD's
// processors the fetch faults, in ring 3; of SS only the selector is loaded; RFLAGS comes from R11 in 64-bit
// mode only.
Outcome sysret(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  if (!has_syscall(core)) return core.raise(Fault::ud());
  if (state.cpl != 0 || !state.protected_mode()) return core.raise(Fault::gp());
  const bool to_long = op.insn.operand_size == 8;
  const bool amd = core.is_amd();
  if (to_long && !amd && !is_canonical(state.gpr[kRcx], state.linear_bits())) return core.raise(Fault::gp());
  if (core.code64()) {
    constexpr u64 kLoaded = rflags::kDefined & ~(rflags::RF | rflags::VM);
    state.rflags = (state.gpr[kR11] & kLoaded) | rflags::kFixed1;
  } else {
    state.rflags |= rflags::IF;
  }
  const u64 target = truncate(state.gpr[kRcx], to_long ? 8 : 4);
  state.rip = target;
  const u16 base = static_cast<u16>(state.msr.star >> 48);
  set_flat_code(state, static_cast<u16>((to_long ? base + 16 : base) | 3), 3, to_long);
  if (amd)
    state.seg(kSs).select(static_cast<u16>((base + 8) | 3), 3);
  else
    set_flat_stack(state, static_cast<u16>((base + 8) | 3), 3);
  core.mode_changed();
  return core.valid_target(target) ? Outcome::kJump : core.raise(Fault::gp());
}

/// AMD's processors have SYSENTER and SYSEXIT outside long mode only (APM 3, SYSENTER).
[[nodiscard]] bool has_sysenter(const Core& core) { return !core.is_amd() || !core.state().long_mode(); }

// SDM 2B, SYSENTER.
Outcome sysenter(Core& core, const Op&) {
  cpu::CpuState& state = core.state();
  if (!has_sysenter(core)) return core.raise(Fault::ud());
  if (!state.protected_mode()) return core.raise(Fault::gp());
  if ((state.msr.sysenter_cs & 0xFFFC) == 0) return core.raise(Fault::gp());
  state.rflags &= ~(rflags::VM | rflags::IF | rflags::RF);
  const bool to_long = state.long_mode();
  state.gpr[kRsp] = to_long ? state.msr.sysenter_esp : truncate(state.msr.sysenter_esp, 4);
  state.rip = to_long ? state.msr.sysenter_eip : truncate(state.msr.sysenter_eip, 4);
  const u16 cs = static_cast<u16>(state.msr.sysenter_cs & 0xFFFC);
  set_flat_code(state, cs, 0, to_long);
  set_flat_stack(state, static_cast<u16>(cs + 8), 0);
  core.mode_changed();
  return Outcome::kJump;
}

// SDM 2B, SYSEXIT.
Outcome sysexit(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  const u64 cs_base = state.msr.sysenter_cs;
  if (!state.protected_mode() || state.cpl != 0) return core.raise(Fault::gp());
  if (!has_sysenter(core)) return core.raise(Fault::ud());
  if ((cs_base & 0xFFFC) == 0) return core.raise(Fault::gp());
  const bool to_long = op.insn.operand_size == 8;
  if (to_long && (!is_canonical(state.gpr[kRcx], state.linear_bits()) ||
                  !is_canonical(state.gpr[kRdx], state.linear_bits())))
    return core.raise(Fault::gp());
  state.gpr[kRsp] = truncate(state.gpr[kRcx], to_long ? 8 : 4);
  state.rip = truncate(state.gpr[kRdx], to_long ? 8 : 4);
  const u16 cs = static_cast<u16>((cs_base + (to_long ? 32 : 16)) | 3);
  set_flat_code(state, cs, 3, to_long);
  set_flat_stack(state, static_cast<u16>(cs + 8), 3);
  core.mode_changed();
  return Outcome::kJump;
}

constexpr std::array kRows = {
    HandlerRow VERT_ANY_SIZE(JMP, jmp),
    HandlerRow VERT_ANY_SIZE(CALL, call),
    HandlerRow VERT_ANY_SIZE(RET, ret),
    HandlerRow VERT_ANY_SIZE(IRET, iret),
    HandlerRow VERT_ANY_SIZE(IRETD, iret),
    HandlerRow VERT_ANY_SIZE(IRETQ, iret),
    HandlerRow VERT_ANY_SIZE(JCXZ, jcxz),
    HandlerRow VERT_ANY_SIZE(JECXZ, jcxz),
    HandlerRow VERT_ANY_SIZE(JRCXZ, jcxz),
    HandlerRow VERT_ANY_SIZE(LOOP, (loop<false, false>)),
    HandlerRow VERT_ANY_SIZE(LOOPE, (loop<true, true>)),
    HandlerRow VERT_ANY_SIZE(LOOPNE, (loop<true, false>)),
    HandlerRow VERT_ANY_SIZE(INT, int_),
    HandlerRow VERT_ANY_SIZE(INT3, int3),
    HandlerRow VERT_ANY_SIZE(INT1, int1),
    HandlerRow VERT_ANY_SIZE(INTO, into),
    HandlerRow VERT_EACH_SIZE(BOUND, bound),
    HandlerRow VERT_ANY_SIZE(SYSCALL, syscall),
    HandlerRow VERT_ANY_SIZE(SYSRET, sysret),
    HandlerRow VERT_ANY_SIZE(SYSENTER, sysenter),
    HandlerRow VERT_ANY_SIZE(SYSEXIT, sysexit),
    VERT_CONDITION_ROWS(J, jcc),
};

}  // namespace

std::span<const HandlerRow> control_handlers() { return kRows; }

}  // namespace vert::interp

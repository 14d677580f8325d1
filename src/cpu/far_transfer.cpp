// Far JMP, CALL and RET, and IRET, in every mode (SDM 2A: CALL, IRET, JMP; SDM 2B: RET). On the vCPU's
// thread.
#include <array>

#include "cpu/protection_internal.hpp"

namespace vert::cpu {

using internal::Cpu;
using internal::Entry;
using internal::Stack;
using internal::TaskSwitch;
using x86::Fault;
using x86::Segment;

namespace {

namespace rflags = x86::rflags;

/// A far JMP or CALL as decoded.
struct Transfer {
  bool call = false;
  u16 selector = 0;
  u64 offset = 0;
  unsigned size = 4;  // operand size
  u64 next_rip = 0;
};

MaybeFault transfer_real(const Cpu& cpu, const Transfer& transfer) {
  CpuState& state = cpu.state;
  const Segment code = internal::real_segment(state, x86::kCs, transfer.selector);
  const u64 rip = internal::truncate(transfer.offset, transfer.size);
  if (!transfer.call) {
    if (auto fault = internal::check_target(cpu, code, rip)) return fault;
  } else {
    Stack stack(cpu);
    if (auto fault = stack.check_room(2, transfer.size)) return fault;
    if (auto fault = internal::check_target(cpu, code, rip)) return fault;
    const std::array<u64, 2> frame = {state.seg(x86::kCs).selector, transfer.next_rip};
    if (auto fault = stack.push_all(frame, transfer.size)) return fault;
    internal::set_stack_pointer(state, stack.pointer(), stack.width());
  }
  internal::commit_code(cpu, code, rip, state.cpl);
  return std::nullopt;
}

/// Goes to `code` at the same level; a CALL pushes CS and RIP on the stack in force, `size` bytes each.
MaybeFault enter_same_level(const Cpu& cpu, const Transfer& transfer, const Segment& code, u64 rip,
                            unsigned size) {
  CpuState& state = cpu.state;
  if (!transfer.call) {
    if (auto fault = internal::check_target(cpu, code, rip)) return fault;
  } else {
    // A 64-bit call gate entered from compatibility mode pushes as 64-bit code does.
    const unsigned width = size == 8 ? 8 : stack_width(state);
    Stack stack(cpu, state.seg(x86::kSs), state.gpr[x86::kRsp], width, state.cpl, 0);
    if (auto fault = stack.check_room(2, size)) return fault;
    if (auto fault = internal::check_target(cpu, code, rip)) return fault;
    const std::array<u64, 2> frame = {state.seg(x86::kCs).selector, transfer.next_rip};
    if (auto fault = stack.push_all(frame, size)) return fault;
    internal::set_stack_pointer(state, stack.pointer(), width);
  }
  internal::commit_code(cpu, code, rip, state.cpl);
  return std::nullopt;
}

u16 with_rpl(u16 selector, u8 rpl) { return static_cast<u16>((selector & 0xFFFC) | rpl); }

MaybeFault transfer_to_code(const Cpu& cpu, const Transfer& transfer, const Entry& entry) {
  const u8 cpl = cpu.state.cpl;
  const u8 dpl = entry.descriptor.dpl();
  const bool level =
      entry.conforming() ? dpl <= cpl : dpl == cpl && internal::rpl_of(transfer.selector) <= cpl;
  const bool both_sizes = cpu.state.long_mode() && entry.long_code() && entry.big();
  if (!entry.descriptor.is_code() || !level || both_sizes)
    return internal::selector_fault(cpu, x86::kGP, transfer.selector);
  if (!entry.descriptor.present()) return internal::selector_fault(cpu, x86::kNP, transfer.selector);
  Segment code;
  if (auto fault = internal::to_segment(cpu, entry, with_rpl(transfer.selector, cpl), code)) return fault;
  return enter_same_level(cpu, transfer, code, internal::truncate(transfer.offset, transfer.size),
                          transfer.size);
}

/// A call gate, read and checked.
struct CallGate {
  u16 selector = 0;
  u64 offset = 0;
  unsigned size = 4;
  unsigned parameters = 0;
};

/// A CALL through a gate to an inner level: the new stack gets SS, SP, the parameters, CS and IP.
MaybeFault call_inner_level(const Cpu& cpu, const CallGate& gate, const Segment& code, u8 cpl, u64 next_rip) {
  CpuState& state = cpu.state;
  Segment ss;
  u64 pointer = 0;
  if (auto fault = internal::inner_stack(cpu, cpl, ss, pointer)) return fault;
  Stack stack(cpu, ss, pointer, internal::stack_width(state, code, ss), cpl, ss.selector & 0xFFFCU);
  constexpr unsigned kMostParameters = 31;
  std::array<u64, kMostParameters + 4> frame{};
  const unsigned count = gate.parameters + 4;
  if (auto fault = stack.check_room(count, gate.size)) return fault;
  if (auto fault = internal::check_target(cpu, code, gate.offset)) return fault;

  Stack outer(cpu);
  frame[0] = state.seg(x86::kSs).selector;
  frame[1] = state.gpr[x86::kRsp];
  for (unsigned i = 0; i < gate.parameters; ++i)
    if (auto fault = outer.pop(gate.size, frame[count - 3 - i])) return fault;
  frame[count - 2] = state.seg(x86::kCs).selector;
  frame[count - 1] = next_rip;
  if (auto fault = stack.push_all(std::span(frame).first(count), gate.size)) return fault;

  state.seg(x86::kSs) = ss;
  internal::set_stack_pointer(state, stack.pointer(), stack.width());
  internal::commit_code(cpu, code, gate.offset, cpl);
  return std::nullopt;
}

MaybeFault transfer_through_gate(const Cpu& cpu, const Transfer& transfer, Entry& entry) {
  const CpuState& state = cpu.state;
  CallGate gate;
  gate.size = state.long_mode() ? 8 : (entry.descriptor.type() == x86::kCallGate ? 4 : 2);
  if (state.long_mode()) {
    if (auto fault = internal::read_high(cpu, entry)) return fault;
  } else {
    gate.parameters = entry.descriptor.gate_parameter_count();
  }
  gate.selector = entry.descriptor.gate_selector();
  gate.offset = internal::truncate(entry.wide_gate_offset(), gate.size);

  if (internal::is_null(gate.selector)) return Fault::gp();
  Entry target;
  if (auto fault = internal::read_entry(cpu, gate.selector, x86::kGP, target)) return fault;
  const u8 dpl = target.descriptor.dpl();
  const bool may_go_in = target.conforming() || transfer.call;
  const bool wrong_level = dpl > state.cpl || (!may_go_in && dpl != state.cpl);
  const bool wrong_size = state.long_mode() && (!target.long_code() || target.big());
  if (!target.descriptor.is_code() || wrong_level || wrong_size)
    return internal::selector_fault(cpu, x86::kGP, gate.selector);
  if (!target.descriptor.present()) return internal::selector_fault(cpu, x86::kNP, gate.selector);
  const bool inner = !target.conforming() && dpl < state.cpl;
  const u8 cpl = inner ? dpl : state.cpl;
  Segment code;
  if (auto fault = internal::to_segment(cpu, target, with_rpl(gate.selector, cpl), code)) return fault;
  if (inner) return call_inner_level(cpu, gate, code, cpl, transfer.next_rip);
  return enter_same_level(cpu, transfer, code, gate.offset, gate.size);
}

MaybeFault transfer_to_task(const Cpu& cpu, const Transfer& transfer, u16 selector) {
  const TaskSwitch kind = transfer.call ? TaskSwitch::kNested : TaskSwitch::kJump;
  Entry task;
  if (auto fault = internal::read_task(cpu, kind, selector, x86::kGP, task)) return fault;
  return internal::switch_task(cpu, kind, task, transfer.next_rip, cpu.state.rflags, std::nullopt);
}

/// System descriptors that JMP and CALL take: gates, and TSSs outside long mode.
MaybeFault transfer_to_system(const Cpu& cpu, const Transfer& transfer, Entry& entry) {
  const x86::Descriptor& descriptor = entry.descriptor;
  const u8 type = descriptor.type();
  const bool call_gate = type == x86::kCallGate || (type == x86::kCallGate16 && !cpu.state.long_mode());
  const bool task_gate = type == x86::kTaskGate && !cpu.state.long_mode();
  const bool tss = (type == x86::kTssAvailable || type == x86::kTss16Available) && !cpu.state.long_mode();
  const bool level =
      descriptor.dpl() >= cpu.state.cpl && descriptor.dpl() >= internal::rpl_of(transfer.selector);
  if (!(call_gate || task_gate || tss) || !level)
    return internal::selector_fault(cpu, x86::kGP, transfer.selector);
  if (!descriptor.present()) return internal::selector_fault(cpu, x86::kNP, transfer.selector);
  if (call_gate) return transfer_through_gate(cpu, transfer, entry);
  return transfer_to_task(cpu, transfer, task_gate ? descriptor.gate_selector() : transfer.selector);
}

MaybeFault far_transfer(const Cpu& cpu, const Transfer& transfer) {
  if (cpu.state.real_addressing()) return transfer_real(cpu, transfer);
  if (internal::is_null(transfer.selector)) return Fault::gp();
  Entry entry;
  if (auto fault = internal::read_entry(cpu, transfer.selector, x86::kGP, entry)) return fault;
  if (entry.descriptor.is_system()) return transfer_to_system(cpu, transfer, entry);
  return transfer_to_code(cpu, transfer, entry);
}

/// Data segments that the new, outer level may not use become null; FS and GS keep their bases, which 64-bit
/// code reaches without a selector (SDM 2B, RET).
void drop_inner_segments(CpuState& state) {
  for (const auto reg : {x86::kEs, x86::kDs, x86::kFs, x86::kGs}) {
    Segment& segment = state.seg(reg);
    const bool conforming = segment.is_code() && (segment.attributes & Segment::kConforming) != 0;
    if (segment.unusable || conforming || segment.dpl() >= state.cpl) continue;
    const u64 base = segment.base;
    segment = internal::null_segment(0);
    segment.base = base;
  }
}

/// SS popped by a return: null only towards 64-bit code inside levels 0 to 2.
MaybeFault read_return_stack(const Cpu& cpu, u16 selector, u8 cpl, const Segment& code, Segment& ss) {
  if (internal::is_null(selector)) {
    if (!cpu.state.long_mode() || !code.is_long() || cpl == 3) return Fault::gp();
    ss = internal::null_stack_segment(cpl);
    ss.selector = selector;
    return std::nullopt;
  }
  Entry entry;
  if (auto fault = internal::read_stack_entry(cpu, selector, cpl, x86::kGP, entry)) return fault;
  return internal::to_segment(cpu, entry, selector, ss);
}

/// What RET and IRET have popped: CS and RIP always, SS and RSP where the level changes, and from 64-bit
/// IRET.
struct Return {
  u64 rip = 0;
  u16 cs = 0;
  bool pops_stack = false;
  unsigned size = 4;
  u64 release = 0;  // RET imm16, on either stack
};

/// The stack of another level than this: AMD's processors read it before they check CS.
MaybeFault read_ahead(const Cpu& cpu, const Return& to, Stack stack) {
  if (cpu.mmu.model().vendor() != x86::Vendor::kAmd || internal::rpl_of(to.cs) == cpu.state.cpl)
    return std::nullopt;
  u64 value = 0;
  stack.skip(to.release);
  if (auto fault = stack.peek(to.size, to.size, value)) return fault;
  return stack.peek(0, to.size, value);
}

/// Checks and loads the return's code segment, and the rest of the frame. RFLAGS is the caller's, before or
/// after: nothing here depends on it once the stack was popped.
MaybeFault finish_return(const Cpu& cpu, const Return& to, Stack& stack) {
  CpuState& state = cpu.state;
  if (auto fault = read_ahead(cpu, to, stack)) return fault;
  Entry entry;
  if (auto fault = internal::read_return_code(cpu, to.cs, state.cpl, x86::kGP, entry)) return fault;
  const u8 cpl = internal::rpl_of(to.cs);
  const bool outer = cpl > state.cpl;
  stack.skip(to.release);
  Segment code = entry.descriptor.to_segment(to.cs);
  Segment ss = state.seg(x86::kSs);
  u64 pointer = stack.pointer();
  unsigned width = stack.width();
  if (outer || to.pops_stack) {
    u16 selector = 0;
    if (auto fault = stack.peek_selector(to.size, selector)) return fault;
    if (auto fault = stack.peek(0, to.size, pointer)) return fault;
    if (auto fault = read_return_stack(cpu, selector, cpl, code, ss)) return fault;
    width = internal::stack_width(state, code, ss);
    if (outer) pointer += to.release;
  }
  if (auto fault = internal::check_target(cpu, code, to.rip)) return fault;
  if (auto fault = internal::to_segment(cpu, entry, to.cs, code)) return fault;

  state.seg(x86::kSs) = ss;
  internal::set_stack_pointer(state, pointer, width);
  internal::commit_code(cpu, code, to.rip, cpl);
  if (outer) drop_inner_segments(state);
  return std::nullopt;
}

/// Pops RIP and CS. Processors read from the top down, and of selectors only two bytes: it shows in which
/// fault comes, and in CR2.
MaybeFault pop_target(Stack& stack, unsigned size, u64& rip, u16& cs) {
  if (auto fault = stack.peek_selector(size, cs)) return fault;
  if (auto fault = stack.peek(0, size, rip)) return fault;
  stack.skip(u64{2} * size);
  return std::nullopt;
}

/// Pops RIP, CS and RFLAGS, these first.
MaybeFault pop_interrupted(Stack& stack, unsigned size, u64& rip, u16& cs, u64& flags) {
  if (auto fault = stack.peek(u64{2} * size, size, flags)) return fault;
  if (auto fault = pop_target(stack, size, rip, cs)) return fault;
  stack.skip(size);
  return std::nullopt;
}

/// The end of RET and IRET in real and virtual-8086 mode.
MaybeFault commit_real_return(const Cpu& cpu, u64 rip, u16 cs, const Stack& stack) {
  const Segment code = internal::real_segment(cpu.state, x86::kCs, cs);
  if (auto fault = internal::check_target(cpu, code, rip)) return fault;
  internal::set_stack_pointer(cpu.state, stack.pointer(), stack.width());
  internal::commit_code(cpu, code, rip, cpu.state.cpl);
  return std::nullopt;
}

void change_flags(CpuState& state, u64 popped, u64 mask) {
  state.rflags = (state.rflags & ~mask) | (popped & mask) | rflags::kFixed1;
}

constexpr u64 kLowFlags = 0x7FD5;  // of the low 16, those that exist
constexpr u64 kPlainFlags = rflags::kArithmetic | rflags::TF | rflags::DF | rflags::NT;
constexpr u64 kWidePlainFlags = rflags::RF | rflags::AC | rflags::ID;

/// What IRET may change in protected and long mode, by level (SDM 2A, IRET).
u64 iret_mask(const CpuState& state, unsigned size) {
  u64 mask = kPlainFlags;
  if (size > 2) mask |= kWidePlainFlags;
  if (state.cpl <= state.iopl()) mask |= rflags::IF;
  if (state.cpl == 0) {
    mask |= rflags::IOPL;
    if (size > 2) mask |= rflags::VIF | rflags::VIP;
  }
  return mask;
}

MaybeFault iret_real(const Cpu& cpu, unsigned size) {
  Stack stack(cpu);
  u64 rip = 0;
  u16 cs = 0;
  u64 flags = 0;
  if (auto fault = pop_interrupted(stack, size, rip, cs, flags)) return fault;
  u64 mask = kLowFlags | (size > 2 ? kWidePlainFlags : 0);
  if (cpu.state.v86()) mask &= ~rflags::IOPL;
  if (auto fault = commit_real_return(cpu, rip, cs, stack)) return fault;
  change_flags(cpu.state, flags, mask);
  cpu.mmu.update_privilege();
  return std::nullopt;
}

/// With CR4.VME and IOPL < 3 a 16-bit IRET works on the virtual IF (SDM 3B, 20.3.3.4).
MaybeFault iret_virtual_if(const Cpu& cpu) {
  CpuState& state = cpu.state;
  Stack stack(cpu);
  u64 rip = 0;
  u16 cs = 0;
  u64 flags = 0;
  if (auto fault = pop_interrupted(stack, 2, rip, cs, flags)) return fault;
  const bool sets_if = (flags & rflags::IF) != 0;
  if ((flags & rflags::TF) != 0 || (sets_if && (state.rflags & rflags::VIP) != 0)) return Fault::gp();
  if (auto fault = commit_real_return(cpu, rip, cs, stack)) return fault;
  change_flags(state, flags, kPlainFlags);
  change_flags(state, sets_if ? rflags::VIF : 0, rflags::VIF);
  return std::nullopt;
}

MaybeFault iret_v86(const Cpu& cpu, unsigned size) {
  if (cpu.state.iopl() == 3) return iret_real(cpu, size);
  if (size == 2 && (cpu.state.cr4 & x86::cr4::VME) != 0) return iret_virtual_if(cpu);
  return Fault::gp();
}

/// IRET with NT: back to the task that the TSS's link names.
MaybeFault iret_task(const Cpu& cpu, u64 next_rip) {
  CpuState& state = cpu.state;
  u16 link = 0;
  if (auto fault = internal::read_system(cpu, internal::system_address(state, state.tr.base, 0), link))
    return fault;
  Entry task;
  if (auto fault = internal::read_task(cpu, TaskSwitch::kReturn, link, x86::kTS, task)) return fault;
  return internal::switch_task(cpu, TaskSwitch::kReturn, task, next_rip, state.rflags, std::nullopt);
}

/// From level 0 to virtual-8086 mode: ESP, SS, ES, DS, FS and GS follow on the stack.
MaybeFault iret_to_v86(const Cpu& cpu, u64 rip, u16 cs, u64 flags, Stack& stack) {
  CpuState& state = cpu.state;
  std::array<u64, 6> rest{};
  for (u64& item : rest)
    if (auto fault = stack.pop(4, item)) return fault;
  const Segment code = internal::v86_segment(cs);
  if (auto fault = internal::check_target(cpu, code, rip)) return fault;
  change_flags(state, flags, rflags::kDefined);
  constexpr std::array kLoaded = {x86::kSs, x86::kEs, x86::kDs, x86::kFs, x86::kGs};
  for (std::size_t i = 0; i < kLoaded.size(); ++i)
    state.seg(kLoaded[i]) = internal::v86_segment(static_cast<u16>(rest[i + 1]));
  internal::set_stack_pointer(state, rest[0], 4);
  internal::commit_code(cpu, code, rip, 3);
  return std::nullopt;
}

MaybeFault iret_protected(const Cpu& cpu, unsigned size) {
  CpuState& state = cpu.state;
  Stack stack(cpu);
  Return to;
  to.size = size;
  to.pops_stack = state.code64();
  u64 flags = 0;
  if (auto fault = pop_interrupted(stack, size, to.rip, to.cs, flags)) return fault;
  if ((flags & rflags::VM) != 0 && state.cpl == 0 && !state.long_mode())
    return iret_to_v86(cpu, to.rip, to.cs, flags, stack);
  const u64 mask = iret_mask(state, size);
  if (auto fault = finish_return(cpu, to, stack)) return fault;
  change_flags(state, flags, mask);
  cpu.mmu.update_privilege();
  return std::nullopt;
}

}  // namespace

MaybeFault far_jump(CpuState& state, Mmu& mmu, u16 selector, u64 offset, unsigned operand_size,
                    u64 next_rip) {
  return far_transfer({state, mmu}, {false, selector, offset, operand_size, next_rip});
}

MaybeFault far_call(CpuState& state, Mmu& mmu, u16 selector, u64 offset, unsigned operand_size,
                    u64 next_rip) {
  return far_transfer({state, mmu}, {true, selector, offset, operand_size, next_rip});
}

MaybeFault far_return(CpuState& state, Mmu& mmu, unsigned operand_size, u16 pop_bytes) {
  const Cpu cpu{state, mmu};
  Stack stack(cpu);
  Return to;
  to.size = operand_size;
  to.release = pop_bytes;
  if (auto fault = pop_target(stack, operand_size, to.rip, to.cs)) return fault;
  if (!state.real_addressing()) return finish_return(cpu, to, stack);
  stack.skip(pop_bytes);
  return commit_real_return(cpu, to.rip, to.cs, stack);
}

MaybeFault interrupt_return(CpuState& state, Mmu& mmu, unsigned operand_size, u64 next_rip) {
  const Cpu cpu{state, mmu};
  state.nmi_blocked = false;  // even if it faults (SDM 3A, 6.7.1)
  if (!state.protected_mode()) return iret_real(cpu, operand_size);
  if (state.v86()) return iret_v86(cpu, operand_size);
  if ((state.rflags & rflags::NT) == 0) return iret_protected(cpu, operand_size);
  if (state.long_mode()) return Fault::gp();
  return iret_task(cpu, next_rip);
}

}  // namespace vert::cpu

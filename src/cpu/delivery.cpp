// Interrupts and exceptions: through the real-mode table, through interrupt, trap and task gates, in long
// mode with IST, from virtual-8086 mode with the extensions of CR4.VME (SDM 3A, chapter 6; SDM 2A, INT n; SDM
// 3B, 20.3), and what becomes of faults on the way (SDM 3A, table 6-5). On the vCPU's thread.
#include <array>

#include <fmt/format.h>

#include "cpu/protection_internal.hpp"

namespace vert::cpu {

using internal::Cpu;
using internal::Entry;
using internal::kErrorIdt;
using internal::Stack;
using x86::Fault;
using x86::Segment;
using x86::Vector;

namespace {

namespace rflags = x86::rflags;

/// An interruption with the flags image that it saves.
struct Event {
  Interruption what;
  u64 flags = 0;

  [[nodiscard]] bool checks_gate_level() const {
    return what.source == InterruptSource::kSoftware || what.source == InterruptSource::kSoftwareTrap;
  }
};

/// An interrupt or trap gate, read and checked.
struct Gate {
  u16 selector = 0;
  u64 offset = 0;
  unsigned size = 4;  // of each item pushed
  u8 ist = 0;
  bool clears_if = false;
};

/// The frame to push, oldest item first: at most GS, FS, DS, ES, SS, SP, flags, CS, IP, error code.
class Frame {
 public:
  void add(u64 item) { items_[count_++] = item; }
  [[nodiscard]] std::span<const u64> items() const { return {items_.data(), count_}; }
  [[nodiscard]] unsigned count() const { return count_; }

 private:
  std::array<u64, 10> items_{};
  unsigned count_ = 0;
};

/// Where the handler runs.
struct Handler {
  Segment code;
  Segment ss;
  u8 cpl = 0;
  bool inner = false;
};

void end_shadows(CpuState& state) {
  state.sti_shadow = false;
  state.mov_ss_shadow = false;
  state.activity = Activity::kRunning;
}

Fault gate_fault(const Cpu& cpu, Vector vector, u8 number) {
  return {vector, true, u32{number} * 8 | kErrorIdt | cpu.ext, 0};
}

/// Pushes FLAGS, CS and IP and goes where a real-mode table at `table` says.
MaybeFault enter_real_handler(const Cpu& cpu, const Event& event, u64 table, u64 flags_image,
                              u64 flags_after) {
  CpuState& state = cpu.state;
  u32 pointer = 0;
  const Gla address = internal::system_address(state, table, u64{event.what.vector} * 4);
  if (auto fault = internal::read_system(cpu, address, pointer)) return fault;
  Stack stack(cpu);
  const std::array<u64, 3> frame = {flags_image, state.seg(x86::kCs).selector, event.what.return_rip};
  if (auto fault = stack.check_room(frame.size(), 2)) return fault;
  if (auto fault = stack.push_all(frame, 2)) return fault;
  internal::set_stack_pointer(state, stack.pointer(), stack.width());
  state.rflags = flags_after;
  internal::commit_code(cpu, internal::real_segment(state, x86::kCs, static_cast<u16>(pointer >> 16)),
                        pointer & 0xFFFF, state.cpl);
  end_shadows(state);
  return std::nullopt;
}

MaybeFault deliver_real(const Cpu& cpu, const Event& event) {
  const CpuState& state = cpu.state;
  if (u64{event.what.vector} * 4 + 3 > state.idtr.limit) return gate_fault(cpu, x86::kGP, event.what.vector);
  const u64 after = state.rflags & ~(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
  return enter_real_handler(cpu, event, state.idtr.base, event.flags, after);
}

/// The 256-bit map of software interrupts lies right below the I/O permission map (SDM 3B, figure 20-5).
MaybeFault read_redirection_bit(const Cpu& cpu, u8 vector, bool& to_protected) {
  constexpr u64 kIoMapBase = 0x66;
  const Segment& tr = cpu.state.tr;
  if (tr.type() != x86::kTssBusy || kIoMapBase + 1 > tr.limit) return Fault::gp();
  u16 map_base = 0;
  if (auto fault =
          internal::read_system(cpu, internal::system_address(cpu.state, tr.base, kIoMapBase), map_base))
    return fault;
  constexpr u64 kMapSize = 32;
  const u64 offset = map_base - kMapSize + vector / 8;
  if (map_base < kMapSize || offset > tr.limit) return Fault::gp();
  u8 bits = 0;
  if (auto fault = internal::read_system(cpu, internal::system_address(cpu.state, tr.base, offset), bits))
    return fault;
  to_protected = (bits & (1U << (vector % 8))) != 0;
  return std::nullopt;
}

/// Into the 8086 program's own handler, with virtual IF where IOPL keeps the real one away (SDM
/// 3B, 20.3.3.4).
MaybeFault deliver_redirected(const Cpu& cpu, const Event& event) {
  const CpuState& state = cpu.state;
  const bool virtual_if = state.iopl() < 3;
  u64 image = event.flags;
  if (virtual_if) {
    image = (image & ~rflags::IF) | rflags::IOPL | ((image & rflags::VIF) != 0 ? rflags::IF : 0);
  }
  const u64 after = state.rflags & ~(rflags::TF | rflags::RF | (virtual_if ? rflags::VIF : rflags::IF));
  return enter_real_handler(cpu, event, 0, image, after);
}

MaybeFault read_gate(const Cpu& cpu, const Event& event, Entry& entry) {
  const CpuState& state = cpu.state;
  const u8 vector = event.what.vector;
  const u64 entry_size = state.long_mode() ? 16 : 8;
  const u64 offset = vector * entry_size;
  if (offset + entry_size - 1 > state.idtr.limit) return gate_fault(cpu, x86::kGP, vector);
  entry.address = internal::system_address(state, state.idtr.base, offset);
  if (auto fault = internal::read_system(cpu, entry.address, entry.descriptor.raw)) return fault;

  const u8 type = entry.descriptor.type();
  const bool wide = type == x86::kInterruptGate || type == x86::kTrapGate;
  const bool legacy = type == x86::kTaskGate || type == x86::kInterruptGate16 || type == x86::kTrapGate16;
  if (!entry.descriptor.is_system() || !(wide || (legacy && !state.long_mode())))
    return gate_fault(cpu, x86::kGP, vector);
  if (event.checks_gate_level() && entry.descriptor.dpl() < state.cpl)
    return gate_fault(cpu, x86::kGP, vector);
  if (!entry.descriptor.present()) return gate_fault(cpu, x86::kNP, vector);
  if (!state.long_mode()) return std::nullopt;
  u32 high = 0;
  if (auto fault = internal::read_system(cpu, entry.address + 8, high)) return fault;
  entry.high = high;
  return std::nullopt;
}

Gate to_gate(const CpuState& state, const Entry& entry) {
  const x86::Descriptor& descriptor = entry.descriptor;
  const u8 type = descriptor.type();
  const bool wide = type == x86::kInterruptGate || type == x86::kTrapGate;
  Gate gate;
  gate.selector = descriptor.gate_selector();
  gate.clears_if = type == x86::kInterruptGate || type == x86::kInterruptGate16;
  gate.size = state.long_mode() ? 8 : (wide ? 4 : 2);
  gate.offset =
      internal::truncate(state.long_mode() ? entry.wide_gate_offset() : descriptor.gate_offset(), gate.size);
  if (state.long_mode()) gate.ist = descriptor.gate_ist();
  return gate;
}

/// The handler's code segment and level (SDM 2A, INT n, INTERRUPT-OR-TRAP-GATE).
MaybeFault read_handler(const Cpu& cpu, const Gate& gate, Handler& handler) {
  const CpuState& state = cpu.state;
  if (internal::is_null(gate.selector)) return Fault::gp(cpu.ext);
  Entry entry;
  if (auto fault = internal::read_entry(cpu, gate.selector, x86::kGP, entry)) return fault;
  const u8 dpl = entry.descriptor.dpl();
  const bool wrong_size = state.long_mode() && (!entry.long_code() || entry.big());
  handler.inner = !entry.conforming() && dpl < state.cpl;
  handler.cpl = handler.inner ? dpl : state.cpl;
  // Virtual-8086 mode is left for level 0 only.
  const bool wrong_level = dpl > state.cpl || (state.v86() && handler.cpl != 0);
  if (!entry.descriptor.is_code() || wrong_level || wrong_size)
    return internal::selector_fault(cpu, x86::kGP, gate.selector);
  if (!entry.descriptor.present()) return internal::selector_fault(cpu, x86::kNP, gate.selector);
  const u16 selector = static_cast<u16>((gate.selector & 0xFFFC) | handler.cpl);
  return internal::to_segment(cpu, entry, selector, handler.code);
}

/// The stack that the handler starts on; `handler.ss` becomes its SS.
MaybeFault handler_stack(const Cpu& cpu, const Gate& gate, Handler& handler, std::optional<Stack>& stack) {
  const CpuState& state = cpu.state;
  handler.ss = state.seg(x86::kSs);
  u64 pointer = state.gpr[x86::kRsp];
  u32 error_code = cpu.ext;
  if (handler.inner) {
    if (gate.ist != 0) {
      handler.ss = internal::null_stack_segment(handler.cpl);
    } else if (auto fault = internal::inner_stack(cpu, handler.cpl, handler.ss, pointer)) {
      return fault;
    }
    error_code |= handler.ss.selector & 0xFFFCU;
  }
  if (gate.ist != 0) {
    constexpr u64 kTss64Ist1 = 0x24;
    if (auto fault = internal::read_tss_rsp(cpu, kTss64Ist1 + (gate.ist - 1U) * 8, pointer)) return fault;
  }
  if (state.long_mode()) pointer &= ~u64{15};  // SDM 3A, 6.14.2
  stack.emplace(cpu, handler.ss, pointer, internal::stack_width(state, handler.code, handler.ss), handler.cpl,
                error_code);
  return std::nullopt;
}

Frame make_frame(const CpuState& state, const Event& event, const Handler& handler) {
  Frame frame;
  if (state.v86()) {
    for (const auto reg : {x86::kGs, x86::kFs, x86::kDs, x86::kEs}) frame.add(state.seg(reg).selector);
  }
  if (handler.inner || state.long_mode()) {
    frame.add(state.seg(x86::kSs).selector);
    frame.add(state.gpr[x86::kRsp]);
  }
  frame.add(event.flags);
  frame.add(state.seg(x86::kCs).selector);
  frame.add(event.what.return_rip);
  if (event.what.error_code) frame.add(*event.what.error_code);
  return frame;
}

MaybeFault enter_handler(const Cpu& cpu, const Gate& gate, const Event& event) {
  CpuState& state = cpu.state;
  Handler handler;
  if (auto fault = read_handler(cpu, gate, handler)) return fault;
  std::optional<Stack> stack;
  if (auto fault = handler_stack(cpu, gate, handler, stack)) return fault;
  const Frame frame = make_frame(state, event, handler);
  if (auto fault = stack->check_room(frame.count(), gate.size)) return fault;
  if (auto fault = internal::check_target(cpu, handler.code, gate.offset)) return fault;
  if (auto fault = stack->push_all(frame.items(), gate.size)) return fault;

  if (state.v86()) {
    for (const auto reg : {x86::kGs, x86::kFs, x86::kDs, x86::kEs})
      state.seg(reg) = internal::null_segment(0);
  }
  state.seg(x86::kSs) = handler.ss;
  internal::set_stack_pointer(state, stack->pointer(), stack->width());
  state.rflags &= ~(rflags::TF | rflags::NT | rflags::RF | rflags::VM | (gate.clears_if ? rflags::IF : 0));
  internal::commit_code(cpu, handler.code, gate.offset, handler.cpl);
  end_shadows(state);
  return std::nullopt;
}

MaybeFault enter_task(const Cpu& cpu, u16 selector, const Event& event) {
  Entry task;
  if (auto fault = internal::read_task(cpu, internal::TaskSwitch::kNested, selector, x86::kGP, task))
    return fault;
  end_shadows(cpu.state);
  return internal::switch_task(cpu, internal::TaskSwitch::kNested, task, event.what.return_rip, event.flags,
                               event.what.error_code);
}

MaybeFault deliver_event(const Cpu& cpu, const Event& event) {
  const CpuState& state = cpu.state;
  if (!state.protected_mode()) return deliver_real(cpu, event);
  if (state.v86() && event.what.source == InterruptSource::kSoftware) {
    bool to_protected = true;
    if ((state.cr4 & x86::cr4::VME) != 0) {
      if (auto fault = read_redirection_bit(cpu, event.what.vector, to_protected)) return fault;
    }
    if (!to_protected) return deliver_redirected(cpu, event);
    if (state.iopl() < 3) return Fault::gp();
  }
  Entry entry;
  if (auto fault = read_gate(cpu, event, entry)) return fault;
  if (entry.descriptor.type() == x86::kTaskGate)
    return enter_task(cpu, entry.descriptor.gate_selector(), event);
  return enter_handler(cpu, to_gate(state, entry), event);
}

MaybeFault deliver_with_flags(CpuState& state, Mmu& mmu, const Event& event) {
  if (event.what.source == InterruptSource::kExternal && event.what.vector == x86::kNMI)
    state.nmi_blocked = true;
  return deliver_event({state, mmu, event.checks_gate_level() ? 0 : internal::kErrorExt}, event);
}

/// SDM 3A, table 6-4.
enum class Class : u8 { kBenign, kContributory, kPage, kDouble };

Class class_of(u8 vector) {
  switch (vector) {
    case x86::kDE:
    case x86::kTS:
    case x86::kNP:
    case x86::kSS:
    case x86::kGP:
    case x86::kCP: return Class::kContributory;
    case x86::kPF: return Class::kPage;
    case x86::kDF: return Class::kDouble;
    default: return Class::kBenign;
  }
}

/// SDM 3A, table 6-5: what a fault raised while delivering another one makes.
enum class Escalation : u8 { kSerial, kDoubleFault, kShutdown };

Escalation escalate(Class first, Class second) {
  if (second == Class::kBenign || first == Class::kBenign) return Escalation::kSerial;
  if (first == Class::kDouble) return Escalation::kShutdown;
  if (first == Class::kContributory && second == Class::kPage) return Escalation::kSerial;
  return Escalation::kDoubleFault;
}

/// Faults (as against traps and aborts) are restartable and save RF set, so that an instruction breakpoint
/// does not hit again (SDM 3B, 17.3.1.1); #DB is left alone.
bool sets_rf(u8 vector) {
  return vector != x86::kDB && vector != x86::kNMI && vector != x86::kBP && vector != x86::kOF &&
         vector != x86::kDF && vector != x86::kMC;
}

/// What the processor records before it delivers an exception.
void record_cause(CpuState& state, const Fault& fault) {
  if (fault.vector == x86::kPF) state.cr2 = fault.address;
  if (fault.vector != x86::kDB) return;
  state.dr6 = (state.dr6 & ~x86::dr6::kBreakpoints) | fault.address;
  state.dr7 &= ~x86::dr7::GD;  // SDM 3B, 17.2.4
  constexpr u64 kLbrAndBtf = 3;
  state.msr.debugctl &= ~kLbrAndBtf;  // SDM 3B, 17.4.1
}

Event exception_event(const CpuState& state, const Fault& fault) {
  Event event;
  event.what = {fault.vector, InterruptSource::kException, std::nullopt, state.rip};
  if (fault.has_error_code) event.what.error_code = fault.error_code;
  event.flags = state.rflags | (sets_rf(fault.vector) ? rflags::RF : 0);
  return event;
}

/// The faults on the way to a triple fault. A task switch can end in a debug trap, so that their number has
/// no bound of its own; a guest that gets past this one is shut down.
class Chain {
 public:
  [[nodiscard]] bool add(const CpuState& state, const Fault& fault) {
    if (count_ == steps_.size()) return false;
    steps_[count_++] = {fault, state.seg(x86::kCs).selector, state.rip};
    return true;
  }

  [[nodiscard]] std::string describe() const {
    std::string text;
    for (const Step& step : std::span(steps_).first(count_)) {
      if (!text.empty()) text += ", then ";
      text += fmt::format("vector {}", u8{step.fault.vector});
      if (step.fault.has_error_code) text += fmt::format(" (error code {:#x})", step.fault.error_code);
      if (step.fault.vector == x86::kPF) text += fmt::format(" for address {:#x}", step.fault.address);
      text += fmt::format(" at {:#x}:{:#x}", step.cs, step.rip);
    }
    return text;
  }

 private:
  struct Step {
    Fault fault;
    u16 cs = 0;
    u64 rip = 0;
  };
  std::array<Step, 8> steps_;
  std::size_t count_ = 0;
};

bool deliver_with_escalation(CpuState& state, Mmu& mmu, Event event, Class first, Chain& chain,
                             std::string& why) {
  while (const MaybeFault met = deliver_with_flags(state, mmu, event)) {
    record_cause(state, *met);
    const Class second = class_of(met->vector);
    const Escalation escalation = escalate(first, second);
    if (!chain.add(state, *met) || escalation == Escalation::kShutdown) {
      state.activity = Activity::kShutdown;
      why = chain.describe();
      return false;
    }
    const bool twice = escalation == Escalation::kDoubleFault;
    event = exception_event(state, twice ? Fault{x86::kDF, true, 0, 0} : *met);
    first = twice ? Class::kDouble : second;
  }
  return true;
}

}  // namespace

MaybeFault deliver(CpuState& state, Mmu& mmu, const Interruption& interruption) {
  return deliver_with_flags(state, mmu, {interruption, state.rflags});
}

bool deliver_fault(CpuState& state, Mmu& mmu, const Fault& fault, std::string& why) {
  Chain chain;
  static_cast<void>(chain.add(state, fault));
  record_cause(state, fault);
  return deliver_with_escalation(state, mmu, exception_event(state, fault), class_of(fault.vector), chain,
                                 why);
}

bool deliver_interruption(CpuState& state, Mmu& mmu, const Interruption& interruption, std::string& why) {
  // Interrupts, and INT n of whatever number, are benign themselves (SDM 3A, table 6-4).
  Chain chain;
  return deliver_with_escalation(state, mmu, {interruption, state.rflags}, Class::kBenign, chain, why);
}

}  // namespace vert::cpu

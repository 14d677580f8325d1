#include "engine/interp/interpreter.hpp"

#include <algorithm>

#include "cpu/acceptance.hpp"
#include "cpu/local_apic.hpp"
#include "engine/interp/block_cache.hpp"
#include "engine/interp/core.hpp"
#include "engine/interp/vector_unit.hpp"

namespace vert::interp {

using namespace x86;
using cpu::Activity;
using cpu::Exit;
using cpu::ExitInfo;
using cpu::VcpuEvents;

struct Interpreter::Impl {
  explicit Impl(const cpu::VcpuContext& context)
      : events(*context.events),
        apic(*context.apic),
        vectors(context),
        core(context, vectors),
        blocks(core) {}

  ExitInfo run(cpu::CpuState& state, u64 budget);

  /// What stands between two blocks: events, halts, shadows, traps. Nothing: go on executing.
  std::optional<Exit> attend();
  [[nodiscard]] bool needs_attention() const;
  void take_events(u32 ready);
  void deliver_external(u8 vector);

  void execute(const Block& block, u64 limit);
  void step();
  [[nodiscard]] bool code_breakpoint_hit();
  void after_step(const Op& op, Outcome outcome, bool trap_flag);
  Outcome execute_one(const Op& op);
  void deliver_fault();
  [[nodiscard]] u64 rip_mask() const { return core.code64() ? ~u64{0} : 0xFFFFFFFF; }

  VcpuEvents& events;
  cpu::LocalApic& apic;
  VectorUnit vectors;
  Core core;
  BlockCache blocks;
  cpu::CpuState* attached = nullptr;
  u64 executed = 0;
  bool careful = false;  // one instruction at a time: a shadow, a trap or a breakpoint is in play
  std::string shutdown_reason;
};

Interpreter::Interpreter(const cpu::VcpuContext& context) : impl_(std::make_unique<Impl>(context)) {}
Interpreter::~Interpreter() = default;

ExitInfo Interpreter::run(cpu::CpuState& state, u64 budget) { return impl_->run(state, budget); }
void Interpreter::state_changed() { impl_->attached = nullptr; }
u64 Interpreter::translation_epoch() const { return impl_->core.mmu.epoch(); }
void Interpreter::forget_translations() { impl_->core.mmu.flush(); }

ExitInfo Interpreter::Impl::run(cpu::CpuState& state, u64 budget) {
  if (attached != &state) {
    attached = &state;
    core.attach(state);
  } else {
    core.mode_changed();
  }
  executed = 0;
  while (true) {
    if (needs_attention()) {
      if (const auto exit = attend()) return {*exit, executed, shutdown_reason};
    }
    if (executed >= budget) return {Exit::kBudget, executed, {}};
    if (careful) {
      step();
      continue;
    }
    if (const Block* block = blocks.find())
      execute(*block, budget - executed);
    else
      deliver_fault();
  }
}

bool Interpreter::Impl::needs_attention() const {
  const cpu::CpuState& state = core.state();
  return events.pending() != 0 || careful || core.has_breakpoints || state.activity != Activity::kRunning ||
         state.sti_shadow || state.mov_ss_shadow || (state.rflags & (rflags::TF | rflags::RF)) != 0;
}

std::optional<Exit> Interpreter::Impl::attend() {
  const cpu::CpuState& state = core.state();
  if (state.activity == Activity::kShutdown) return Exit::kShutdown;
  const u32 ready = cpu::deliverable(events.pending(), cpu::acceptance_of(state));
  if ((ready & (VcpuEvents::kKick | VcpuEvents::kInit | VcpuEvents::kSipi)) != 0) return Exit::kKick;
  take_events(ready);
  if (state.activity == Activity::kShutdown) return Exit::kShutdown;
  if (state.activity != Activity::kRunning) return Exit::kHalt;
  careful = core.has_breakpoints || state.sti_shadow || state.mov_ss_shadow ||
            (state.rflags & (rflags::TF | rflags::RF)) != 0;
  return std::nullopt;
}

/// NMIs and interrupts, in the order of SDM 3A, table 6-2.
void Interpreter::Impl::take_events(u32 ready) {
  cpu::CpuState& state = core.state();
  static_cast<void>(events.take(ready & VcpuEvents::kSmi));
  if ((ready & VcpuEvents::kNmi) != 0) {
    events.take_nmi();
    state.activity = Activity::kRunning;
    deliver_external(kNMI);
    state.nmi_blocked = true;
    return;
  }
  if (events.take(ready & VcpuEvents::kInterrupt) == 0) return;
  const auto vector = apic.acknowledge();
  if (!vector) return;
  state.activity = Activity::kRunning;
  deliver_external(*vector);
  if (apic.has_interrupt()) events.request(VcpuEvents::kInterrupt);
}

void Interpreter::Impl::deliver_external(u8 vector) {
  cpu::CpuState& state = core.state();
  shutdown_reason.clear();
  static_cast<void>(cpu::deliver_interruption(
      state, core.mmu, {vector, cpu::InterruptSource::kExternal, std::nullopt, state.rip}, shutdown_reason));
  core.mode_changed();
}

void Interpreter::Impl::deliver_fault() {
  shutdown_reason.clear();
  static_cast<void>(cpu::deliver_fault(core.state(), core.mmu, core.fault, shutdown_reason));
  core.mode_changed();
}

Outcome Interpreter::Impl::execute_one(const Op& op) {
  cpu::CpuState& state = core.state();
  core.next_rip = (state.rip + op.insn.length) & rip_mask();
  // Instructions may not run past the code segment's end (SDM 3A, 5.3).
  if (!core.code64() && (state.rip + op.insn.length - 1 > state.seg(kCs).limit)) [[unlikely]]
    return core.raise(Fault::gp());
  return op.handler(core, op);
}

void Interpreter::Impl::execute(const Block& block, u64 limit) {
  cpu::CpuState& state = core.state();
  const auto all = blocks.ops(block);
  for (const Op& op : all.first(std::min<u64>(all.size(), limit))) {
    const Outcome outcome = execute_one(op);
    switch (outcome) {
      case Outcome::kNext:
        state.rip = core.next_rip;
        ++executed;
        if (blocks.stale(block)) [[unlikely]]
          return;
        break;
      case Outcome::kEndBlock:
        state.rip = core.next_rip;
        ++executed;
        return;
      case Outcome::kJump: ++executed; return;
      case Outcome::kRepeat: state.rflags |= rflags::RF; return;
      case Outcome::kFault: deliver_fault(); return;
    }
  }
}

/// Executes one instruction with all that debugging asks for (SDM 3B, 17.2 and 17.3).
void Interpreter::Impl::step() {
  cpu::CpuState& state = core.state();
  careful = false;
  if (code_breakpoint_hit()) return deliver_fault();
  const Block* block = blocks.find();
  if (block == nullptr) return deliver_fault();
  const bool trap_flag = (state.rflags & rflags::TF) != 0;
  state.sti_shadow = false;
  state.mov_ss_shadow = false;
  state.rflags &= ~rflags::RF;
  core.single_step = trap_flag || core.has_breakpoints;
  const Op& op = blocks.ops(*block).front();
  const Outcome outcome = execute_one(op);
  core.single_step = false;
  after_step(op, outcome, trap_flag);
}

void Interpreter::Impl::after_step(const Op& op, Outcome outcome, bool trap_flag) {
  cpu::CpuState& state = core.state();
  if (outcome == Outcome::kFault) {
    static_cast<void>(core.take_breakpoint_hits());
    return deliver_fault();
  }
  if (outcome == Outcome::kNext || outcome == Outcome::kEndBlock) state.rip = core.next_rip;
  if (outcome != Outcome::kRepeat)
    ++executed;
  else
    state.rflags |= rflags::RF;
  // Interrupt gates clear TF, and the system calls' own trap is decided by what they left of it.
  const ZydisMnemonic mnemonic = op.insn.mnemonic;
  const bool enters_handler = mnemonic == ZYDIS_MNEMONIC_INT || mnemonic == ZYDIS_MNEMONIC_INT1 ||
                              mnemonic == ZYDIS_MNEMONIC_INT3 || mnemonic == ZYDIS_MNEMONIC_INTO;
  const bool system_call = mnemonic == ZYDIS_MNEMONIC_SYSCALL || mnemonic == ZYDIS_MNEMONIC_SYSENTER;
  u64 causes = 0;
  if (trap_flag && !enters_handler && (!system_call || (state.rflags & rflags::TF) != 0)) causes |= dr6::BS;
  // MOV SS and POP SS hold debug traps off until after the next instruction; single-step is then not taken.
  if (state.mov_ss_shadow) return;
  causes |= core.take_breakpoint_hits();
  if (causes == 0) return;
  core.fault = Fault::db(causes);
  deliver_fault();
}

/// DR0..DR3 of type "execute" at the current instruction; a fault, before it runs, unless RF holds it off.
/// Between two iterations of a string instruction RF is set (SDM 3B, 17.3.1.1): it hits once, and what is
/// delivered there saves RF.
bool Interpreter::Impl::code_breakpoint_hit() {
  const cpu::CpuState& state = core.state();
  if (!core.has_breakpoints || (state.rflags & rflags::RF) != 0 || state.mov_ss_shadow) return false;
  const u64 linear = core.code64() ? state.rip : truncate(state.seg(kCs).base + state.rip, 4);
  u64 hits = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const bool enabled = ((state.dr7 >> (i * 2)) & 3) != 0;
    const bool on_execution = ((state.dr7 >> (16 + i * 4)) & 0xF) == 0;
    if (enabled && on_execution && state.dr[i] == linear) hits |= u64{1} << i;
  }
  if (hits == 0) return false;
  core.fault = Fault::db(hits);
  return true;
}

}  // namespace vert::interp

// The way out of generated code that does not look at `attention`, whatever shape its loops have.
//
// Generated code looks wherever loops are known to pass. Beneath that lies a net that needs no knowledge of
// them: the look timer's signal. If what another thread wants is still not answered at its second tick, the
// thread goes on step by step (TF), with a SIGTRAP behind each host instruction, until it is where a block
// begins: there the guest's state is precise, as everything is where it is while generated code runs, and no
// instruction is half done. A block has at most BlockPlan::kMaxInsns guest instructions, so that takes a
// bounded number of steps. Leaf functions are not stepped through: behind them, thunks set TF again.
#include <algorithm>

#include "engine/bt/runtime.hpp"

namespace vert::bt {

namespace {

constexpr greg_t kTf = static_cast<greg_t>(x86::rflags::TF);

}  // namespace

// SAFETY (all of this file): async-signal-safe. The thread is between the ends of Runtime::enter(): what is
// read is changed outside of that only, but for atomics. If the PC is in the code cache, which is known
// before anything is done that depends on it, no C++ code of this thread is interrupted at all.

/// From the look timer.
void Runtime::tick(gregset_t& registers) {
  const bool wanted = context_->attention.load(std::memory_order_relaxed) != 0;
  // Most requests are answered by the next look; to step costs microseconds for each instruction.
  if (!std::exchange(unanswered_, wanted) || !wanted) return;
  const auto pc = static_cast<u64>(registers[REG_RIP]);
  // For whoever must tell people where a vCPU is that does not come; what is there is not in use meanwhile.
  if (const Block* block = cache_.contains(pc) ? store_.around(cache_.offset_of(pc)) : nullptr)
    __atomic_store_n(&state_->rip, block->rip, __ATOMIC_RELAXED);
  step_on(registers);
}

void Runtime::step_on(gregset_t& registers) {
  if (!cache_.contains(static_cast<u64>(registers[REG_RIP]))) {
    context_->step_on.store(1, std::memory_order_relaxed);
    return;
  }
  registers[REG_EFL] |= kTf;
  keep_stepping(registers);
}

/// POPFQ takes TF from the stack, where it was put before.
void Runtime::keep_stepping(const gregset_t& registers) {
  constexpr u8 kPopfq = 0x9D;
  const u8* pc = cache_.code(cache_.offset_of(static_cast<u64>(registers[REG_RIP])));
  if (*pc != kPopfq) return;
  // SAFETY: generated code is about to read this word of the return stack.
  // NOLINTNEXTLINE(performance-no-int-to-ptr): a register's value.
  *reinterpret_cast<u64*>(registers[REG_RSP]) |= x86::rflags::TF;
}

/// One instruction was executed with TF set.
void Runtime::stepped(gregset_t& registers) {
  const auto pc = static_cast<u64>(registers[REG_RIP]);
  if (!cache_.contains(pc)) {
    // In a leaf function, or back in Runtime::enter().
    registers[REG_EFL] &= ~kTf;
    context_->step_on.store(1, std::memory_order_relaxed);
    return;
  }
  const Block* block = store_.entered_at(cache_.offset_of(pc));
  if (block == nullptr) return keep_stepping(registers);
  save_registers(registers);
  context_->rflags_arithmetic = static_cast<u64>(registers[REG_EFL]) & kArithmeticFlags;
  context_->rip = block->rip;
  context_->exit = 0;
  // As behind the block's last instruction, for the budget: nothing of it was taken.
  store_.exits[0] = {.kind = ExitKind::kAttention,
                     .insn = block->insn_count,
                     .block = store_.index_of(*block),
                     .rip = block->rip};
  ++statistics_.stepped_out;
  registers[REG_EFL] &= ~kTf;
  registers[REG_RIP] = static_cast<greg_t>(reinterpret_cast<u64>(cache_.code(thunks_.exit_saved)));
}

}  // namespace vert::bt

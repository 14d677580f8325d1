#include "engine/bt/runtime.hpp"

#include <sys/auxv.h>
#include <algorithm>

#include <immintrin.h>

#include "base/fault_signal.hpp"
#include "engine/bt/fpu_image.hpp"
#include "engine/bt/leaf.hpp"
#include "engine/bt/look_timer.hpp"
#include "engine/bt/tlb.hpp"
#include "x86/cpu_model.hpp"
#include "x86/paging.hpp"

namespace vert::bt {

using namespace x86;
using cpu::Exit;
using cpu::ExitInfo;

namespace {

/// How many instructions the fallback engine runs where generated code cannot run at all.
constexpr u64 kForeignSteps = 64;
constexpr auto kUserMode = static_cast<unsigned>(cpu::Privilege::kUser);
constexpr u64 kSplitFlags = kArithmeticFlags | rflags::IF | rflags::DF;

/// Where generated code looks whether another thread wants something.
std::size_t look_at(const cpu::VcpuContext& vcpu) {
  return vcpu.aids.no_looks ? offsetof(Context, never) : offsetof(Context, attention);
}

Windows::Policy window_policy(const cpu::VcpuContext& vcpu) {
  auto policy = Windows::usual_policy(vcpu.topology.vcpu_count, vcpu.memory->size());
  if (vcpu.aids.windows_at_once) policy.open_after = 0;
  return policy;
}

ModeWords words_of(const Mode& mode) {
  return {.salt = static_cast<u64>(mode.salt()),
          .return_owner = mode.return_owner(),
          .privilege = static_cast<u32>(mode.privilege),
          .fpu_wanted = mode.windows ? u8{1} : u8{0}};
}

}  // namespace

Result<std::unique_ptr<Runtime>> Runtime::create(const cpu::VcpuContext& vcpu,
                                                 std::unique_ptr<cpu::FallbackEngine> fallback) {
  VERT_ASSIGN(auto context, ContextMemory::create());
  VERT_ASSIGN(auto cache, CodeCache::create(usual_cache_size(vcpu.topology.vcpu_count)));
  VERT_ASSIGN(auto supervisor_returns, ReturnStack::create());
  VERT_ASSIGN(auto user_returns, ReturnStack::create());
  VERT_ASSIGN(auto smap_returns, ReturnStack::create());
  std::unique_ptr<Runtime> runtime(
      new Runtime(vcpu, std::move(fallback), std::move(context), std::move(cache),
                  {std::move(user_returns), std::move(supervisor_returns), std::move(smap_returns)}));
  VERT_TRY(runtime->start_aids());
  return runtime;
}

Runtime::Runtime(const cpu::VcpuContext& vcpu, std::unique_ptr<cpu::FallbackEngine> fallback,
                 ContextMemory context, CodeCache cache, ReturnStacks returns)
    : vcpu_(vcpu),
      fallback_(std::move(fallback)),
      cache_(std::move(cache)),
      returns_(std::move(returns)),
      context_(std::move(context)),
      windows_(context_, *vcpu_.memory, window_policy(vcpu_)),
      thunks_(make_thunks(cache_, &Runtime::prepare_fpu, look_at(vcpu_))),
      first_code_(cache_.position()),
      emitter_(thunks_, look_at(vcpu_)),
      code_writes_(vcpu_.memory->frame_count()) {
  context_->owner = this;
  context_->state_layout = state_layout(*vcpu_.model);
  context_->code_begin = reinterpret_cast<u64>(cache_.code(0));
  context_->code_size = cache_.size();
  init(*context_, vcpu_);
  forget_all_code();
  base::add_fault_handler(&Runtime::on_fault);
  vcpu_.memory->add_code_watcher(*this);
  vcpu_.events->set_attention(context_->attention);
}

Runtime::~Runtime() {
  vcpu_.events->clear_attention(context_->attention);
  vcpu_.memory->remove_code_watcher(*this);
}

void Runtime::state_changed() {
  state_ = nullptr;
  fallback_->state_changed();
}

void Runtime::attach(cpu::CpuState& state) {
  state_ = &state;
  context_->state = &state;
  context_->fpu_in_image = 0;
  context_->x87_code = {};
  context_->x87_data = {};
  bt::flush_all(*context_);
  flush_shared();
  fallback_->state_changed();
  epoch_ = fallback_->translation_epoch();
}

/// From CpuState to the Context.
void Runtime::import_state() {
  if (imported_) return;
  imported_ = true;
  Context& context = *context_;
  const cpu::CpuState& state = *state_;
  context.gpr = state.gpr;
  context.rip = state.rip;
  context.rflags_arithmetic = state.rflags & kArithmeticFlags;
  context.rflags_rest = state.rflags & ~kSplitFlags;
  context.interrupt_flag = (state.rflags & rflags::IF) != 0 ? 1 : 0;
  context.direction_flag = (state.rflags & rflags::DF) != 0 ? 1 : 0;
  context.fs_base = state.seg(kFs).base;
  context.gs_base = state.seg(kGs).base;
  context.kernel_gs_base = state.msr.kernel_gs_base;
  context.tsc_offset = state.tsc_offset;
  context.tsc_aux = static_cast<u32>(state.msr.tsc_aux);
  context.shadow_rip = kNoShadow;
  follow_controls();
  code32_ = !state.code64();
  const ModeWords now = words_of(mode(privilege_of(state)));
  leaf_follow_mode(&context, &now);
}

/// What of a mode follows from control registers. Where those change, no call may be returned to by
/// prediction: its code was made under the old ones.
void Runtime::follow_controls() {
  const Controls now{state_->cr0, state_->cr4, state_->xcr0, budget_ != cpu::kNoBudget};
  const bool changed = now != controls_;
  const auto slot = static_cast<u8>(windows_.slot());
  if (!changed && modes_[kUserMode].space_slot == slot) return;
  controls_ = now;
  for (unsigned i = 0; i < kPrivileges; ++i) {
    modes_[i] = mode_for(*state_, static_cast<cpu::Privilege>(i));
    modes_[i].counted = now.counted;
    modes_[i].windows = i == kUserMode && slot != 0;
    modes_[i].space_slot = i == kUserMode ? slot : 0;
    context_->modes[i] = words_of(modes_[i]);
  }
  if (!changed) return;
  forget_jumps();
  empty_return_stacks();
}

/// And back, with the FPU's state.
void Runtime::export_state() {
  Context& context = *context_;
  cpu::CpuState& state = *state_;
  if (imported_) {
    imported_ = false;
    state.gpr = context.gpr;
    state.rip = context.rip;
    state.sti_shadow = context.rip == context.shadow_rip;
    state.rflags = (context.rflags_rest & ~kSplitFlags) | (context.rflags_arithmetic & kArithmeticFlags) |
                   (context.interrupt_flag != 0 ? rflags::IF : 0) |
                   (context.direction_flag != 0 ? rflags::DF : 0);
    state.seg(kFs).base = context.fs_base;
    state.seg(kGs).base = context.gs_base;
    state.msr.kernel_gs_base = context.kernel_gs_base;
  }
  export_fpu();
}

void Runtime::export_fpu() {
  Context& context = *context_;
  if (context.fpu_in_image != 0) from_image(context.xsave, context.state->fpu);
  context.fpu_in_image = 0;
  settle_x87_pointers(store_.x87, *vcpu_.model, context);
}

ExitInfo Runtime::run(cpu::CpuState& state, u64 budget) {
  base::use_alternate_signal_stack();
  use_look_timer(&Runtime::on_tick);
  owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  const Sampler::Running sampled(sampler_.get());
  // SAFETY: nothing in this process but generated code uses GS; the base is put back for whoever ran before.
  const u64 outer_gs = _readgsbase_u64();
  _writegsbase_u64(reinterpret_cast<u64>(context_.get()));
  if (state_ != &state) attach(state);
  budget_ = budget;
  executed_ = 0;
  windows_.pause();
  std::optional<ExitInfo> info;
  while (!info) info = must_step() ? step(translatable(*state_) ? 1 : std::min(left(), kForeignSteps)) : go();
  export_state();
  _writegsbase_u64(outer_gs);
  // Threads come and go, and a new one may get the identifier of one that has gone.
  owner_.store({}, std::memory_order_relaxed);
  info->instructions = executed_;
  return *info;
}

cpu::Acceptance Runtime::acceptance() const {
  return imported_ ? acceptance_of(*context_) : cpu::acceptance_of(*state_);
}

/// Whether the fallback engine has to go on from here: for events, or where generated code cannot run. What
/// cannot be acted on yet is held: must_leave() tells when that is over.
bool Runtime::must_step() {
  Context& context = *context_;
  if (has_requests_.load(std::memory_order_relaxed)) settle_requests();
  context.attention.store(0, std::memory_order_seq_cst);
  const u32 pending = vcpu_.events->pending();
  const cpu::Acceptance now = acceptance();
  context.held = static_cast<u8>(pending);
  if (cpu::deliverable(pending, now) != 0) {
    if (state_->cpl == 3) windows_.look();
    follow_spaces();
    return true;
  }
  return now.shadow || !translatable(*state_);
}

/// Runs the fallback engine for `count` instructions.
std::optional<ExitInfo> Runtime::step(u64 count, Effect effect, u64 next_rip) {
  if (left() == 0) return ExitInfo{Exit::kBudget, 0, {}};
  export_state();
  struct Before {
    u64 cr0, cr3, cr4, efer;
  } const before{state_->cr0, state_->cr3, state_->cr4, state_->efer};
  const Sampler::In phase(sampler_.get(), Sampler::Phase::kFallback);
  ++statistics_.steps;
  ExitInfo info = fallback_->run(*state_, count);
  executed_ += info.instructions;
  const u64 epoch = fallback_->translation_epoch();
  if (epoch != epoch_) {
    epoch_ = epoch;
    // The effect is that of the instruction which this was for: an event may have come first.
    const bool only_that = effect == Effect::kPage && state_->rip == next_rip && before.cr0 == state_->cr0 &&
                           before.cr3 == state_->cr3 && before.cr4 == state_->cr4 &&
                           before.efer == state_->efer;
    if (only_that) {
      flush_page(context_->call_target);
    } else {
      bt::flush_all(*context_);
      flush_shared();
    }
  }
  if (info.reason == Exit::kBudget) return std::nullopt;
  return info;
}

/// Runs generated code from where the guest is, until it is left for the fallback engine or another thread's
/// sake.
std::optional<ExitInfo> Runtime::go() {
  if (left() == 0) return ExitInfo{Exit::kBudget, 0, {}};
  import_state();
  const u8* code = code_at(context_->rip);
  while (code != nullptr) {
    if (left() != cpu::kNoBudget) context_->budget = left();
    if (!enter(code)) return std::nullopt;
    const auto index = static_cast<u32>(context_->exit);
    // STI leaves by the interpreter if something is held; the only other way to set IF is a transfer.
    VERT_DCHECK(index == kTransferredExit || !held_is_deliverable(*context_) || context_->attention != 0);
    const CodeExit exit = store_.exits[index];
    if (exit.x87 != 0) note(store_.x87.unnoted[exit.x87], *context_);
    statistics_.count(exit);
    if (budget_ != cpu::kNoBudget) {
      u64 left_over = context_->budget;
      if (exit.kind != ExitKind::kLookup && exit.kind != ExitKind::kBudget)
        left_over += store_.block(exit.block).insn_count - exit.insn;
      executed_ = budget_ - left_over;
    }
    if (exit.kind != ExitKind::kIndirect) context_->rip = exit.rip;
    switch (exit.kind) {
      case ExitKind::kLink: code = follow_link(index); break;
      case ExitKind::kLookup: code = follow_lookup(index); break;
      case ExitKind::kIndirect:
        if (index == kTransferredExit && !translatable(*state_)) return std::nullopt;  // AC, for instance
        if (index != kTransferredExit && !code32_ && !is_canonical(context_->rip, state_->linear_bits()))
          return take_back(exit);
        code = code_at(context_->rip);
        break;
      case ExitKind::kAttention: return std::nullopt;
      case ExitKind::kLoadCr3:
        if (!load_cr3(context_->call_target)) return step(1);
        context_->rip += exit.length;
        follow_controls();
        code = code_at(context_->rip);
        break;
      case ExitKind::kPause:
        context_->pauses_left = cpu::PauseLoop::kWindow;
        pause_loop_.end_window();
        code = code_at(context_->rip);
        break;
      case ExitKind::kInterpret:
        return step(std::min<u64>(exit.steps, left()), exit.effect, exit.rip + exit.length);
      case ExitKind::kBudget: return step(left());
    }
  }
  // No code can be had there: the interpreter raises the fault.
  return step(1);
}

/// An indirect branch to a non-canonical address faults itself, not its target: takes it back, and lets the
/// interpreter raise the fault.
std::optional<ExitInfo> Runtime::take_back(const CodeExit& exit) {
  context_->gpr[kRsp] -= static_cast<u64>(static_cast<i64>(exit.popped));
  context_->rip = exit.rip;
  if (budget_ != cpu::kNoBudget) --executed_;
  return step(1);
}

}  // namespace vert::bt

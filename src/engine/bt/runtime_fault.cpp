// Faults of the host's processor in generated code: divisions, alignment, floating point, and the return
// stack's end.
#include <algorithm>

#include "engine/bt/fpu_image.hpp"
#include "engine/bt/host_registers.hpp"
#include "engine/bt/runtime.hpp"

namespace vert::bt {

using namespace x86;

namespace {

thread_local constinit std::atomic<Runtime*> running = nullptr;

/// The host's registers in a signal's context, by number.
constexpr std::array<int, 16> kContextRegister = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                                  REG_R12, REG_R13, REG_R14, REG_R15};

/// Flags as Emitter::save_flags() leaves them: LAHF's in AH, OF in AL.
u64 unpack_flags(u64 saved) { return (saved >> 8 & 0xD5) | ((saved & 1) != 0 ? rflags::OF : 0); }

}  // namespace

/// Marks the thread as the one that runs `runtime`'s code, for on_fault().
class RunningScope {
 public:
  explicit RunningScope(Runtime* runtime) { running.store(runtime, std::memory_order_relaxed); }
  ~RunningScope() { running.store(nullptr, std::memory_order_relaxed); }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;
};

// SAFETY: async-signal-safe: the thread is in generated code, so none of what is read here is being changed.
bool Runtime::on_fault(int signal, const siginfo_t& info, ucontext_t& host) {
  Runtime* runtime = running.load(std::memory_order_relaxed);
  return runtime != nullptr && runtime->recover(signal, info, host);
}

void Runtime::on_tick(ucontext_t& host) {
  Runtime* runtime = running.load(std::memory_order_relaxed);
  if (runtime != nullptr) runtime->tick(host.uc_mcontext.gregs);
}

bool Runtime::recover(int signal, const siginfo_t& info, ucontext_t& host) {
  auto& registers = host.uc_mcontext.gregs;
  if (signal == SIGTRAP && info.si_code == TRAP_TRACE) {
    stepped(registers);
    return true;
  }
  const auto pc = static_cast<u64>(registers[REG_RIP]);
  if (!cache_.contains(pc)) return false;
  const auto address = reinterpret_cast<u64>(info.si_addr);
  const auto stack = std::ranges::find_if(returns_, [&](const auto& each) { return each.overran(address); });
  if (signal == SIGSEGV && stack != returns_.end()) {
    registers[REG_RSP] = static_cast<greg_t>(stack->empty(cache_.code(thunks_.return_empty)));
    // The guest's calls do not look at it: this is where calls without end are interrupted. Generated code
    // pushes for its own sake, too: it is left where a block begins.
    if (context_->attention.load(std::memory_order_relaxed) != 0 &&
        !leave_at_mark(ExitKind::kAttention, registers))
      step_on(registers);
    return true;
  }
  constexpr greg_t kWrite = 2;  // in the error code of a page fault
  if (signal == SIGSEGV &&
      windows_.fault(address, (registers[REG_ERR] & kWrite) != 0) == Windows::Fault::kFilled)
    return true;
  return leave_at_mark(ExitKind::kInterpret, registers);
}

/// As the exit thunk does, but for the flags.
void Runtime::save_registers(const gregset_t& registers) {
  for (u8 guest = 0; guest < kGprCount; ++guest) {
    if (in_memory(guest)) continue;
    const auto reg = static_cast<std::size_t>(kContextRegister[kHostRegister[guest]]);
    context_->gpr[guest] = static_cast<u64>(registers[reg]);
  }
  context_->return_rsp = static_cast<u64>(registers[REG_RSP]);
}

/// Has generated code left, instead of going on where it was interrupted, before the guest's instruction that
/// has a mark there. False if none has.
bool Runtime::leave_at_mark(ExitKind why, gregset_t& registers) {
  const u32 offset = cache_.offset_of(static_cast<u64>(registers[REG_RIP]));
  const auto mark = std::ranges::lower_bound(store_.marks, offset, {}, &Mark::offset);
  if (mark == store_.marks.end() || mark->offset != offset) return false;
  save_registers(registers);
  context_->rflags_arithmetic = mark->flags_saved ? unpack_flags(context_->save_flags)
                                                  : static_cast<u64>(registers[REG_EFL]) & kArithmeticFlags;
  context_->rip = store_.block(mark->block).rip + mark->rip_offset;
  context_->exit = 0;
  store_.exits[0] = {
      .kind = why, .insn = mark->insn, .block = mark->block, .x87 = mark->x87, .rip = context_->rip};
  if (mark->indirect) {
    CodeExit& exit = store_.exits[0];
    exit.kind = ExitKind::kIndirect;
    exit.popped = -i32{mark->pushed};
    ++exit.insn;
    context_->rip = static_cast<u64>(registers[kContextRegister[kAddress]]);
  } else if (mark->pushed != 0) {
    u64& rsp = context_->gpr[kRsp];
    rsp = code32_ ? (rsp + mark->pushed) & 0xFFFFFFFF : rsp + mark->pushed;
  }
  ++statistics_.faults;
  registers[REG_RIP] = static_cast<greg_t>(reinterpret_cast<u64>(cache_.code(thunks_.exit_saved)));
  return true;
}

/// Called by generated code with the FPU's registers not in use.
void Runtime::prepare_fpu(Context* context) {
  if (context->fpu_in_image == 0) to_image(context->state->fpu, context->xsave);
}

/// Runs generated code until it is left. False, with nothing done, if something else comes first.
bool Runtime::enter(const u8* code) {
  using Enter = void (*)(const u8*);
  in_code_.store(true, std::memory_order_seq_cst);
  if (has_requests_.load(std::memory_order_seq_cst) || must_leave(*context_)) {
    in_code_.store(false, std::memory_order_release);
    return false;
  }
  {
    const RunningScope scope(this);
    context_->step_on.store(0, std::memory_order_relaxed);
    const Sampler::In phase(sampler_.get(), Sampler::Phase::kCode);
    // SAFETY: the thunk keeps the calling convention; generated code reaches nothing but the Context, guest
    // RAM through the soft TLB, and the return stack.
    reinterpret_cast<Enter>(const_cast<u8*>(cache_.code(thunks_.enter)))(code);
  }
  in_code_.store(false, std::memory_order_release);
  return true;
}

}  // namespace vert::bt

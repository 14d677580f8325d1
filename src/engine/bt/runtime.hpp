// What a translator consists of: Context, code cache, blocks, and the loop that goes from one to the next.
//
// On the vCPU's thread, but for the calls of CodeWatcher, which come from any.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <csignal>

#include <ucontext.h>

#include "cpu/engine.hpp"
#include "engine/bt/block_plan.hpp"
#include "engine/bt/block_store.hpp"
#include "engine/bt/code_cache.hpp"
#include "engine/bt/context.hpp"
#include "engine/bt/perf_map.hpp"
#include "engine/bt/return_stack.hpp"
#include "engine/bt/sampler.hpp"
#include "engine/bt/statistics.hpp"
#include "engine/bt/thunks.hpp"
#include "engine/bt/windows.hpp"
#include "memory/guest_memory.hpp"

namespace vert::bt {

/// By cpu::Privilege.
using ReturnStacks = std::array<ReturnStack, kPrivileges>;

class Runtime final : private memory::CodeWatcher {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Runtime>> create(const cpu::VcpuContext& vcpu,
                                                               std::unique_ptr<cpu::FallbackEngine> fallback);
  ~Runtime() override;

  [[nodiscard]] cpu::ExitInfo run(cpu::CpuState& state, u64 budget);
  void state_changed();
  [[nodiscard]] std::vector<cpu::CounterGroup> counters() const {
    return describe(statistics_, *context_, windows_.counts(), cache_);
  }
  void start_sampling();
  void stop_sampling();
  [[nodiscard]] cpu::SampleReport samples(std::size_t hottest) const;

 private:
  Runtime(const cpu::VcpuContext& vcpu, std::unique_ptr<cpu::FallbackEngine> fallback, ContextMemory context,
          CodeCache cache, ReturnStacks returns);

  // runtime.cpp: the loop.
  void attach(cpu::CpuState& state);
  void import_state();
  void export_state();
  void export_fpu();
  [[nodiscard]] std::optional<cpu::ExitInfo> step(u64 count, Effect effect = Effect::kOther,
                                                  u64 next_rip = 0);
  [[nodiscard]] bool must_step();
  [[nodiscard]] cpu::Acceptance acceptance() const;
  [[nodiscard]] u64 left() const { return budget_ == cpu::kNoBudget ? cpu::kNoBudget : budget_ - executed_; }
  std::optional<cpu::ExitInfo> go();
  std::optional<cpu::ExitInfo> take_back(const CodeExit& exit);
  void follow_controls();

  // runtime_code.cpp: from addresses to code.
  [[nodiscard]] Mode mode(cpu::Privilege privilege) const;
  [[nodiscard]] Mode mode() const { return mode(static_cast<cpu::Privilege>(context_->privilege)); }
  [[nodiscard]] Block* find(u64 rip, const Mode& mode, unsigned tries = 8);
  struct Fetched {
    u32 page;
    bool global;
  };
  [[nodiscard]] std::optional<Fetched> fetch(u64 linear, const Mode& mode);
  [[nodiscard]] bool code_writable(u64 linear, bool user) const;
  [[nodiscard]] Block* translate(u32 page, u64 rip, const Mode& mode);
  [[nodiscard]] std::optional<Emitter::Tail> make_block(u32 page, u32 second_page, u64 rip, const Mode& mode,
                                                        Emitter::SegmentBases gs);
  [[nodiscard]] u32 plan_crossing(u64 rip, std::span<u8> bytes, const Mode& mode, bool writable);
  [[nodiscard]] const u8* code_at(u64 rip);
  [[nodiscard]] const u8* follow_link(u32 exit_index);
  [[nodiscard]] const u8* follow_lookup(u32 exit_index);
  void remember_jump(const Block& block);
  void forget_all_code();
  void forget_jumps();
  void lead_on(u32 from, u32 to);
  void empty_return_stacks();

  // runtime_spaces.cpp: changes of address translation.
  [[nodiscard]] bool load_cr3(u64 value);
  void flush_page(u64 address);
  void flush_shared();
  void follow_spaces();
  void verify(CodeSpace space);
  void verify_page(u32 index);
  [[nodiscard]] CodeSpace space_of(u64 linear, memory::Frame frame, const cpu::Translation& translation,
                                   CodeSpace user);
  void forget_page(u32 index);
  void cut(const Block& block);

  // runtime_fault.cpp: faults of the host in generated code.
  static bool on_fault(int signal, const siginfo_t& info, ucontext_t& host);
  bool recover(int signal, const siginfo_t& info, ucontext_t& host);
  [[nodiscard]] bool leave_at_mark(ExitKind why, gregset_t& registers);
  void save_registers(const gregset_t& registers);
  static void prepare_fpu(Context* context);

  // runtime_stop.cpp: the way out of code that does not look.
  static void on_tick(ucontext_t& host);
  void tick(gregset_t& registers);
  void step_on(gregset_t& registers);
  void keep_stepping(const gregset_t& registers);
  void stepped(gregset_t& registers);

  // runtime_shared.cpp: what other threads ask for.
  void code_written(memory::Frame frame) override;
  void drop_writable(memory::Frame frame) override;
  void drop_all_writable() override;
  void request_drop(std::optional<memory::Frame> frame);
  void drop(std::optional<memory::Frame> frame);
  [[nodiscard]] bool enter(const u8* code);
  void settle_requests();

  // runtime_aids.cpp: what helps people.
  [[nodiscard]] Status start_aids();
  void tell_aids(const Block& block, const Emitter::Placed& placed);

  cpu::VcpuContext vcpu_;
  std::unique_ptr<cpu::FallbackEngine> fallback_;
  CodeCache cache_;
  ReturnStacks returns_;
  ContextMemory context_;
  Windows windows_;
  Thunks thunks_;
  u32 first_code_ = 0;  // where the thunks end
  Emitter emitter_;
  BlockPlan plan_;
  BlockStore store_;
  std::vector<u8> code_writes_;        // by frame: how often its code was written, up to 255
  CodeSpace return_space_ = kNoSpace;  // whose calls may be in the user's return stack
  Statistics statistics_;
  cpu::PauseLoop pause_loop_;
  std::optional<PerfMap> perf_map_;
  std::unique_ptr<Sampler> sampler_;

  cpu::CpuState* state_ = nullptr;
  bool imported_ = false;  // the Context has the general registers, RIP and flags; else CpuState
  bool code32_ = false;
  std::array<Mode, kPrivileges> modes_;  // of each privilege, under these control registers:
  struct Controls {
    u64 cr0 = 0, cr4 = 0, xcr0 = 0;
    bool counted = false;
    bool operator==(const Controls&) const = default;
  } controls_;
  bool unanswered_ = false;  // another thread wanted something at the last tick
  u64 epoch_ = 0;
  u64 budget_ = 0;
  u64 executed_ = 0;

  struct Requests {
    std::vector<memory::Frame> written;
    std::vector<memory::Frame> drops;
    bool drop_all = false;
    bool written_all = false;  // more than are listed
    u64 asked = 0;             // tickets
  };
  std::mutex requests_mutex_;
  Requests requests_;
  std::atomic<bool> has_requests_ = false;
  std::atomic<u64> settled_ = 0;
  std::atomic<bool> in_code_ = false;
  std::atomic<std::thread::id> owner_;
};

}  // namespace vert::bt

#include "diff/harness/guest.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "support/engines.hpp"
#include "support/guest_rig.hpp"
#include "support/random.hpp"
#include "x86/exception.hpp"

namespace vert::diff {

namespace {

constexpr u64 kBudget = 100'000;  // instructions; a sequence has some fifty, and short loops

/// Kicks a vCPU that has run one case for too long without a budget.
class Watchdog {
 public:
  explicit Watchdog(cpu::VcpuEvents& events)
      : events_(events), thread_([this](std::stop_token stop) { watch(stop); }) {}
  void begin() { running_.store(++cases_, std::memory_order_relaxed); }
  void end() { running_.store(0, std::memory_order_relaxed); }

 private:
  void watch(const std::stop_token& stop) {
    constexpr auto kPatience = std::chrono::milliseconds(50);
    std::unique_lock lock(mutex_);
    for (u64 seen = 0; !stop.stop_requested();) {
      wake_.wait_for(lock, stop, kPatience, [] { return false; });
      const u64 now = running_.load(std::memory_order_relaxed);
      if (now != 0 && now == seen) events_.request(cpu::VcpuEvents::kKick);
      seen = now;
    }
  }

  cpu::VcpuEvents& events_;
  u64 cases_ = 0;
  std::atomic<u64> running_ = 0;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;  // last: it uses the others
};

std::string first_of(const std::string& names) { return names.substr(0, names.find(',')); }

}  // namespace

struct GuestExecutor::Impl {
  Impl(const std::string& engines, const x86::CpuModel& model);

  void load(const Input& input);
  [[nodiscard]] cpu::ExitInfo run_once(const Input& input, bool counted);
  [[nodiscard]] cpu::ExitInfo take_turns(u64 seed);
  void collect(const cpu::ExitInfo& exit, Output& to);

  test::GuestRig rig;
  std::vector<std::unique_ptr<cpu::Engine>> others;  // that take turns with the rig's own
  Watchdog watchdog;
  u8* code = nullptr;
  std::array<u8*, kWritablePages.size()> pages{};
  cpu::CpuState blank;
  Input input;
  Output output;
};

GuestExecutor::Impl::Impl(const std::string& engines, const x86::CpuModel& model)
    : rig(first_of(engines), model), watchdog(rig.events()) {
  for (std::size_t at = engines.find(','); at != std::string::npos; at = engines.find(',', at + 1)) {
    others.push_back(test::make_engine(first_of(engines.substr(at + 1)), rig.context()));
    VERT_CHECK(others.back() != nullptr);
  }
  code = rig.map(kCodeBase, kCodeSize / kPageSize, {true, false, true});
  rig.write_host(rig.map(kReadOnlyBase, 1, {true, false, false}), read_only_page());
  for (std::size_t i = 0; i < kWritablePages.size(); ++i)
    pages[i] = rig.map(kWritablePages[i], 1, {true, true, false});
  blank = rig.initial_state(0, 0, 3);
}

/// Sets memory but for the code, and the registers. Engines need not be told: of the state, no more changes
/// than they look at in each run.
void GuestExecutor::Impl::load(const Input& from) {
  for (std::size_t i = 0; i < kWritablePages.size(); ++i) rig.write_host(pages[i], from.data[i]);
  cpu::CpuState& state = rig.state();
  state = blank;
  state.gpr = from.registers.gpr;
  state.rip = from.registers.rip;
  state.rflags = from.registers.rflags | x86::rflags::IF;
  state.seg(x86::kFs).base = from.registers.fs_base;
  state.seg(x86::kGs).base = from.registers.gs_base;
  state.fpu = from.registers.fpu;
}

cpu::ExitInfo GuestExecutor::Impl::run_once(const Input& from, bool counted) {
  load(from);
  if (!others.empty()) return take_turns(from.registers.rip);
  if (counted) return rig.run(kBudget);
  watchdog.begin();
  cpu::ExitInfo exit = rig.run(cpu::kNoBudget);
  watchdog.end();
  (void)rig.events().take(cpu::VcpuEvents::kKick);
  if (exit.reason != cpu::Exit::kKick) return exit;
  // It has no end, or this host has much else to do: the budget tells.
  load(from);
  return rig.run(kBudget);
}

cpu::ExitInfo GuestExecutor::Impl::take_turns(u64 seed) {
  constexpr i64 kLongestTurn = 12;
  test::Random random(seed);
  cpu::ExitInfo exit{cpu::Exit::kBudget, 0, {}};
  u64 done = 0;
  for (u64 turn = random.below(2); exit.reason == cpu::Exit::kBudget && done < kBudget; ++turn) {
    const u64 which = turn % (others.size() + 1);
    cpu::Engine& engine = which == 0 ? rig.engine() : *others[which - 1];
    engine.state_changed();
    exit = engine.run(rig.state(), static_cast<u64>(random.between(1, kLongestTurn)));
    done += exit.instructions;
  }
  return exit;
}

void GuestExecutor::Impl::collect(const cpu::ExitInfo& exit, Output& to) {
  const cpu::CpuState& end = rig.state();
  const auto caught = rig.caught();
  to.ending =
      caught ? Ending::kException : (exit.reason == cpu::Exit::kBudget ? Ending::kTimeout : Ending::kCrash);
  to.vector = 0;
  to.error_code = to.cr2 = to.cs = 0;
  to.registers.gpr = end.gpr;
  to.registers.rip = end.rip;
  to.registers.rflags = end.rflags;
  if (caught) {
    to.vector = caught->vector;
    to.error_code = caught->error_code.value_or(0);
    to.cr2 = caught->vector == x86::kPF ? caught->cr2 : 0;
    to.cs = caught->cs;
    to.registers.gpr[x86::kRsp] = caught->rsp;
    to.registers.rip = caught->rip;
    to.registers.rflags = caught->rflags;
  }
  to.registers.fs_base = end.seg(x86::kFs).base;
  to.registers.gs_base = end.seg(x86::kGs).base;
  to.registers.fpu = end.fpu;
  for (std::size_t i = 0; i < kWritablePages.size(); ++i) std::memcpy(to.data[i].data(), pages[i], kPageSize);
}

GuestExecutor::GuestExecutor(const std::string& engines)
    : GuestExecutor(engines, x86::CpuModel::make("host").value()) {}
GuestExecutor::GuestExecutor(const std::string& engine, const x86::CpuModel& model)
    : impl_(std::make_unique<Impl>(engine, model)) {}
GuestExecutor::~GuestExecutor() = default;

std::size_t GuestExecutor::capacity() const { return 1; }
Input& GuestExecutor::input(std::size_t) { return impl_->input; }
const Output& GuestExecutor::output(std::size_t) const { return impl_->output; }
void GuestExecutor::submit(std::size_t) { run(impl_->input, impl_->output); }

void GuestExecutor::run(const Input& input, Output& output) {
  Impl& impl = *impl_;
  const bool counted = (input.registers.rip & 1) != 0;
  const bool again = (input.registers.rip & 2) != 0;
  impl.rig.write_host(impl.code, input.code);
  impl.rig.set_state(impl.blank);
  cpu::ExitInfo exit = impl.run_once(input, counted);
  if (again) exit = impl.run_once(input, counted);
  impl.collect(exit, output);
}

}  // namespace vert::diff

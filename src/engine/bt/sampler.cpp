#include "engine/bt/sampler.hpp"

#include <algorithm>
#include <csignal>
#include <mutex>

#include <unistd.h>

#include <fmt/format.h>

namespace vert::bt {

namespace {

using cpu::Counter;
using cpu::CounterGroup;

constexpr long kPeriodNs = 1'000'000;

thread_local constinit std::atomic<Sampler*> sampled = nullptr;

}  // namespace

Sampler::Sampler(const CodeCache& cache, const Thunks& thunks, u32 first_code, const x86::CpuModel& model)
    : cache_(cache),
      thunks_(named_thunks(thunks)),
      first_code_(first_code),
      model_(model),
      by_thunk_(thunks_.size()) {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = &Sampler::on_signal;
    // In generated code RSP is the return stack's.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    VERT_CHECK(sigaction(SIGPROF, &action, nullptr) == 0);
  });
}

Sampler::~Sampler() {
  if (armed_ != 0) timer_delete(timer_);
}

Sampler::Running::Running(Sampler* sampler) : before_(sampled.load(std::memory_order_relaxed)) {
  if (sampler != nullptr) sampler->arm();
  sampled.store(sampler, std::memory_order_relaxed);
}

Sampler::Running::~Running() { sampled.store(before_, std::memory_order_relaxed); }

void Sampler::arm() {
  if (armed_ == ::gettid()) return;
  if (armed_ != 0) timer_delete(timer_);
  armed_ = 0;
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGPROF;
  event._sigev_un._tid = ::gettid();
  // Clocks of processor time go in steps of the kernel's tick; this one is exact, and where the thread sleeps
  // it counts nothing.
  if (timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) return;
  armed_ = ::gettid();
  sigset_t mine;
  sigemptyset(&mine);
  sigaddset(&mine, SIGPROF);
  pthread_sigmask(SIG_UNBLOCK, &mine, nullptr);
  const itimerspec period{.it_interval = {0, kPeriodNs}, .it_value = {0, kPeriodNs}};
  timer_settime(timer_, 0, &period, nullptr);
}

// SAFETY: async-signal-safe: no lock, no allocation. The thread is not in block_made() and the like unless
// the phase says so; what is read and counted here is then left alone.
void Sampler::on_signal(int /*signal*/, siginfo_t* /*info*/, void* host) {
  Sampler* const sampler = sampled.load(std::memory_order_relaxed);
  if (sampler == nullptr) return;
  const auto& registers = static_cast<const ucontext_t*>(host)->uc_mcontext.gregs;
  sampler->take(static_cast<u64>(registers[REG_RIP]));
}

void Sampler::take(u64 pc) {
  if (!cache_.contains(pc)) {
    ++by_phase_[static_cast<std::size_t>(phase_.load(std::memory_order_relaxed))];
    return;
  }
  const u32 offset = cache_.offset_of(pc);
  if (offset < first_code_) {
    const auto next = std::ranges::upper_bound(thunks_, offset, {}, &NamedThunk::offset);
    if (next != thunks_.begin()) ++by_thunk_[static_cast<std::size_t>(next - thunks_.begin()) - 1];
    return;
  }
  if (offset >= cache_.cold_position()) {
    const auto span = std::ranges::lower_bound(spans_, offset, std::ranges::greater{}, &Span::cold);
    if (span != spans_.end()) ++span->samples;
    return;
  }
  const auto next = std::ranges::upper_bound(spans_, offset, {}, &Span::hot);
  if (next != spans_.begin()) ++std::prev(next)->samples;
}

void Sampler::block_made(const Block& block, const Emitter::Placed& placed, const BlockPlan& plan) {
  spans_.push_back({placed.hot, placed.cold, block.rip, block.mode, 0, GuestCode::of(plan)});
}

void Sampler::collect(const std::vector<Span>& spans, HotBlocks& into) {
  for (const Span& span : spans) {
    if (span.samples == 0) continue;
    Hot& hot = into[{span.rip, span.mode.key()}];
    hot.samples += span.samples;
    hot.mode = span.mode;
    hot.guest_code = span.guest_code;
  }
}

void Sampler::cache_emptied() {
  collect(spans_, forgotten_);
  spans_.clear();
}

CounterGroup Sampler::places() const {
  const auto phase = [&](Phase which) { return by_phase_[static_cast<std::size_t>(which)]; };
  u64 generated = 0;
  for (const Span& span : spans_) generated += span.samples;
  for (const auto& [key, hot] : forgotten_) generated += hot.samples;
  CounterGroup group{"samples, by place",
                     true,
                     {{"translated guest code", generated},
                      {"functions that translated code calls", phase(Phase::kCode)},
                      {"fallback engine (and devices)", phase(Phase::kFallback)},
                      {"translation", phase(Phase::kTranslation)},
                      {"between these", phase(Phase::kDispatch)}}};
  for (std::size_t i = 0; i < thunks_.size(); ++i)
    group.counters.push_back({fmt::format("thunk '{}'", thunks_[i].name), by_thunk_[i]});
  std::erase_if(group.counters, [](const Counter& counter) { return counter.value == 0; });
  std::ranges::stable_sort(group.counters, std::ranges::greater{}, &Counter::value);
  return group;
}

cpu::SampleReport Sampler::report(std::size_t hottest_count) const {
  HotBlocks all = forgotten_;
  collect(spans_, all);
  std::vector<std::pair<Key, Hot>> hottest(all.begin(), all.end());
  std::ranges::sort(hottest, std::ranges::greater{}, [](const auto& entry) { return entry.second.samples; });
  CounterGroup group{"samples in translated guest code, by block", true, {}};
  u64 others = 0;
  std::string listing;
  ExplainedSum sum;
  const auto explainer = Explainer::create(model_);
  for (std::size_t i = 0; i < hottest.size(); ++i) {
    const auto& [key, hot] = hottest[i];
    if (i >= hottest_count) {
      others += hot.samples;
      continue;
    }
    group.counters.push_back({block_name(key.rip, hot.mode), hot.samples});
    if (explainer)
      (*explainer)->block(hot.guest_code.bytes, hot.guest_code.address, key.rip, hot.mode, listing, sum);
  }
  if (others != 0)
    group.counters.push_back({fmt::format("{} others", hottest.size() - hottest_count), others});
  cpu::SampleReport report{{places()}, {}};
  if (group.counters.empty()) return report;
  report.groups.push_back(std::move(group));
  report.listing = Explainer::legend() + listing;
  return report;
}

}  // namespace vert::bt

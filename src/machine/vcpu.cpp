#include "machine/vcpu.hpp"

#include <fmt/format.h>

#include "base/thread.hpp"
#include "cpu/acceptance.hpp"

namespace vert::machine {

using cpu::Activity;
using cpu::VcpuEvents;

Vcpu::Vcpu(const cpu::VcpuContext& context, std::unique_ptr<cpu::Engine> engine, VcpuTime& time,
           VcpuOwner& owner)
    : context_(context), time_(time), owner_(owner), engine_(std::move(engine)) {
  context_.events->set_waker([](void* vcpu) { static_cast<Vcpu*>(vcpu)->wake(); }, this);
}

Vcpu::~Vcpu() {
  finish();
  if (thread_.joinable()) thread_.join();
  context_.events->set_waker(nullptr, nullptr);
}

Status Vcpu::start() {
  VERT_ASSIGN(thread_, base::start_thread(fmt::format("vcpu{}", index()), [this] { thread_main(); }));
  return {};
}

void Vcpu::request(RunState wanted) {
  {
    const std::scoped_lock lock(mutex_);
    if (wanted_ == RunState::kFinished) return;
    wanted_ = wanted;
  }
  changed_.notify_all();
  context_.events->request(VcpuEvents::kKick);
}

void Vcpu::resume() { request(RunState::kRunning); }
void Vcpu::pause() { request(RunState::kPaused); }
void Vcpu::finish() { request(RunState::kFinished); }

bool Vcpu::wait_until_idle(std::chrono::steady_clock::time_point limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, limit, [this] { return run_state_ == wanted_ || !thread_.joinable(); });
}

u64 Vcpu::seen_at() const {
  // The engine may be writing it: an old value is as good, and a word is not torn.
  return __atomic_load_n(&state_.rip, __ATOMIC_RELAXED);
}

void Vcpu::replace_engine(std::unique_ptr<cpu::Engine> engine) {
  engine_ = std::move(engine);
  engine_->state_changed();
}

void Vcpu::thread_main() {
  while (true) {
    bool goes_on = false;
    {
      std::unique_lock lock(mutex_);
      if (run_state_ != wanted_) {
        run_state_ = wanted_;
        goes_on = true;
        changed_.notify_all();
      }
      if (run_state_ == RunState::kPaused) {
        changed_.wait(lock, [this] { return wanted_ != RunState::kPaused; });
        continue;
      }
      if (run_state_ == RunState::kFinished) break;
    }
    if (goes_on) time_.thread_goes_on();
    turn();
  }
  time_.thread_ends();
}

void Vcpu::turn() {
  time_.run_due();
  // A kick asks for nothing but this: that thread_main() looks at what is wanted, and turn() at the time. A
  // request sets that first.
  const u32 taken = context_.events->take(VcpuEvents::kKick | VcpuEvents::kInit | VcpuEvents::kSipi);
  if ((taken & VcpuEvents::kInit) != 0) settle_init();
  if ((taken & VcpuEvents::kSipi) != 0) settle_start_up();
  if ((taken & ~VcpuEvents::kInit & ~VcpuEvents::kSipi) != 0) return;
  if (state_.activity == Activity::kRunning || (context_.events->pending() & wakers()) != 0)
    run_engine();
  else
    wait_for_event();
}

/// SDM 3A, 8.4.2: application processors wait for a SIPI.
void Vcpu::settle_init() {
  if (index() == 0) {
    pause();
    owner_.vcpu_reset(*this);
    return;
  }
  cpu::init(state_, *context_.model);
  context_.apic->reset(true);
  state_.activity = Activity::kWaitForSipi;
  engine_->state_changed();
}

void Vcpu::settle_start_up() {
  if (state_.activity != Activity::kWaitForSipi) return;  // ignored (SDM 3A, 8.4.2)
  cpu::start_up(state_, context_.events->sipi_vector.load());
  engine_->state_changed();
}

void Vcpu::run_engine() {
  const cpu::ExitInfo exit = engine_->run(state_, cpu::kNoBudget);
  instructions_.fetch_add(exit.instructions, std::memory_order_relaxed);
  if (exit.reason != cpu::Exit::kShutdown) return;
  pause();
  owner_.vcpu_shut_down(*this, exit.description);
}

u32 Vcpu::wakers() const { return cpu::deliverable(~u32{0}, cpu::acceptance_of(state_)); }

void Vcpu::wait_for_event() {
  const u32 events = wakers();
  while (true) {
    {
      const std::scoped_lock lock(mutex_);
      woken_ = false;
    }
    // Whatever was requested up to here is seen now; what comes later sets woken_ again.
    if ((context_.events->pending() & events) != 0) break;
    owner_.vcpu_sleeps(*this, events);
    {
      std::unique_lock lock(mutex_);
      changed_.wait_until(lock, time_.next(), [this] { return woken_; });
    }
    time_.run_due();
  }
  owner_.vcpu_wakes(*this);
}

void Vcpu::wake() {
  {
    const std::scoped_lock lock(mutex_);
    woken_ = true;
  }
  changed_.notify_all();
}

}  // namespace vert::machine

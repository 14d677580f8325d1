#include "engine/bt/look_timer.hpp"

#include <atomic>
#include <csignal>
#include <ctime>
#include <mutex>

#include <unistd.h>

#include "base/error.hpp"

namespace vert::bt {

namespace {

constexpr int kSignal = SIGVTALRM;
constexpr long kPeriodNs = 10'000'000;

constinit std::atomic<Tick> on_tick = nullptr;

// SAFETY: async-signal-safe: reads an atomic; Tick promises the rest.
void on_signal(int /*signal*/, siginfo_t* /*info*/, void* host) {
  if (const Tick tick = on_tick.load(std::memory_order_relaxed)) tick(*static_cast<ucontext_t*>(host));
}

void install() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  // In generated code RSP is the return stack's.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  VERT_CHECK(sigaction(kSignal, &action, nullptr) == 0);
}

class LookTimer {
 public:
  LookTimer() {
    static std::once_flag once;
    std::call_once(once, install);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = kSignal;
    event._sigev_un._tid = ::gettid();
    valid_ = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer_) == 0;
    if (!valid_) return;
    sigset_t mine;
    sigemptyset(&mine);
    sigaddset(&mine, kSignal);
    pthread_sigmask(SIG_UNBLOCK, &mine, nullptr);
    const itimerspec period{.it_interval = {0, kPeriodNs}, .it_value = {0, kPeriodNs}};
    timer_settime(timer_, 0, &period, nullptr);
  }
  ~LookTimer() {
    if (valid_) timer_delete(timer_);
  }
  LookTimer(const LookTimer&) = delete;
  LookTimer& operator=(const LookTimer&) = delete;

 private:
  timer_t timer_{};
  bool valid_ = false;
};

}  // namespace

void use_look_timer(Tick tick) {
  on_tick.store(tick, std::memory_order_relaxed);
  thread_local const LookTimer timer;
  static_cast<void>(timer);
}

}  // namespace vert::bt

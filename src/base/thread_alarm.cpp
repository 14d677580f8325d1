#include "base/thread_alarm.hpp"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/time.hpp"

namespace vert::base {

namespace {

constexpr int kSignal = SIGALRM;

void change_mask(int how) {
  sigset_t mine;
  sigemptyset(&mine);
  sigaddset(&mine, kSignal);
  VERT_CHECK(::pthread_sigmask(how, &mine, nullptr) == 0);
}

}  // namespace

struct ThreadAlarm::Impl {
  Impl(Ring on_ring, void* of) : ring(on_ring), context(of) {}

  const Ring ring;
  void* const context;
  timer_t timer{};

  // SAFETY: async-signal-safe: Ring promises to be so. The value is this alarm: only its own thread gets the
  // signal, and blocks it before it destroys the alarm.
  static void on_signal(int /*signal*/, siginfo_t* info, void* /*host*/) {
    if (info->si_code != SI_TIMER) return;
    const auto* alarm = static_cast<const Impl*>(info->si_value.sival_ptr);
    alarm->ring(alarm->context);
  }

  static bool install() {
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    // On the alternate stack, for RSP may be generated code's.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    return ::sigaction(kSignal, &action, nullptr) == 0;
  }

  [[nodiscard]] bool set(u64 host_ns) const {
    const itimerspec when = {{0, 0},
                             {static_cast<time_t>(host_ns / kNanosecondsPerSecond),
                              static_cast<long>(host_ns % kNanosecondsPerSecond)}};
    return ::timer_settime(timer, TIMER_ABSTIME, &when, nullptr) == 0;
  }
};

std::unique_ptr<ThreadAlarm> ThreadAlarm::create(Ring ring, void* context) {
  static const bool installed = Impl::install();
  if (!installed) return nullptr;
  auto impl = std::make_unique<Impl>(ring, context);
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = kSignal;
  event.sigev_value.sival_ptr = impl.get();
  event._sigev_un._tid = ::gettid();
  if (::timer_create(CLOCK_MONOTONIC, &event, &impl->timer) != 0) return nullptr;
  change_mask(SIG_UNBLOCK);
  return std::unique_ptr<ThreadAlarm>(new ThreadAlarm(std::move(impl)));
}

ThreadAlarm::ThreadAlarm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ThreadAlarm::~ThreadAlarm() {
  change_mask(SIG_BLOCK);  // a signal that is on its way names this alarm
  ::timer_delete(impl_->timer);
  // Takes it, so that nothing is left for a later alarm of the thread.
  sigset_t mine;
  sigemptyset(&mine);
  sigaddset(&mine, kSignal);
  const timespec at_once{};
  while (::sigtimedwait(&mine, nullptr, &at_once) == kSignal) {
  }
}

bool ThreadAlarm::set(u64 host_ns) { return impl_->set(std::max<u64>(host_ns, 1)); }  // 0 would disarm it

}  // namespace vert::base

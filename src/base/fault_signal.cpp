#include "base/fault_signal.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <mutex>

#include "base/error.hpp"

namespace vert::base {

namespace {

constexpr std::array kSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
constexpr std::size_t kMaxHandlers = 4;

constinit std::array<std::atomic<FaultHandler>, kMaxHandlers> handlers{};
std::array<struct sigaction, 65> previous;

/// What would have happened without our handler.
void pass_on(int signal, siginfo_t* info, void* context) {
  const struct sigaction& old = previous[static_cast<std::size_t>(signal)];
  if ((old.sa_flags & SA_SIGINFO) != 0) {
    old.sa_sigaction(signal, info, context);
  } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
    old.sa_handler(signal);
  } else if (old.sa_handler == SIG_DFL || info->si_code > 0) {
    // The default action, once this handler has returned: the instruction runs again, or the signal arrives.
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    sigaction(signal, &standard, nullptr);
    if (info->si_code <= 0) raise(signal);
  }
}

// SAFETY: async-signal-safe: atomics without locks, and functions that promise to be so.
void on_signal(int signal, siginfo_t* info, void* context) {
  if (info->si_code > 0) {  // from the processor, not from kill(2)
    for (const auto& handler : handlers) {
      const FaultHandler call = handler.load(std::memory_order_acquire);
      if (call != nullptr && call(signal, *info, *static_cast<ucontext_t*>(context))) return;
    }
  }
  pass_on(signal, info, context);
}

Status install() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (const int signal : kSignals)
    if (sigaction(signal, &action, &previous[static_cast<std::size_t>(signal)]) != 0)
      return make_system_error(errno, "cannot handle the processor's faults (sigaction)");
  return {};
}

const Status& installed() {
  static const Status result = install();
  return result;
}

Status set_up_alternate_stack() {
  constexpr std::size_t kSize = 64 * 1024;
  thread_local std::unique_ptr<std::byte[]> stack;
  const auto fail = [] { return make_system_error(errno, "cannot make a signal stack (sigaltstack)"); };
  stack_t current{};
  if (sigaltstack(nullptr, &current) != 0) return fail();
  if ((current.ss_flags & SS_DISABLE) == 0) return {};
  stack = std::make_unique<std::byte[]>(kSize);
  const stack_t wanted{.ss_sp = stack.get(), .ss_flags = 0, .ss_size = kSize};
  if (sigaltstack(&wanted, nullptr) != 0) return fail();
  return {};
}

}  // namespace

Status prepare_fault_signals() {
  VERT_TRY(installed());
  return set_up_alternate_stack();
}

void add_fault_handler(FaultHandler handler) {
  static std::mutex mutex;
  const std::scoped_lock lock(mutex);
  for (auto& place : handlers) {
    const FaultHandler there = place.load(std::memory_order_relaxed);
    if (there == handler) return;
    if (there != nullptr) continue;
    VERT_CHECK(installed());
    place.store(handler, std::memory_order_release);
    return;
  }
  VERT_CHECK(false);
}

void use_alternate_signal_stack() { VERT_CHECK(set_up_alternate_stack()); }

}  // namespace vert::base

#include "engine/interp/vector_signal.hpp"

#include <atomic>
#include <csignal>
#include <mutex>

#include <ucontext.h>

#include "base/error.hpp"
#include "engine/interp/vector_stub.hpp"

namespace vert::interp {

namespace {

thread_local constinit std::atomic<const ActiveStub*> active_stub = nullptr;

struct Previous {
  struct sigaction floating_point;
  struct sigaction illegal;
};
Previous previous;

/// What would have happened without our handler.
void pass_on(int signal, siginfo_t* info, void* context) {
  const struct sigaction& old = signal == SIGFPE ? previous.floating_point : previous.illegal;
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

// SAFETY: async-signal-safe: it reads a thread-local pointer without a constructor and changes the
// interrupted context only if that stands exactly on the instruction of the stub that its own thread is in,
// where RSI and RSP are the stub's own.
void on_signal(int signal, siginfo_t* info, void* context) {
  auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const ActiveStub* stub = active_stub.load(std::memory_order_relaxed);
  if (stub == nullptr || info->si_code <= 0 ||
      registers[REG_RIP] != reinterpret_cast<greg_t>(stub->instruction))
    return pass_on(signal, info, context);
  registers[REG_RIP] = reinterpret_cast<greg_t>(stub->recovery);
  registers[REG_RAX] =
      static_cast<greg_t>(signal == SIGFPE ? StubExit::kFloatingPoint : StubExit::kUndefined);
}

}  // namespace

ActiveStubScope::ActiveStubScope(const ActiveStub& stub) {
  active_stub.store(&stub, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

ActiveStubScope::~ActiveStubScope() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  active_stub.store(nullptr, std::memory_order_relaxed);
}

void install_stub_signal_handlers() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    VERT_CHECK(sigaction(SIGFPE, &action, &previous.floating_point) == 0);
    VERT_CHECK(sigaction(SIGILL, &action, &previous.illegal) == 0);
  });
}

}  // namespace vert::interp

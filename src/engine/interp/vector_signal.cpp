#include "engine/interp/vector_signal.hpp"

#include <atomic>
#include <csignal>

#include "base/fault_signal.hpp"
#include "engine/interp/vector_stub.hpp"

namespace vert::interp {

namespace {

thread_local constinit std::atomic<const ActiveStub*> active_stub = nullptr;

// SAFETY: async-signal-safe: it reads a thread-local pointer without a constructor and changes the
// interrupted context only if that stands exactly on the instruction of the stub that its own thread is in,
// where RSI and RSP are the stub's own.
bool on_fault(int signal, const siginfo_t& /*info*/, ucontext_t& context) {
  auto& registers = context.uc_mcontext.gregs;
  const ActiveStub* stub = active_stub.load(std::memory_order_relaxed);
  if (stub == nullptr || registers[REG_RIP] != reinterpret_cast<greg_t>(stub->instruction)) return false;
  if (signal != SIGFPE && signal != SIGILL) return false;
  registers[REG_RIP] = reinterpret_cast<greg_t>(stub->recovery);
  registers[REG_RAX] =
      static_cast<greg_t>(signal == SIGFPE ? StubExit::kFloatingPoint : StubExit::kUndefined);
  return true;
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

void install_stub_signal_handlers() { base::add_fault_handler(on_fault); }

}  // namespace vert::interp

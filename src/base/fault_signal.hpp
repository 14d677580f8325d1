// Faults of the host's processor in code that expects them: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP.
//
// One handler for the process, which asks those who registered, on the faulting thread.
#pragma once

#include <csignal>

#include <ucontext.h>

#include "base/error.hpp"

namespace vert::base {

/// Whether the fault was the callee's; then it has changed `context` to where its thread goes on. Called on
/// the faulting thread, in a signal handler: async-signal-safe, on the alternate stack if the thread has one.
using FaultHandler = bool (*)(int signal, const siginfo_t& info, ucontext_t& context);

/// Finds out whether the host allows signal handlers and alternate stacks, which all that follows takes for
/// granted. To be called before; once is enough.
[[nodiscard]] Status prepare_fault_signals();

/// Adds `handler` for the rest of the process's life; adding one twice does nothing. A fault that no handler
/// takes does what it would have done without. Any thread.
void add_fault_handler(FaultHandler handler);

/// Gives the calling thread an alternate signal stack, if it has none. Lasts until the thread ends.
void use_alternate_signal_stack();

}  // namespace vert::base

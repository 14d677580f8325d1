// A signal to a thread that runs generated code, for each 10 ms of processor time that it uses.
//
// One timer for each thread, for as long as that lives. A thread that sleeps gets no signals.
#pragma once

#include <ucontext.h>

namespace vert::bt {

/// Called in the signal handler, on the thread's alternate stack: async-signal-safe. May change `host` to how
/// the thread goes on.
using Tick = void (*)(ucontext_t& host);

/// Starts the calling thread's timer, if it has none. `tick` is the same in all calls. On a host without
/// timers for threads nothing happens: looks in generated code must do there.
void use_look_timer(Tick tick);

}  // namespace vert::bt

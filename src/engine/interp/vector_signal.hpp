// What happens to SIGFPE and SIGILL of instructions in stubs: the thread leaves its stub.
//
// The handlers belong to the process, are installed once, and pass on what is not a stub's.
#pragma once

#include "base/types.hpp"

namespace vert::interp {

/// The stub that the current thread is in.
struct ActiveStub {
  const u8* instruction = nullptr;  // the only address that may raise a signal
  const u8* recovery = nullptr;     // where to go on, with the StubExit in RAX
};

/// Makes `stub` this thread's for as long as the scope lasts.
class ActiveStubScope {
 public:
  explicit ActiveStubScope(const ActiveStub& stub);
  ~ActiveStubScope();
  ActiveStubScope(const ActiveStubScope&) = delete;
  ActiveStubScope& operator=(const ActiveStubScope&) = delete;
};

void install_stub_signal_handlers();

}  // namespace vert::interp

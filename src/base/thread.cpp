#include "base/thread.hpp"

#include <pthread.h>
#include <signal.h>

#include <system_error>

namespace vert::base {

Result<std::thread> start_thread(const std::string& name, std::function<void()> body) {
  sigset_t blocked;
  sigset_t before;
  ::sigfillset(&blocked);
  for (const int synchronous : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) ::sigdelset(&blocked, synchronous);
  ::pthread_sigmask(SIG_SETMASK, &blocked, &before);  // the new thread inherits it
  Result<std::thread> thread;
  try {
    thread = std::thread(std::move(body));
    ::pthread_setname_np(thread->native_handle(), name.c_str());
  } catch (const std::system_error& error) {
    thread = make_system_error(error.code().value(), "cannot start the thread " + name);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace vert::base

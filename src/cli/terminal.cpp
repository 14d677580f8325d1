// Raw mode and its end; see terminal.hpp.
#include "cli/terminal.hpp"

#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>

namespace vert::cli {
namespace {

// Written by the one TerminalGuard before raw_fd is set, read by whoever finds raw_fd set.
termios saved_mode;
std::atomic<int> raw_fd{-1};
static_assert(std::atomic<int>::is_always_lock_free);

// SAFETY: calls only tcsetattr and raise, which are async-signal-safe, and touches a lock-free atomic and a
// variable that is constant while that atomic holds a file descriptor. SA_RESETHAND has put the default
// action back, so that the raised signal kills the process when the handler returns.
void restore_and_die(int signal_number) {
  restore_terminal();
  raise(signal_number);
}

}  // namespace

std::optional<TerminalSize> terminal_size(int fd) {
  winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return std::nullopt;
  return TerminalSize{size.ws_col, size.ws_row};
}

void restore_terminal() {
  const int fd = raw_fd.exchange(-1);
  if (fd >= 0) tcsetattr(fd, TCSANOW, &saved_mode);
}

TerminalGuard::TerminalGuard(int fd) : fd_(fd) {}

TerminalGuard::~TerminalGuard() { leave_raw(); }

bool TerminalGuard::enter_raw() {
  if (raw_fd.load() >= 0) return true;
  if (tcgetpgrp(fd_) != getpgrp()) return false;
  if (tcgetattr(fd_, &saved_mode) != 0) return false;
  raw_fd.store(fd_);
  termios raw = saved_mode;
  cfmakeraw(&raw);
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  if (tcsetattr(fd_, TCSANOW, &raw) == 0) return true;
  restore_terminal();
  return false;
}

void TerminalGuard::leave_raw() { restore_terminal(); }

void install_crash_handlers() {
  for (const int signal_number : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
    struct sigaction current = {};
    sigaction(signal_number, nullptr, &current);
    if (current.sa_handler != SIG_DFL) continue;
    // SAFETY: restore_and_die is async-signal-safe, as said there.
    struct sigaction action = {};
    action.sa_handler = restore_and_die;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, nullptr);
  }
}

}  // namespace vert::cli

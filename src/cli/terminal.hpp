// The terminal that vert runs on: raw mode while a serial console is on it, and its old mode afterwards,
// however vert ends.
//
// One TerminalGuard at a time owns the terminal, on the console's thread. The saved mode also lies in a
// static variable, because the handlers for crashes must reach it.
#pragma once

#include <optional>

#include "base/types.hpp"

namespace vert::cli {

struct TerminalSize {
  u16 columns = 0;
  u16 rows = 0;
};
/// Nothing if `fd` is no terminal, or does not know.
[[nodiscard]] std::optional<TerminalSize> terminal_size(int fd);

/// Remembers a terminal's mode and brings it back when it goes.
class TerminalGuard {
 public:
  /// `fd` must be a terminal and stay open for the guard's life.
  explicit TerminalGuard(int fd);
  ~TerminalGuard();
  TerminalGuard(const TerminalGuard&) = delete;
  TerminalGuard& operator=(const TerminalGuard&) = delete;

  /// Raw mode, unless vert is in the background, where touching the terminal would stop it. True if raw.
  bool enter_raw();
  void leave_raw();

 private:
  int fd_;
};

/// Brings the mode of the terminal that is raw, if one is, back at once: for whoever leaves the process
/// without the guard. Any thread; async-signal-safe.
void restore_terminal();

/// Restores the terminal before SIGABRT, SIGSEGV, SIGBUS, SIGILL or SIGFPE kills vert. Signals that
/// already have a handler keep it.
void install_crash_handlers();

}  // namespace vert::cli

// The program `vert` in a child process, with its serial console on a pseudo-terminal or on pipes.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"

namespace vert::vm_test {

/// How a process ended: an exit status, or the signal that killed it, or neither (it had to be killed).
struct End {
  std::optional<int> status;
  std::optional<int> signal;
};

/// Killed and reaped when it goes.
class VertProcess {
 public:
  enum class Console { kTerminal, kPipes };
  using Clock = std::chrono::steady_clock;

  /// Runs `vert ARGUMENTS...`. On a terminal, output and errors come as one stream; on pipes, input is what
  /// send() gives until close_input().
  VertProcess(const std::vector<std::string>& arguments, Console console);
  ~VertProcess();
  VertProcess(const VertProcess&) = delete;
  VertProcess& operator=(const VertProcess&) = delete;

  void send(const std::string& text);
  void close_input();
  /// Waits until the output has `text` behind what was expected before; false at the end or after `limit`.
  [[nodiscard]] bool expect(const std::string& text, std::chrono::seconds limit);
  /// The next whole line behind what was expected before.
  [[nodiscard]] std::optional<std::string> next_line(std::chrono::seconds limit);
  /// Waits for the end, reading on meanwhile.
  [[nodiscard]] End wait(std::chrono::seconds limit);
  void kill(int signal_number) const;

  void resize_terminal(unsigned short columns, unsigned short rows) const;
  /// Closes the terminal under the program.
  void hang_up();
  [[nodiscard]] termios terminal_mode() const;
  [[nodiscard]] bool terminal_is_raw() const;

  /// All that came, standard error included on a terminal; without carriage returns.
  [[nodiscard]] const std::string& output() const { return output_; }
  /// Standard error, on pipes; complete once wait() has returned.
  [[nodiscard]] const std::string& errors() const { return errors_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  /// Reads once; false when nothing can come any more or the time is over.
  bool read_some(Clock::time_point deadline);

  pid_t pid_ = -1;
  base::Fd input_;
  base::Fd output_fd_;
  base::Fd error_fd_;
  base::Fd terminal_;  // the program's side, kept open to ask for its mode
  std::string output_;
  std::string errors_;
  std::size_t seen_ = 0;
};

/// Debian's kernel of that name ("6.1-cloud") from the cache, if it is there.
[[nodiscard]] std::optional<std::string> cached_kernel(const std::string& name);
/// Of a kernel in the cache.
[[nodiscard]] std::optional<std::string> cached_module(const std::string& kernel, const std::string& name);
/// busybox from the cache or from the host.
[[nodiscard]] std::optional<std::string> busybox();
/// The same for 32-bit guests, from the cache.
[[nodiscard]] std::optional<std::string> busybox_i386();
/// True if the tests that take minutes were asked for (./dev test --long).
[[nodiscard]] bool long_tests();

}  // namespace vert::vm_test

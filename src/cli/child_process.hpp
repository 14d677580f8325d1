// A program that vert starts and whose output it reads, with a time limit, and on whose input it may type.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"

namespace vert::cli {

/// Killed and reaped when this goes.
class ChildProcess {
 public:
  using Clock = std::chrono::steady_clock;

  struct Options {
    int kept = -1;           // a descriptor that is open in the program too, under the same number
    bool typed = false;      // it has an input, to type on
    bool own_group = false;  // the terminal's signals do not reach it
  };
  /// Starts argv[0] (looked for in PATH); its output and its errors come as one stream.
  [[nodiscard]] static Result<ChildProcess> start(const std::vector<std::string>& argv,
                                                  const Options& options);
  [[nodiscard]] static Result<ChildProcess> start(const std::vector<std::string>& argv) {
    return start(argv, Options());
  }
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ChildProcess(const ChildProcess&) = delete;
  ~ChildProcess();

  struct Line {
    std::string text;  // without its end
    Clock::time_point arrival;
  };
  /// The next line, or nothing once the output has ended. No line within `limit` is an error.
  [[nodiscard]] Result<std::optional<Line>> read_line(std::chrono::seconds limit);
  /// Its own; if it was given a group of its own, also the group's.
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// When `text` came, which need not be a line; what came up to it is gone then. Not coming within `limit`,
  /// and an output that ends before, are errors that have the last of the output.
  [[nodiscard]] Result<Clock::time_point> wait_for(const std::string& text, std::chrono::seconds limit);
  /// Error: it reads no more.
  [[nodiscard]] Status type(std::string_view text);
  /// Waits for the end: the exit status, or 128 + the signal that killed it.
  [[nodiscard]] int wait();

 private:
  ChildProcess(pid_t pid, base::Fd input, base::Fd output)
      : pid_(pid), input_(std::move(input)), output_(std::move(output)) {}
  std::optional<Line> take_line(bool at_end);
  /// Adds to the buffer; false once the output has ended.
  [[nodiscard]] Result<bool> read_more(Clock::time_point deadline);

  pid_t pid_ = -1;
  base::Fd input_;  // a socket, which raises no signal once nobody reads it
  base::Fd output_;
  std::string buffer_;
};

/// The paths of a program in PATH, in its order.
[[nodiscard]] std::vector<std::string> find_programs(const std::string& name);

}  // namespace vert::cli

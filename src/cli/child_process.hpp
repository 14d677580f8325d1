// A program that vert starts and whose output it reads, line by line, with a time limit.
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
    bool own_group = false;  // the terminal's signals do not reach it
  };
  /// Starts argv[0] (looked for in PATH) with no input; its output and its errors come as one stream.
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
  /// Waits for the end: the exit status, or 128 + the signal that killed it.
  [[nodiscard]] int wait();

 private:
  ChildProcess(pid_t pid, base::Fd output) : pid_(pid), output_(std::move(output)) {}
  std::optional<Line> take_line(bool at_end);

  pid_t pid_ = -1;
  base::Fd output_;
  std::string buffer_;
};

/// The paths of a program in PATH, in its order.
[[nodiscard]] std::vector<std::string> find_programs(const std::string& name);

}  // namespace vert::cli

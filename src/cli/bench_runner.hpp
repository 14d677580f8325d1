// Runs the benchmark's programs on bare metal and in virtual machines. Main thread.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "cli/bench_plan.hpp"
#include "cli/child_process.hpp"

namespace vert::cli {

/// Shows on standard error how far a measurement is: one line that changes on a terminal, else a line a step.
class BenchProgress {
 public:
  BenchProgress();
  void start(std::string engine, std::size_t steps);
  void step(std::string_view what);
  void finish(bool measured);

 private:
  bool terminal_;
  std::string engine_;
  std::size_t steps_ = 0;
  std::size_t step_ = 0;
  std::chrono::steady_clock::time_point begin_;
};

struct BenchOptions {
  unsigned runs = 5;
  BenchScale scale = BenchScale::lecture;
  std::vector<const BenchProgram*> programs;
  std::string kernel;
};

inline constexpr std::string_view kBenchAppend = "console=ttyS0 quiet";
inline constexpr std::string_view kBenchMemory = "512M";

/// What the programs compute on bare metal, against which guests are checked.
class BenchReference {
 public:
  [[nodiscard]] bool knows(const BenchTask& task) const { return checksums_.contains(key(task)); }
  /// Takes what bare metal computed; false if it computed something else before.
  [[nodiscard]] bool learn(const BenchTask& task, const std::string& checksum);
  /// What is wrong with a guest's checksum of a known task; empty if nothing is.
  [[nodiscard]] std::string difference(const BenchTask& task, const std::string& checksum) const;

 private:
  using Key = std::pair<std::string_view, u64>;
  static Key key(const BenchTask& task) { return {task.program->name, task.count}; }

  std::map<Key, std::string> checksums_;
};

/// Gives each line that a guest prints to `take`, until that says false. Error: its own, `silence` without a
/// line, or the guest's early end, each with the guest's last lines.
[[nodiscard]] Status follow_guest(ChildProcess& child, std::chrono::seconds silence,
                                  const std::function<Result<bool>(const ChildProcess::Line&)>& take);

/// `engine` is bare, qemu, or one of vert's. What goes wrong is in the result. Where bare metal has not run a
/// guest's tasks yet, it runs them once for `reference`.
[[nodiscard]] BenchResult run_bench(const std::string& engine, const BenchOptions& options,
                                    BenchReference& reference, BenchProgress& progress);

}  // namespace vert::cli

// Runs the four programs on bare metal and in virtual machines. Main thread.
#pragma once

#include <chrono>
#include <string>

#include "base/fd.hpp"
#include "cli/bench_plan.hpp"

namespace vert::cli {

/// Shows on standard error how far a measurement is: one line that changes on a terminal, else a line a step.
class BenchProgress {
 public:
  BenchProgress();
  void start(std::string engine, std::size_t steps);
  void step(std::string_view what);
  void finish(const BenchResult& result);

 private:
  bool terminal_;
  std::string engine_;
  std::size_t steps_ = 0;
  std::size_t step_ = 0;
  std::chrono::steady_clock::time_point begin_;
};

struct BenchOptions {
  unsigned runs = 5;
  bool full = false;
  std::string kernel;
};

inline constexpr std::string_view kBenchAppend = "console=ttyS0 quiet";
inline constexpr std::string_view kBenchMemory = "512M";

/// `engine` is bare, qemu, or one of vert's. What goes wrong is in the result.
[[nodiscard]] BenchResult run_bench(const std::string& engine, const BenchOptions& options,
                                    BenchProgress& progress);

}  // namespace vert::cli

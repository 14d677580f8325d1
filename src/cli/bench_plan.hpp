// What `vert bench` measures: the four programs, and how often each turns on each engine.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.hpp"

namespace vert::cli {

struct BenchProgram {
  std::string_view name;
  std::string_view unit;  // what is counted
  u64 full_count;         // the lecture's
};

inline constexpr std::size_t kBenchPrograms = 4;
inline constexpr std::array<BenchProgram, kBenchPrograms> kPrograms = {{
    {"sum", "turn", 5'000'000'000},
    {"getppid", "call", 10'000'000},
    {"gettimeofday", "call", 10'000'000},
    {"forkwait", "fork", 10'000},
}};

using BenchCounts = std::array<u64, kBenchPrograms>;

/// The counts for an engine: the lecture's, or such that a run takes about a second there.
[[nodiscard]] BenchCounts bench_counts(std::string_view engine, bool full);

/// Seconds of the four programs in one run.
using BenchRow = std::array<double, kBenchPrograms>;

/// What one engine (or bare metal) showed.
struct BenchResult {
  std::string engine;
  std::string failure;  // not empty: measured nothing, or not all; says why
  bool skipped = false;
  std::string command;  // what was run, for the record
  BenchCounts counts{};
  double boot_seconds = 0;             // until the guest's process 1; 0 on bare metal
  std::vector<BenchRow> seconds;       // by the guest's clock, one row a run
  std::vector<BenchRow> host_seconds;  // the same by the host's

  [[nodiscard]] bool measured() const { return failure.empty(); }
  [[nodiscard]] double median(std::size_t program) const;
  [[nodiscard]] double best(std::size_t program) const;
  [[nodiscard]] double nanoseconds_per_unit(std::size_t program, double run_seconds) const;
  /// Median time for one turn, call or fork, over that of `bare`.
  [[nodiscard]] double ratio_to(const BenchResult& bare, std::size_t program) const;
  /// All host time over all guest time: 1 if the guest's clock is right.
  [[nodiscard]] double clock_ratio() const;
};

}  // namespace vert::cli

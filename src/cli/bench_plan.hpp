// What `vert bench` measures: the programs, how often each turns on each engine, and what came out. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::cli {

struct BenchProgram {
  std::string_view name;
  std::string_view unit;   // what is counted
  std::string_view about;  // one line
  u64 count;               // in the suite: some half a second on bare metal
};

/// The lecture's programs come first, then those that make up the sixteen of the named mean, then the others.
inline constexpr std::size_t kLecturePrograms = 4;
inline constexpr std::size_t kCorePrograms = 16;
[[nodiscard]] std::span<const BenchProgram> bench_programs();
/// Whether it is one of the sixteen.
[[nodiscard]] bool is_core(const BenchProgram* program);

enum class BenchScale {
  lecture,       // the lecture's programs, such that a run takes about a second on each engine
  lecture_full,  // the same with the lecture's counts
  suite,         // any programs
};

struct BenchTask {
  const BenchProgram* program;
  u64 count;
};

/// The programs of a comma-separated list in the list's order, or all of the scale's if it is empty.
[[nodiscard]] Result<std::vector<const BenchProgram*>> choose_programs(BenchScale scale,
                                                                       const std::string& only);
/// The programs with their counts for an engine.
[[nodiscard]] std::vector<BenchTask> bench_tasks(std::span<const BenchProgram* const> programs,
                                                 std::string_view engine, BenchScale scale);

/// What a program printed: its own time, and what it computed.
struct BenchOutput {
  double seconds = 0;
  std::string checksum;
};
[[nodiscard]] Result<BenchOutput> parse_bench_output(const std::string& line);

/// A line of a guest's for the host: "vert-bench EVENT WHAT VALUE"; the last two may be empty.
struct BenchEvent {
  std::string event;
  std::string what;
  std::string value;
};
/// Nothing if it is none; other output may stand in front of it.
[[nodiscard]] std::optional<BenchEvent> parse_bench_event(const std::string& line);

/// Seconds of the programs in one run.
using BenchRow = std::vector<double>;

/// What one engine (or bare metal) showed.
struct BenchResult {
  std::string engine;
  std::string version;  // of what is not vert's own
  std::string failure;  // not empty: measured nothing, or not all; says why
  bool skipped = false;
  std::string command;  // what was run, for the record
  std::vector<BenchTask> tasks;
  double boot_seconds = 0;             // until the guest's process 1; 0 on bare metal
  std::vector<BenchRow> seconds;       // by the guest's clock, one row a run
  std::vector<BenchRow> host_seconds;  // the same by the host's

  [[nodiscard]] bool measured() const { return failure.empty(); }
  [[nodiscard]] double median(std::size_t task) const;
  [[nodiscard]] double best(std::size_t task) const;
  [[nodiscard]] double nanoseconds_per_unit(std::size_t task, double run_seconds) const;
  /// The median of the tasks' host time over guest time: 1 if the guest's clock is right. A median, for the
  /// host's time of a run has also what a program does before and after its own.
  [[nodiscard]] double clock_ratio() const;
};

/// Which of a task's runs counts: BenchResult::median or best.
using BenchStatistic = double (BenchResult::*)(std::size_t task) const;

/// Time for one turn, call or fork, over that of `bare`.
[[nodiscard]] double bench_ratio(const BenchResult& result, const BenchResult& bare, std::size_t task,
                                 BenchStatistic statistic);

/// Of one value at least.
[[nodiscard]] double median_of(std::vector<double> values);
/// Of positive numbers; nothing of none.
[[nodiscard]] std::optional<double> geometric_mean(std::span<const double> values);

struct BenchMeans {
  std::optional<double> core;  // over the named sixteen, if all were measured
  std::optional<double> all;   // over all that were measured
};
[[nodiscard]] BenchMeans bench_means(const BenchResult& result, const BenchResult& bare,
                                     BenchStatistic statistic);

}  // namespace vert::cli

// The results of `vert bench` as text, JSON and a chart. Pure.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cli/bench_plan.hpp"

namespace vert::cli {

struct BenchReport {
  std::string processor;
  std::string host_kernel;
  std::string guest_kernel;
  std::string guest_append;
  std::vector<const BenchProgram*> programs;
  bool suite = false;  // best of all runs and means, instead of the lecture's medians
  std::span<const BenchResult> results;

  /// What ratios are of.
  [[nodiscard]] BenchStatistic statistic() const { return suite ? &BenchResult::best : &BenchResult::median; }
};

/// "1.23x".
[[nodiscard]] std::string format_ratio(double ratio);
/// The measured result of bare metal, if there is one.
[[nodiscard]] const BenchResult* find_bare(std::span<const BenchResult> results);
/// One engine's runs, as the lecture's runiter.bash printed them: a header, then seconds, one line a run.
[[nodiscard]] std::string bench_rows(const BenchResult& result);
/// Time for each turn, call or fork, and the ratio to bare metal, an aligned line a program; for the suite
/// also the geometric means.
[[nodiscard]] std::string bench_table(const BenchReport& report);
/// The programs that there are, a line each.
[[nodiscard]] std::string bench_list();
[[nodiscard]] std::string bench_json(const BenchReport& report);
/// Bars of the ratios to bare metal on a logarithmic scale; legible on light and dark.
[[nodiscard]] std::string bench_svg(const BenchReport& report);

}  // namespace vert::cli

// The bar chart of `vert bench`; how it is drawn is in bar_chart.cpp.
#include <algorithm>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "cli/bar_chart.hpp"
#include "cli/bench_report.hpp"

namespace vert::cli {
namespace {

std::vector<BarGroup> make_groups(const BenchReport& report, const BenchResult& bare,
                                  const std::vector<const BenchResult*>& guests) {
  std::vector<BarGroup> groups;
  for (std::size_t task = 0; task < report.programs.size(); ++task) {
    groups.push_back({std::string(report.programs[task]->name), {}});
    for (const BenchResult* const guest : guests) {
      groups.back().ratios.emplace_back(bench_ratio(*guest, bare, task, report.statistic()));
    }
  }
  if (!report.suite) return groups;
  BarGroup core = {fmt::format("mean of {}", kCorePrograms), {}};
  BarGroup all = {"mean of all", {}};
  for (const BenchResult* const guest : guests) {
    const BenchMeans means = bench_means(*guest, bare, report.statistic());
    core.ratios.push_back(means.core);
    all.ratios.push_back(means.all);
  }
  if (std::ranges::any_of(core.ratios, &std::optional<double>::has_value)) groups.push_back(std::move(core));
  groups.push_back(std::move(all));
  return groups;
}

}  // namespace

std::string bench_svg(const BenchReport& report) {
  const BenchResult* const bare = find_bare(report.results);
  std::vector<const BenchResult*> guests;
  std::vector<BarSeries> series;
  for (const BenchResult& result : report.results) {
    if (bare == nullptr || &result == bare || !result.measured()) continue;
    guests.push_back(&result);
    series.push_back({.name = result.engine, .engine = result.engine});
  }
  return bar_chart_svg(series, guests.empty() ? std::vector<BarGroup>{} : make_groups(report, *bare, guests));
}

}  // namespace vert::cli

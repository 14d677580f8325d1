// Rows, table and JSON of `vert bench`; the chart is in bench_chart.cpp.
#include "cli/bench_report.hpp"

#include <algorithm>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/text.hpp"

namespace vert::cli {
namespace {

std::string format_time(double nanoseconds) {
  if (nanoseconds < 1e3) return fmt::format("{:.3g} ns", nanoseconds);
  if (nanoseconds < 1e6) return fmt::format("{:.3g} us", nanoseconds / 1e3);
  return fmt::format("{:.3g} ms", nanoseconds / 1e6);
}

using Rows = std::vector<std::vector<std::string>>;

/// A header, and a line for each program.
void add_lines(Rows& rows, std::string_view header, std::span<const BenchProgram* const> programs) {
  rows.push_back({std::string(header), "each"});
  for (const BenchProgram* const program : programs)
    rows.push_back({std::string(program->name), std::string(program->unit)});
}

std::string column_head(const BenchResult& result) {
  return result.version.empty() ? result.engine : result.engine + " " + result.version;
}

/// Adds an engine's column, and its ratio to bare metal, to a header row and the programs' rows below it.
/// Returns the row behind them.
Rows::iterator add_times(Rows::iterator row, const BenchResult& result, const BenchResult* bare,
                         BenchStatistic statistic) {
  row->push_back(column_head(result));
  if (bare != nullptr) row->emplace_back("/bare");
  for (std::size_t task = 0; task < result.tasks.size(); ++task) {
    ++row;
    row->push_back(format_time(result.nanoseconds_per_unit(task, (result.*statistic)(task))));
    if (bare != nullptr) row->push_back(format_ratio(bench_ratio(result, *bare, task, statistic)));
  }
  return row + 1;
}

bool has_core(const BenchReport& report) {
  return std::ranges::count_if(report.programs, is_core) == kCorePrograms;
}

/// Lines for the geometric means: of the sixteen, if they are all there, and of all.
void add_mean_lines(Rows& rows, const BenchReport& report) {
  if (has_core(report)) rows.push_back({fmt::format("mean of {}", kCorePrograms), "geometric"});
  rows.push_back({fmt::format("mean of all {}", report.programs.size()), "geometric"});
}

/// Adds the geometric means to the rows for them. Returns the row behind them.
Rows::iterator add_means(Rows::iterator row, const BenchReport& report, const BenchResult& result,
                         const BenchResult* bare) {
  const BenchMeans means = bare == nullptr ? BenchMeans{} : bench_means(result, *bare, report.statistic());
  const auto add = [&](std::optional<double> mean) {
    row->emplace_back();
    if (mean) row->push_back(format_ratio(*mean));
    ++row;
  };
  if (has_core(report)) add(means.core);
  add(means.all);
  return row;
}

nlohmann::json program_json(const BenchReport& report, const BenchResult& result, std::size_t task) {
  const BenchTask& what = result.tasks[task];
  const BenchResult* const bare = find_bare(report.results);
  nlohmann::json entry = {
      {"name", what.program->name},
      {"unit", what.program->unit},
      {"count", what.count},
      {"median_seconds", result.median(task)},
      {"best_seconds", result.best(task)},
      {"nanoseconds_per_unit", result.nanoseconds_per_unit(task, (result.*report.statistic())(task))}};
  for (const BenchRow& row : result.seconds) entry["seconds"].push_back(row[task]);
  for (const BenchRow& row : result.host_seconds) entry["host_seconds"].push_back(row[task]);
  if (bare != nullptr) entry["ratio_to_bare"] = bench_ratio(result, *bare, task, report.statistic());
  return entry;
}

nlohmann::json means_json(const BenchMeans& means) {
  nlohmann::json json = nlohmann::json::object();
  if (means.core) json["core"] = *means.core;
  if (means.all) json["all"] = *means.all;
  return json;
}

nlohmann::json engine_json(const BenchReport& report, const BenchResult& result) {
  const BenchResult* const bare = find_bare(report.results);
  nlohmann::json engine = {{"name", result.engine}, {"measured", result.measured()}};
  if (!result.version.empty()) engine["version"] = result.version;
  if (!result.command.empty()) engine["command"] = result.command;
  if (!result.measured()) {
    engine["why"] = result.failure;
    return engine;
  }
  if (result.engine != "bare") {
    engine["boot_seconds"] = result.boot_seconds;
    engine["host_over_guest_clock"] = result.clock_ratio();
  }
  for (std::size_t task = 0; task < result.tasks.size(); ++task) {
    engine["programs"].push_back(program_json(report, result, task));
  }
  if (report.suite && bare != nullptr) {
    engine["geometric_mean"] = means_json(bench_means(result, *bare, report.statistic()));
  }
  return engine;
}

}  // namespace

std::string format_ratio(double ratio) {
  return ratio < 100 ? fmt::format("{:.2f}x", ratio) : fmt::format("{:.0f}x", ratio);
}

const BenchResult* find_bare(std::span<const BenchResult> results) {
  const auto bare = std::ranges::find_if(
      results, [](const BenchResult& result) { return result.engine == "bare" && result.measured(); });
  return bare == results.end() ? nullptr : &*bare;
}

std::string bench_rows(const BenchResult& result) {
  std::string text = fmt::format("{}, seconds for", result.engine);
  std::string names;
  for (const BenchTask& task : result.tasks) {
    const bool first = &task == &result.tasks.front();
    text += fmt::format("{} {} {}s", first ? "" : ",", task.count, task.program->unit);
    names += fmt::format("{}{}", first ? "" : ";", task.program->name);
  }
  text += fmt::format("\n{}\n", names);
  for (const BenchRow& row : result.seconds) text += fmt::format("{:.3f}\n", fmt::join(row, ";"));
  return text;
}

std::string bench_table(const BenchReport& report) {
  Rows rows;
  if (!report.suite) add_lines(rows, "median", report.programs);
  add_lines(rows, "best", report.programs);
  if (report.suite) add_mean_lines(rows, report);
  rows.push_back({"clock", "host/guest"});
  rows.push_back({"boot", ""});

  const BenchResult* const bare = find_bare(report.results);
  for (const BenchResult& result : report.results) {
    if (!result.measured()) continue;
    const BenchResult* const reference = &result == bare ? nullptr : bare;
    auto row = rows.begin();
    if (!report.suite) row = add_times(row, result, reference, &BenchResult::median);
    row = add_times(row, result, reference, &BenchResult::best);
    if (report.suite) row = add_means(row, report, result, reference);
    const bool guest = result.engine != "bare";
    (row++)->push_back(guest ? fmt::format("{:.3f}", result.clock_ratio()) : "-");
    row->push_back(guest ? fmt::format("{:.1f} s", result.boot_seconds) : "-");
    for (auto& cells : rows) cells.resize(rows[0].size());
  }
  return format_table(rows);
}

std::string bench_list() {
  Rows rows;
  for (const BenchProgram& program : bench_programs()) {
    rows.push_back({std::string(program.name), std::string(program.about)});
  }
  return format_table(rows);
}

std::string bench_json(const BenchReport& report) {
  using nlohmann::json;
  json root = {{"format", "vert-bench"},
               {"version", 1},
               {"host", {{"processor", report.processor}, {"kernel", report.host_kernel}}},
               {"guest", {{"kernel", report.guest_kernel}, {"append", report.guest_append}}},
               {"suite", report.suite},
               {"ratio_of", report.suite ? "best" : "median"},
               {"engines", json::array()}};
  for (const BenchResult& result : report.results) root["engines"].push_back(engine_json(report, result));
  return root.dump(2) + "\n";
}

}  // namespace vert::cli

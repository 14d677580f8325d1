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

std::string format_ratio(double ratio) {
  return ratio < 100 ? fmt::format("{:.2f}x", ratio) : fmt::format("{:.0f}x", ratio);
}

using Rows = std::vector<std::vector<std::string>>;

/// Adds an engine's column, and its ratio to bare metal, to a header row and the programs' rows below it.
/// Returns the row behind them.
Rows::iterator add_times(Rows::iterator row, const BenchResult& result, const BenchResult* bare,
                         double (BenchResult::*statistic)(std::size_t) const) {
  row->push_back(result.engine);
  if (bare != nullptr) row->emplace_back("/bare");
  for (std::size_t program = 0; program < kBenchPrograms; ++program) {
    ++row;
    const double time = result.nanoseconds_per_unit(program, (result.*statistic)(program));
    row->push_back(format_time(time));
    if (bare == nullptr) continue;
    row->push_back(format_ratio(time / bare->nanoseconds_per_unit(program, (bare->*statistic)(program))));
  }
  return row + 1;
}

}  // namespace

const BenchResult* find_bare(std::span<const BenchResult> results) {
  const auto bare = std::ranges::find_if(
      results, [](const BenchResult& result) { return result.engine == "bare" && result.measured(); });
  return bare == results.end() ? nullptr : &*bare;
}

std::string bench_rows(const BenchResult& result) {
  std::string text = fmt::format("{}, seconds for", result.engine);
  for (std::size_t program = 0; program < kBenchPrograms; ++program) {
    text +=
        fmt::format("{} {} {}s", program == 0 ? "" : ",", result.counts[program], kPrograms[program].unit);
  }
  text += "\nsum;getppid;gettimeofday;forkwait\n";
  for (const BenchRow& row : result.seconds) {
    text += fmt::format("{:.3f};{:.3f};{:.3f};{:.3f}\n", row[0], row[1], row[2], row[3]);
  }
  return text;
}

std::string bench_table(const BenchReport& report) {
  Rows rows = {{"median", "each"}};
  for (const BenchProgram& program : kPrograms)
    rows.push_back({std::string(program.name), std::string(program.unit)});
  rows.push_back({"best", "each"});
  for (const BenchProgram& program : kPrograms)
    rows.push_back({std::string(program.name), std::string(program.unit)});
  rows.push_back({"clock", "host/guest"});
  rows.push_back({"boot", ""});

  const BenchResult* const bare = find_bare(report.results);
  for (const BenchResult& result : report.results) {
    if (!result.measured()) continue;
    const BenchResult* const reference = &result == bare ? nullptr : bare;
    auto row = add_times(rows.begin(), result, reference, &BenchResult::median);
    row = add_times(row, result, reference, &BenchResult::best);
    const bool guest = result.engine != "bare";
    (row++)->push_back(guest ? fmt::format("{:.3f}", result.clock_ratio()) : "-");
    row->push_back(guest ? fmt::format("{:.1f} s", result.boot_seconds) : "-");
    for (auto& cells : rows) cells.resize(rows[0].size());
  }
  std::vector<std::size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) text += table_row(row, widths) + "\n";
  return text;
}

std::string bench_json(const BenchReport& report) {
  using nlohmann::json;
  const BenchResult* const bare = find_bare(report.results);
  json root = {{"format", "vert-bench"},
               {"version", 1},
               {"host", {{"processor", report.processor}, {"kernel", report.host_kernel}}},
               {"guest", {{"kernel", report.guest_kernel}, {"append", report.guest_append}}},
               {"engines", json::array()}};
  for (const BenchResult& result : report.results) {
    json engine = {{"name", result.engine}, {"measured", result.measured()}};
    if (!result.measured()) engine["why"] = result.failure;
    if (!result.command.empty()) engine["command"] = result.command;
    if (result.measured() && result.engine != "bare") {
      engine["boot_seconds"] = result.boot_seconds;
      engine["host_over_guest_clock"] = result.clock_ratio();
    }
    for (std::size_t program = 0; program < kBenchPrograms && result.measured(); ++program) {
      json entry = {{"name", kPrograms[program].name},
                    {"unit", kPrograms[program].unit},
                    {"count", result.counts[program]},
                    {"median_seconds", result.median(program)},
                    {"best_seconds", result.best(program)},
                    {"nanoseconds_per_unit", result.nanoseconds_per_unit(program, result.median(program))}};
      for (const BenchRow& row : result.seconds) entry["seconds"].push_back(row[program]);
      for (const BenchRow& row : result.host_seconds) entry["host_seconds"].push_back(row[program]);
      if (bare != nullptr) {
        entry["ratio_to_bare"] = result.ratio_to(*bare, program);
      }
      engine["programs"].push_back(std::move(entry));
    }
    root["engines"].push_back(std::move(engine));
  }
  return root.dump(2) + "\n";
}

}  // namespace vert::cli

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
  const BenchResult* const bare = find_bare(report.results);
  std::vector<std::vector<std::string>> rows = {{"median time of", "one"}};
  for (const BenchProgram& program : kPrograms) {
    rows.push_back({std::string(program.name), std::string(program.unit)});
  }
  rows.push_back({"clock", "host/guest"});
  rows.push_back({"boot", ""});
  for (const BenchResult& result : report.results) {
    if (!result.measured()) continue;
    const bool with_ratio = bare != nullptr && &result != bare;
    rows[0].push_back(result.engine);
    if (with_ratio) rows[0].emplace_back("/bare");
    for (std::size_t program = 0; program < kBenchPrograms; ++program) {
      const double time = result.nanoseconds_per_unit(program);
      rows[program + 1].push_back(format_time(time));
      if (with_ratio) rows[program + 1].push_back(format_ratio(time / bare->nanoseconds_per_unit(program)));
    }
    const bool guest = result.engine != "bare";
    rows[kBenchPrograms + 1].push_back(guest ? fmt::format("{:.3f}", result.clock_ratio()) : "-");
    rows[kBenchPrograms + 2].push_back(guest ? fmt::format("{:.1f} s", result.boot_seconds) : "-");
    if (with_ratio) rows[kBenchPrograms + 1].emplace_back();
    if (with_ratio) rows[kBenchPrograms + 2].emplace_back();
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
                    {"nanoseconds_per_unit", result.nanoseconds_per_unit(program)}};
      for (const BenchRow& row : result.seconds) entry["seconds"].push_back(row[program]);
      for (const BenchRow& row : result.host_seconds) entry["host_seconds"].push_back(row[program]);
      if (bare != nullptr) {
        entry["ratio_to_bare"] = result.nanoseconds_per_unit(program) / bare->nanoseconds_per_unit(program);
      }
      engine["programs"].push_back(std::move(entry));
    }
    root["engines"].push_back(std::move(engine));
  }
  return root.dump(2) + "\n";
}

}  // namespace vert::cli

// Counts and statistics of `vert bench`.
#include "cli/bench_plan.hpp"

#include <algorithm>
#include <map>

namespace vert::cli {
namespace {

std::vector<double> sorted_column(const std::vector<BenchRow>& rows, std::size_t program) {
  std::vector<double> column;
  for (const BenchRow& row : rows) column.push_back(row[program]);
  std::ranges::sort(column);
  return column;
}

double total(const std::vector<BenchRow>& rows) {
  double sum = 0;
  for (const BenchRow& row : rows) {
    for (const double seconds : row) sum += seconds;
  }
  return sum;
}

}  // namespace

BenchCounts bench_counts(std::string_view engine, bool full) {
  static const std::map<std::string_view, BenchCounts> kScaled = {
      {"bare", {1'000'000'000, 5'000'000, 10'000'000, 5'000}},
      {"kvm", {1'000'000'000, 5'000'000, 10'000'000, 2'000}},
      {"bt", {500'000'000, 5'000'000, 5'000'000, 1'000}},
      {"qemu", {200'000'000, 2'000'000, 2'000'000, 500}},
      {"interp", {10'000'000, 200'000, 400'000, 200}},
  };
  if (full) {
    return {kPrograms[0].full_count, kPrograms[1].full_count, kPrograms[2].full_count,
            kPrograms[3].full_count};
  }
  const auto counts = kScaled.find(engine);
  return counts == kScaled.end() ? kScaled.at("interp") : counts->second;
}

double BenchResult::median(std::size_t program) const {
  const std::vector<double> column = sorted_column(seconds, program);
  const std::size_t middle = column.size() / 2;
  return column.size() % 2 == 1 ? column[middle] : (column[middle - 1] + column[middle]) / 2;
}

double BenchResult::best(std::size_t program) const { return sorted_column(seconds, program).front(); }

double BenchResult::nanoseconds_per_unit(std::size_t program, double run_seconds) const {
  return run_seconds * 1e9 / static_cast<double>(counts[program]);
}

double BenchResult::ratio_to(const BenchResult& bare, std::size_t program) const {
  return nanoseconds_per_unit(program, median(program)) /
         bare.nanoseconds_per_unit(program, bare.median(program));
}

double BenchResult::clock_ratio() const { return total(host_seconds) / total(seconds); }

}  // namespace vert::cli

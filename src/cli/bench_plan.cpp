// Programs, counts and statistics of `vert bench`.
#include "cli/bench_plan.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <sstream>

#include "cli/text.hpp"

namespace vert::cli {
namespace {

/// bench/guest/NAME.c each.
constexpr auto kPrograms = std::to_array<BenchProgram>({
    {"sum", "turn", "a loop that adds, compiled without optimisation", 160'000'000},
    {"getppid", "call", "the cheapest system call", 4'000'000},
    {"gettimeofday", "call", "reading the clock", 16'000'000},
    {"forkwait", "fork", "making processes and waiting for them", 5'000},
    {"forkexec", "exec", "starting a small static program", 800},
    {"pipe", "round", "two processes that pass a byte to and fro", 130'000},
    {"pagefault", "fault", "first writes to fresh pages of 4 KiB", 250'000},
    {"memsweep", "sweep", "reading and writing 64 MiB in order", 40},
    {"chase", "load", "dependent loads at random in 16 MiB", 3'000'000},
    {"dgemm", "product", "multiplying matrices of doubles, with SSE2", 1'000},
    {"libm", "value", "sin, exp, sqrt and pow", 14'000'000},
    {"calls", "tree", "deep calls: Fibonacci numbers by recursion", 8'000},
    {"indirect", "call", "calls through a table in random order", 35'000'000},
    {"bytehash", "MiB", "FNV-1a over a buffer", 300},
    {"qsort", "sort", "the C library's qsort of 65536 integers", 50},
    {"filecopy", "round", "copying 64 small files and a large one in tmpfs", 160},
    {"bytecode", "sieve", "an interpreter of bytecode", 600},
    {"compiler", "pass", "parsing, folding and emitting code for formulas", 80},
    {"lz77", "pass", "packing 256 KiB with hash chains, and unpacking", 30},
    {"sha256", "block", "SHA-256 in plain C", 1'500'000},
    {"chacha20", "block", "ChaCha20 in plain C", 1'800'000},
    {"hashtable", "access", "a hash table of 2^17 places", 25'000'000},
    {"btree", "table", "a B-tree: 100000 inserts, searches and a scan", 12},
    {"strings", "mix", "the C library's memcpy, strlen, strchr, memcmp and more", 4'000'000},
    {"futex", "turn", "two threads that take turns: mutex and condition variables", 200'000},
    {"signals", "signal", "sending itself a signal and handling it", 250'000},
    {"jit", "function", "writing machine code and calling it", 40'000},
});

using LectureCounts = std::array<u64, kLecturePrograms>;

u64 lecture_count(std::size_t program, std::string_view engine, BenchScale scale) {
  static constexpr LectureCounts kFull = {5'000'000'000, 10'000'000, 10'000'000, 10'000};
  static const std::map<std::string_view, LectureCounts> kScaled = {
      {"bare", {1'000'000'000, 5'000'000, 10'000'000, 5'000}},
      {"kvm", {1'000'000'000, 5'000'000, 10'000'000, 2'000}},
      {"bt", {500'000'000, 5'000'000, 5'000'000, 1'000}},
      {"qemu", {200'000'000, 2'000'000, 2'000'000, 500}},
      {"interp", {10'000'000, 200'000, 400'000, 200}},
  };
  if (scale == BenchScale::lecture_full) return kFull[program];
  const auto counts = kScaled.find(engine);
  return (counts == kScaled.end() ? kScaled.at("interp") : counts->second)[program];
}

/// The same on all engines, so that what does not grow with the count weighs the same; but the reference
/// interpreter is made to be right, not fast.
u64 suite_count(const BenchProgram& program, std::string_view engine) {
  static constexpr u64 kReferenceShare = 20;
  return engine == "interp" ? std::max<u64>(program.count / kReferenceShare, 1) : program.count;
}

std::vector<double> column(const std::vector<BenchRow>& rows, std::size_t task) {
  std::vector<double> values;
  for (const BenchRow& row : rows) values.push_back(row[task]);
  return values;
}

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

Result<const BenchProgram*> find_program_of_suite(const std::string& name) {
  const auto found = std::ranges::find(kPrograms, name, &BenchProgram::name);
  if (found != kPrograms.end()) return &*found;
  std::vector<std::string> names;
  for (const BenchProgram& program : kPrograms) names.emplace_back(program.name);
  const auto hint = closest_match(name, names);
  return make_error("unknown program '{}'{}; 'vert bench --list' shows all", name,
                    hint ? fmt::format(", did you mean '{}'?", *hint) : "");
}

}  // namespace

std::span<const BenchProgram> bench_programs() { return kPrograms; }

bool is_core(const BenchProgram* program) { return program < kPrograms.data() + kCorePrograms; }

Result<std::vector<const BenchProgram*>> choose_programs(BenchScale scale, const std::string& only) {
  std::vector<const BenchProgram*> chosen;
  if (only.empty()) {
    const std::size_t count = scale == BenchScale::suite ? kPrograms.size() : kLecturePrograms;
    for (const BenchProgram& program : std::span(kPrograms).first(count)) chosen.push_back(&program);
    return chosen;
  }
  std::istringstream names(only);
  for (std::string name; std::getline(names, name, ',');) {
    VERT_ASSIGN(const BenchProgram* const program, find_program_of_suite(name));
    if (std::ranges::find(chosen, program) == chosen.end()) chosen.push_back(program);
  }
  std::ranges::sort(chosen);
  return chosen;
}

std::vector<BenchTask> bench_tasks(std::span<const BenchProgram* const> programs, std::string_view engine,
                                   BenchScale scale) {
  std::vector<BenchTask> tasks;
  for (const BenchProgram* const program : programs) {
    const auto index = static_cast<std::size_t>(program - kPrograms.data());
    const bool suite = scale == BenchScale::suite;
    tasks.push_back({program, suite ? suite_count(*program, engine) : lecture_count(index, engine, scale)});
  }
  return tasks;
}

Result<BenchOutput> parse_bench_output(const std::string& line) {
  std::istringstream words(line);
  std::string seconds;
  std::string rest;
  BenchOutput output;
  words >> seconds >> output.checksum;
  char* end = nullptr;
  output.seconds = std::strtod(seconds.c_str(), &end);
  if (seconds.empty() || *end != '\0' || !(output.seconds > 0) || output.checksum.empty() || words >> rest) {
    return make_error("'{}' is no time in seconds and checksum", line);
  }
  return output;
}

std::optional<BenchEvent> parse_bench_event(const std::string& line) {
  static constexpr std::string_view kMark = "vert-bench ";
  const auto mark = line.find(kMark);
  if (mark == std::string::npos) return std::nullopt;
  std::istringstream words(line.substr(mark + kMark.size()));
  BenchEvent event;
  words >> event.event >> event.what >> std::ws;
  std::getline(words, event.value);
  return event;
}

double median_of(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double BenchResult::median(std::size_t task) const { return median_of(column(seconds, task)); }

double BenchResult::best(std::size_t task) const { return std::ranges::min(column(seconds, task)); }

double BenchResult::nanoseconds_per_unit(std::size_t task, double run_seconds) const {
  return run_seconds * 1e9 / static_cast<double>(tasks[task].count);
}

double BenchResult::clock_ratio() const {
  std::vector<double> ratios;
  for (std::size_t task = 0; task < tasks.size(); ++task) {
    ratios.push_back(sum_of(column(host_seconds, task)) / sum_of(column(seconds, task)));
  }
  return median_of(std::move(ratios));
}

double bench_ratio(const BenchResult& result, const BenchResult& bare, std::size_t task,
                   BenchStatistic statistic) {
  return result.nanoseconds_per_unit(task, (result.*statistic)(task)) /
         bare.nanoseconds_per_unit(task, (bare.*statistic)(task));
}

std::optional<double> geometric_mean(std::span<const double> values) {
  if (values.empty()) return std::nullopt;
  double sum = 0;
  for (const double value : values) sum += std::log(value);
  return std::exp(sum / static_cast<double>(values.size()));
}

BenchMeans bench_means(const BenchResult& result, const BenchResult& bare, BenchStatistic statistic) {
  std::vector<double> core;
  std::vector<double> all;
  for (std::size_t task = 0; task < result.tasks.size(); ++task) {
    all.push_back(bench_ratio(result, bare, task, statistic));
    if (is_core(result.tasks[task].program)) core.push_back(all.back());
  }
  return {.core = core.size() == kCorePrograms ? geometric_mean(core) : std::nullopt,
          .all = geometric_mean(all)};
}

}  // namespace vert::cli

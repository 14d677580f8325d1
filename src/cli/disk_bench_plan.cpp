#include "cli/disk_bench_plan.hpp"

#include <algorithm>
#include <array>
#include <sstream>

#include <fmt/format.h>

#include "cli/bench_plan.hpp"
#include "cli/text.hpp"

namespace vert::cli {
namespace {

// fio's terse output, version 3: of reads and writes each, how many KiB in how many milliseconds.
constexpr const char* kTerseFields = "6,9,47,50";

constexpr const char* kScript = R"(say() { echo "vert-bench $*"; }
job() {
  name=$1
  shift
  say begin $name
  if result=$(fio --minimal --terse-version=3 --name=$name --filename='@FILE@' --size=@SIZE@ --direct=@DIRECT@ \
      --ioengine=libaio --time_based --runtime=@SECONDS@ --gtod_reduce=1 --norandommap --allow_file_create=0 --invalidate=0 "$@" 2>&1); then
    say end $name $(echo "$result" | grep '^3;' | cut -d ';' -f @FIELDS@)
  else
    say failed $name $(echo "$result" | tail -n 1)
  fi
}
)";

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  text.replace(text.find(what), what.size(), with);
  return text;
}

std::string fio_arguments(const DiskJob& job) {
  return fmt::format("--rw={}{} --bs={} --iodepth={}{}", job.random ? "rand" : "",
                     job.write ? "write" : "read", job.block_size(), job.depth,
                     job.synced ? " --fdatasync=1" : "");
}

std::string format_name(storage::Format format) { return format == storage::Format::kRaw ? "raw" : "qcow2"; }

}  // namespace

std::string DiskJob::name() const {
  return fmt::format("{}{}-{}{}", random ? "rand" : "seq", write ? "write" : "read", depth,
                     synced ? "-sync" : "");
}

std::vector<DiskJob> all_disk_jobs() {
  std::vector<DiskJob> jobs;
  const auto add = [&](bool write, bool synced) {
    for (const bool random : {false, true})
      for (const unsigned depth : {1U, 32U})
        jobs.push_back({.random = random, .write = write, .depth = depth, .synced = synced});
  };
  add(false, false);
  add(true, true);
  add(true, false);
  return jobs;
}

Result<std::vector<DiskJob>> choose_disk_jobs(const std::string& only) {
  std::vector<DiskJob> jobs = all_disk_jobs();
  if (only.empty()) return jobs;
  std::vector<std::string> known;
  for (const DiskJob& job : jobs) known.push_back(job.name());
  std::vector<std::string> chosen;
  std::istringstream names(only);
  for (std::string name; std::getline(names, name, ',');) {
    VERT_TRY(check_name("job", name, known));
    chosen.push_back(name);
  }
  std::erase_if(jobs,
                [&](const DiskJob& job) { return std::ranges::find(chosen, job.name()) == chosen.end(); });
  return jobs;
}

std::string disk_script(std::span<const DiskJob> jobs, const std::string& file, bool direct) {
  std::string script = kScript;
  script = replaced(script, "@FILE@", file);
  script = replaced(script, "@SIZE@", fmt::format("{}", kDiskDataSize));
  script = replaced(script, "@DIRECT@", direct ? "1" : "0");
  script = replaced(script, "@SECONDS@", fmt::format("{}", kDiskJobSeconds));
  script = replaced(script, "@FIELDS@", kTerseFields);
  for (const DiskJob& job : jobs) script += fmt::format("job {} {}\n", job.name(), fio_arguments(job));
  return script + "say done\n";
}

Result<double> parse_disk_output(const std::string& text) {
  std::istringstream fields(text);
  std::array<double, 4> numbers{};
  char separator = ';';
  for (double& number : numbers) {
    if (separator != ';' || !(fields >> number)) return make_error("'{}' is no result of fio's", text);
    if (!fields.get(separator)) separator = 0;
  }
  const double milliseconds = numbers[1] + numbers[3];
  const double kibibytes = numbers[0] + numbers[2];
  if (separator != 0 || !(milliseconds > 0) || !(kibibytes > 0))
    return make_error("'{}' is no result of fio's", text);
  return kibibytes * 1024 * 1000 / milliseconds;
}

std::string DiskResult::name() const { return format ? engine + " " + format_name(*format) : engine; }

double DiskResult::boot() const { return median_of(boot_seconds); }

double DiskResult::rate(std::size_t job) const {
  std::vector<double> values;
  for (const auto& row : rates) values.push_back(row[job]);
  return median_of(std::move(values));
}

std::vector<DiskResult> disk_setups(std::span<const std::string> engines) {
  std::vector<DiskResult> setups;
  for (const std::string& engine : engines) {
    if (engine == "bare") {
      setups.push_back({.engine = engine});
      continue;
    }
    for (const auto format : {storage::Format::kRaw, storage::Format::kQcow2})
      setups.push_back({.engine = engine, .format = format});
  }
  return setups;
}

}  // namespace vert::cli

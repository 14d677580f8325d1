#include "cli/disk_bench_report.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cli/bar_chart.hpp"
#include "cli/bench_report.hpp"
#include "cli/text.hpp"

namespace vert::cli {
namespace {

const DiskResult* find_measured(const DiskReport& report, std::string_view engine,
                                std::optional<storage::Format> format) {
  const auto found = std::ranges::find_if(report.results, [&](const DiskResult& result) {
    return result.engine == engine && result.format == format && result.measured();
  });
  return found == report.results.end() ? nullptr : &*found;
}

const DiskResult* find_bare(const DiskReport& report) { return find_measured(report, "bare", std::nullopt); }

/// QEMU with the same format, of one of vert's.
const DiskResult* find_qemu(const DiskReport& report, const DiskResult& result) {
  const bool own = result.engine != "bare" && result.engine != "qemu";
  return own ? find_measured(report, "qemu", result.format) : nullptr;
}

double time_ratio(const DiskResult& result, const DiskResult& bare, std::size_t job) {
  return bare.rate(job) / result.rate(job);
}

double speed_ratio(const DiskResult& result, const DiskResult& qemu, std::size_t job) {
  return result.rate(job) / qemu.rate(job);
}

double boot_speed_ratio(const DiskResult& result, const DiskResult& qemu) {
  return qemu.boot() / result.boot();
}

/// Operations at random, bytes in order.
std::string format_rate(const DiskJob& job, double rate) {
  return job.random ? fmt::format("{:.1f} k/s", rate / static_cast<double>(job.block_size()) / 1000)
                    : fmt::format("{:.0f} MiB/s", rate / (1 << 20));
}

using Rows = std::vector<std::vector<std::string>>;

void add_result(Rows& rows, const DiskReport& report, const DiskResult& result) {
  const DiskResult* const bare = &result == find_bare(report) ? nullptr : find_bare(report);
  const DiskResult* const qemu = find_qemu(report, result);
  rows.front().push_back(result.version.empty() ? result.name() : result.name() + " " + result.version);
  if (bare != nullptr) rows.front().emplace_back("/bare");
  if (qemu != nullptr) rows.front().emplace_back("qemu/");
  for (std::size_t job = 0; job < report.jobs.size(); ++job) {
    auto& row = rows[job + 1];
    row.push_back(format_rate(report.jobs[job], result.rate(job)));
    if (bare != nullptr) row.push_back(format_ratio(time_ratio(result, *bare, job)));
    if (qemu != nullptr) row.push_back(format_ratio(speed_ratio(result, *qemu, job)));
  }
  auto& boot = rows.back();
  boot.push_back(result.boot_seconds.empty() ? "-" : fmt::format("{:.1f} s", result.boot()));
  if (bare != nullptr) boot.emplace_back("-");
  if (qemu != nullptr) boot.push_back(format_ratio(boot_speed_ratio(result, *qemu)));
}

nlohmann::json job_json(const DiskReport& report, const DiskResult& result, std::size_t job) {
  nlohmann::json entry = {{"name", report.jobs[job].name()},
                          {"block_size", report.jobs[job].block_size()},
                          {"median_bytes_per_second", result.rate(job)}};
  for (const auto& row : result.rates) entry["bytes_per_second"].push_back(row[job]);
  const DiskResult* const bare = find_bare(report);
  const DiskResult* const qemu = find_qemu(report, result);
  if (bare != nullptr) entry["time_over_bare"] = time_ratio(result, *bare, job);
  if (qemu != nullptr) entry["speed_over_qemu"] = speed_ratio(result, *qemu, job);
  return entry;
}

nlohmann::json result_json(const DiskReport& report, const DiskResult& result) {
  nlohmann::json entry = {{"name", result.name()}, {"measured", result.measured()}};
  if (!result.version.empty()) entry["version"] = result.version;
  if (!result.command.empty()) entry["command"] = result.command;
  if (!result.measured()) {
    entry["why"] = result.failure;
    return entry;
  }
  if (!result.boot_seconds.empty()) {
    entry["boot_seconds"] = result.boot_seconds;
    if (const DiskResult* const qemu = find_qemu(report, result); qemu != nullptr)
      entry["boot_speed_over_qemu"] = boot_speed_ratio(result, *qemu);
  }
  for (std::size_t job = 0; job < report.jobs.size(); ++job)
    entry["jobs"].push_back(job_json(report, result, job));
  return entry;
}

constexpr const char* kCaption =
    R"(Medians of the rounds. seq: 1 MiB in order; rand: 4 KiB at random, thousands a second; then the queue depth;
sync: fdatasync after each write. boot: until the login prompt. /bare: time over bare metal's; qemu/: times as
fast as QEMU with the same format.
fio with libaio on 512 MiB that lie in the host's page cache: in the guests with direct=1 on a virtio disk with
cache=writeback (QEMU's with aio=io_uring); on bare metal with direct=0 on the raw file, as the hypervisors do.
)";

}  // namespace

std::string disk_table(const DiskReport& report) {
  Rows rows = {{"job"}};
  for (const DiskJob& job : report.jobs) rows.push_back({job.name()});
  rows.push_back({"boot"});
  for (const DiskResult& result : report.results)
    if (result.measured()) add_result(rows, report, result);
  return format_table(rows) + "\n" + kCaption;
}

std::string disk_json(const DiskReport& report) {
  nlohmann::json root = {{"format", "vert-bench-disk"},
                         {"version", 1},
                         {"host", {{"processor", report.processor}, {"kernel", report.host_kernel}}},
                         {"guest", {{"append", report.guest_append}}},
                         {"results", nlohmann::json::array()}};
  for (const DiskResult& result : report.results) root["results"].push_back(result_json(report, result));
  return root.dump(2) + "\n";
}

std::string disk_svg(const DiskReport& report) {
  const DiskResult* const bare = find_bare(report);
  std::vector<BarSeries> series;
  std::vector<BarGroup> groups;
  for (const DiskJob& job : report.jobs) groups.push_back({.label = job.name(), .ratios = {}});
  for (const DiskResult& result : report.results) {
    if (bare == nullptr || &result == bare || !result.measured()) continue;
    series.push_back({.name = result.name(), .engine = result.engine});
    for (std::size_t job = 0; job < report.jobs.size(); ++job)
      groups[job].ratios.emplace_back(time_ratio(result, *bare, job));
  }
  return bar_chart_svg(series, series.empty() ? std::vector<BarGroup>{} : groups);
}

}  // namespace vert::cli

// The results of `vert bench --disk` as text, JSON and a chart. Pure.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cli/disk_bench_plan.hpp"

namespace vert::cli {

struct DiskReport {
  std::string processor;
  std::string host_kernel;
  std::string guest_append;
  std::vector<DiskJob> jobs;
  std::span<const DiskResult> results;
};

/// A line a job and one for the boot; for each result its throughput, the time that it needs over bare
/// metal's, and of vert's own, how many times as fast as QEMU with the same format it is. A caption follows.
[[nodiscard]] std::string disk_table(const DiskReport& report);
[[nodiscard]] std::string disk_json(const DiskReport& report);
[[nodiscard]] std::string disk_svg(const DiskReport& report);

}  // namespace vert::cli

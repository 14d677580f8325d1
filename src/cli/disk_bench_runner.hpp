// Runs fio on bare metal and in virtual machines that boot a Debian from its disk. Main thread.
#pragma once

#include <string>
#include <vector>

#include "cli/bench_runner.hpp"
#include "cli/disk_bench_plan.hpp"

namespace vert::cli {

inline constexpr std::string_view kDiskBenchAppend = "console=ttyS0 quiet";

/// All setups take turns in each of `rounds`. One that fails says so in its result, and is left out of the
/// rounds that follow. Error: what all of them need cannot be had.
[[nodiscard]] Result<std::vector<DiskResult>> run_disk_bench(std::vector<DiskResult> setups,
                                                             const std::vector<DiskJob>& jobs,
                                                             unsigned rounds, BenchProgress& progress);

}  // namespace vert::cli

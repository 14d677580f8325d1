// What `vert bench --disk` measures: fio's patterns on a disk, who runs them, and what came out. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"
#include "storage/image.hpp"

namespace vert::cli {

/// One run of fio: 1 MiB in order, or 4 KiB at random.
struct DiskJob {
  bool random = false;
  bool write = false;
  unsigned depth = 1;   // requests in flight
  bool synced = false;  // fdatasync(2) after each write

  bool operator==(const DiskJob&) const = default;
  /// "randwrite-32-sync".
  [[nodiscard]] std::string name() const;
  [[nodiscard]] u64 block_size() const { return random ? 4096 : 1 << 20; }
};

inline constexpr u64 kDiskDataSize = u64{512} << 20;
inline constexpr unsigned kDiskJobSeconds = 2;

/// All, those that leave unwritten data behind at the end.
[[nodiscard]] std::vector<DiskJob> all_disk_jobs();
/// Those of a comma-separated list of names, in the order of all; all if it is empty.
[[nodiscard]] Result<std::vector<DiskJob>> choose_disk_jobs(const std::string& only);

/// A shell script that runs the jobs on a file or a disk, and tells of each by lines for
/// parse_bench_event(): "begin JOB", then "end JOB RESULT" or "failed JOB ERROR", and at last "done".
[[nodiscard]] std::string disk_script(std::span<const DiskJob> jobs, const std::string& file, bool direct);
/// The RESULT of a line, in bytes a second.
[[nodiscard]] Result<double> parse_disk_output(const std::string& text);

/// Who runs the jobs on what, and what came out.
struct DiskResult {
  std::string engine{};                     // bare, qemu, or one of vert's
  std::optional<storage::Format> format{};  // none on bare metal
  std::string version{};                    // of what is not vert's own
  std::string failure{};                    // not empty: not measured; says why
  bool skipped = false;
  std::string command{};                     // what was run, for the record
  std::vector<double> boot_seconds{};        // to the login prompt, one a round; none on bare metal
  std::vector<std::vector<double>> rates{};  // bytes a second of the jobs, a row a round

  /// "bt qcow2".
  [[nodiscard]] std::string name() const;
  [[nodiscard]] bool measured() const { return failure.empty(); }
  [[nodiscard]] double boot() const;
  /// The median of a job's rounds.
  [[nodiscard]] double rate(std::size_t job) const;
};

/// Bare metal once, and each engine with each format.
[[nodiscard]] std::vector<DiskResult> disk_setups(std::span<const std::string> engines);

}  // namespace vert::cli

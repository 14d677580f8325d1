// Checks a qcow2 image: whether each cluster's refcount is the number of references to it. Repairs it.
#pragma once

#include <string>
#include <vector>

#include "storage/qcow2/qcow2_image.hpp"

namespace vert::storage::qcow2 {

enum class Repair : u8 { kNone, kLeaks, kAll };

struct CheckResult {
  // Before the repair.
  u64 corruptions = 0;
  u64 leaks = 0;
  u64 corruptions_fixed = 0;
  u64 leaks_fixed = 0;
  /// One line each, of the first kMaxProblems.
  static constexpr std::size_t kMaxProblems = 50;
  std::vector<std::string> problems;

  u64 total_clusters = 0;  // of the disk
  u64 allocated_clusters = 0;
  u64 compressed_clusters = 0;
  u64 fragmented_clusters = 0;  // that do not follow their neighbour
  u64 image_end = 0;            // of the file, in bytes: where the last cluster in use ends
};

/// With no requests under way. To repair, the image is open for writing (OpenOptions::repair). Error: it
/// could not be read or written, or is too large.
[[nodiscard]] Task<Result<CheckResult>> check(Qcow2Image& image, Repair repair);
/// After a crash with lazy refcounts.
[[nodiscard]] Task<Status> repair_refcounts(Qcow2Image& image);

}  // namespace vert::storage::qcow2

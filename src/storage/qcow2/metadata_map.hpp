// Which clusters of the image file hold metadata: the guest's data must never be written to one of them,
// whatever a forged table says.
//
// On the image's thread.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "base/types.hpp"

namespace vert::storage::qcow2 {

class MetadataMap {
 public:
  enum class Part : u8 {
    kHeader,
    kL1Table,
    kL2Table,
    kRefcountTable,
    kRefcountBlock,
    kSnapshotTable,
    kSnapshotL1Table,
    kSnapshotL2Table,
  };
  [[nodiscard]] static std::string_view name_of(Part part);

  /// For many: to be followed by finish().
  void append(Part part, u64 cluster, u64 count = 1);
  /// Two parts that lie on each other; snapshots may share L2 tables with the disk.
  struct Overlap {
    u64 cluster = 0;
    Part one = Part::kHeader;
    Part other = Part::kHeader;
  };
  [[nodiscard]] std::optional<Overlap> finish();

  void insert(Part part, u64 cluster, u64 count = 1);
  void remove(u64 cluster, u64 count = 1);
  /// The first part that lies in those clusters.
  [[nodiscard]] std::optional<Part> find(u64 cluster, u64 count = 1) const;

 private:
  static constexpr unsigned kPartBits = 4;
  [[nodiscard]] static u64 pack(Part part, u64 cluster) {
    return cluster << kPartBits | static_cast<u64>(part);
  }
  std::vector<u64> packed_;  // sorted
};

}  // namespace vert::storage::qcow2

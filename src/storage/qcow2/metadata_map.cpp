#include "storage/qcow2/metadata_map.hpp"

#include <algorithm>

namespace vert::storage::qcow2 {

std::string_view MetadataMap::name_of(Part part) {
  switch (part) {
    case Part::kHeader: return "header";
    case Part::kL1Table: return "L1 table";
    case Part::kL2Table: return "L2 table";
    case Part::kRefcountTable: return "refcount table";
    case Part::kRefcountBlock: return "refcount block";
    case Part::kSnapshotTable: return "snapshot table";
    case Part::kSnapshotL1Table: return "snapshot's L1 table";
    case Part::kSnapshotL2Table: break;
  }
  return "snapshot's L2 table";
}

void MetadataMap::append(Part part, u64 cluster, u64 count) {
  for (u64 i = 0; i < count; ++i) packed_.push_back(pack(part, cluster + i));
}

std::optional<MetadataMap::Overlap> MetadataMap::finish() {
  std::ranges::sort(packed_);
  std::optional<Overlap> overlap;
  const auto part_of = [](u64 packed) { return static_cast<Part>(packed & ((1U << kPartBits) - 1)); };
  std::vector<u64> kept;
  kept.reserve(packed_.size());
  for (const u64 packed : packed_) {
    if (kept.empty() || kept.back() >> kPartBits != packed >> kPartBits) {
      kept.push_back(packed);
    } else if (part_of(packed) != Part::kSnapshotL2Table ||
               (part_of(kept.back()) != Part::kL2Table && part_of(kept.back()) != Part::kSnapshotL2Table)) {
      overlap = Overlap{packed >> kPartBits, part_of(kept.back()), part_of(packed)};
    }
  }
  packed_ = std::move(kept);
  return overlap;
}

void MetadataMap::insert(Part part, u64 cluster, u64 count) {
  for (u64 i = 0; i < count; ++i) {
    const auto place = std::ranges::lower_bound(packed_, pack(Part::kHeader, cluster + i));
    if (place != packed_.end() && *place >> kPartBits == cluster + i)
      *place = pack(part, cluster + i);
    else
      packed_.insert(place, pack(part, cluster + i));
  }
}

void MetadataMap::remove(u64 cluster, u64 count) {
  const auto first = std::ranges::lower_bound(packed_, pack(Part::kHeader, cluster));
  const auto last = std::ranges::lower_bound(packed_, pack(Part::kHeader, cluster + count));
  packed_.erase(first, last);
}

std::optional<MetadataMap::Part> MetadataMap::find(u64 cluster, u64 count) const {
  const auto place = std::ranges::lower_bound(packed_, pack(Part::kHeader, cluster));
  if (place == packed_.end() || *place >> kPartBits >= cluster + count) return std::nullopt;
  return static_cast<Part>(*place & ((1U << kPartBits) - 1));
}

}  // namespace vert::storage::qcow2

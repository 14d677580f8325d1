// How a qcow2 image looks on disk, after docs/interop/qcow2.txt in QEMU's sources: numbers, limits, entries.
#pragma once

#include <bit>
#include <cstring>

#include "base/types.hpp"

namespace vert::storage::qcow2 {

inline constexpr u32 kMagic = 0x514649FB;
inline constexpr u64 kSectorSize = 512;

// Header features.
inline constexpr u64 kIncompatibleDirty = 1U << 0;
inline constexpr u64 kIncompatibleCorrupt = 1U << 1;
inline constexpr u64 kIncompatibleDataFile = 1U << 2;
inline constexpr u64 kIncompatibleCompression = 1U << 3;
inline constexpr u64 kIncompatibleExtendedL2 = 1U << 4;
inline constexpr u64 kCompatibleLazyRefcounts = 1U << 0;
inline constexpr u64 kAutoclearBitmaps = 1U << 0;

// Entries of L1 and L2 tables.
inline constexpr u64 kOffsetMask = 0x00FF'FFFF'FFFF'FE00;
inline constexpr u64 kCopied = u64{1} << 63;
inline constexpr u64 kCompressedFlag = u64{1} << 62;
inline constexpr u64 kZeroFlag = 1;
inline constexpr u64 kSubclusters = 32;

// Limits, the same as QEMU's.
inline constexpr unsigned kMinClusterBits = 9;
inline constexpr unsigned kMaxClusterBits = 21;
inline constexpr u64 kMaxL1Bytes = 32 << 20;
inline constexpr u64 kMaxRefcountTableBytes = 8 << 20;
inline constexpr u64 kMaxSnapshots = 65536;
inline constexpr u64 kMaxSnapshotExtra = 1024;
inline constexpr u64 kMaxSnapshotTableBytes = 64 << 20;
inline constexpr u64 kMaxBackingName = 1023;
/// What an L1 or L2 entry can point at.
inline constexpr u64 kMaxHostOffset = u64{1} << 56;

enum class CompressionType : u8 { kZlib = 0, kZstd = 1 };

template <typename T>
[[nodiscard]] T load_be(const u8* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return std::byteswap(value);
}
template <typename T>
void store_be(u8* to, T value) {
  value = std::byteswap(value);
  std::memcpy(to, &value, sizeof value);
}

/// The sizes that follow from a header.
struct Geometry {
  u32 version = 3;
  unsigned cluster_bits = 16;
  unsigned refcount_order = 4;
  bool extended_l2 = false;

  [[nodiscard]] u64 cluster_size() const { return u64{1} << cluster_bits; }
  [[nodiscard]] u64 in_cluster(u64 offset) const { return offset & (cluster_size() - 1); }
  [[nodiscard]] u64 cluster_start(u64 offset) const { return offset & ~(cluster_size() - 1); }
  /// How many clusters that many bytes take.
  [[nodiscard]] u64 clusters(u64 bytes) const {
    return (bytes >> cluster_bits) + (in_cluster(bytes) != 0 ? 1 : 0);
  }
  [[nodiscard]] u64 l2_entry_size() const { return extended_l2 ? 16 : 8; }
  [[nodiscard]] u64 l2_entries() const { return cluster_size() / l2_entry_size(); }
  /// How much of the disk one L2 table describes.
  [[nodiscard]] u64 l2_reach() const { return l2_entries() << cluster_bits; }
  [[nodiscard]] u64 l1_entries(u64 disk_size) const {
    return disk_size / l2_reach() + (disk_size % l2_reach() != 0 ? 1 : 0);
  }
  [[nodiscard]] unsigned refcount_bits() const { return 1U << refcount_order; }
  [[nodiscard]] u64 refcounts_per_block() const { return (cluster_size() * 8) >> refcount_order; }
  [[nodiscard]] u64 max_refcount() const {
    return refcount_order == 6 ? ~u64{0} : (u64{1} << refcount_bits()) - 1;
  }
  /// The bits of a compressed cluster's descriptor that are its offset.
  [[nodiscard]] unsigned compressed_offset_bits() const { return 62 - (cluster_bits - 8); }
};

/// Where compressed data lies. It may end anywhere in its last sector.
struct CompressedPlace {
  u64 offset = 0;
  u64 length = 0;
};

[[nodiscard]] inline CompressedPlace compressed_place(const Geometry& geometry, u64 entry) {
  const unsigned bits = geometry.compressed_offset_bits();
  const u64 offset = entry & ((u64{1} << bits) - 1);
  const u64 sectors = ((entry & ~(kCopied | kCompressedFlag)) >> bits) + 1;
  return {offset, sectors * kSectorSize - offset % kSectorSize};
}

}  // namespace vert::storage::qcow2

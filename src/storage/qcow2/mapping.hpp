// Where the guest's clusters are: the L1 table, which is in memory as a whole, and L2 tables, in pieces.
//
// Owned by the image's Store. Looking up needs no lock; all changes happen under the Store's.
#pragma once

#include <optional>
#include <set>
#include <vector>

#include "storage/qcow2/header.hpp"
#include "storage/qcow2/table_cache.hpp"

namespace vert::storage::qcow2 {

enum class Kind : u8 {
  kUnallocated,    // what the backing image has
  kZero,           // zeroes, without space in the file
  kZeroAllocated,  // zeroes, with space that is not used
  kData,
  kCompressed,
};

/// A range of the disk that is alike, and in a row in the file.
struct Run {
  Kind kind = Kind::kUnallocated;
  bool copied = false;  // only this disk uses it: it can be written in place
  u64 host = 0;         // in the file, of the range's first byte
  u64 entry = 0;        // of a compressed cluster
  u64 length = 0;
};

class Mapping {
 public:
  Mapping(ImageFile& file, const Geometry& geometry);

  /// Reads the L1 table.
  [[nodiscard]] Task<Status> load(u64 l1_offset, u64 entries);
  [[nodiscard]] const std::vector<u64>& l1() const { return l1_; }

  /// What is at `guest`, up to `length` bytes and the end of what is in memory; none if nothing is.
  [[nodiscard]] std::optional<Result<Run>> find(u64 guest, u64 length);
  /// Where all of a range is, if it is data in a row and the L2 table is in memory: the usual case.
  struct Data {
    u64 host = 0;
    bool copied = false;
  };
  [[nodiscard]] std::optional<Data> find_data(u64 guest, u64 length);
  /// The same as find(), read if need be.
  [[nodiscard]] Task<Result<Run>> look_up(u64 guest, u64 length);

  /// The L2 entry of the cluster at `guest`, 0 if there is no table.
  [[nodiscard]] Task<Result<u64>> entry(u64 guest);
  /// Of a cluster whose L2 table only this disk uses.
  [[nodiscard]] Task<Status> set_entry(u64 guest, u64 entry);
  [[nodiscard]] u64 l1_index(u64 guest) const { return guest / geometry_.l2_reach(); }
  void set_l1_entry(u64 index, u64 entry);
  /// For another disk size, or a snapshot's table; on the disk already.
  void replace_l1(std::vector<u64> l1, u64 offset);
  /// The cluster belongs to somebody else now: nothing of it is remembered.
  void forget(u64 offset) { cache_.drop(offset, geometry_.cluster_size()); }

  [[nodiscard]] bool is_dirty() const { return cache_.dirty_count() != 0 || !dirty_l1_.empty(); }
  /// Whether so much is to be written that it should be.
  [[nodiscard]] bool is_full() const { return cache_.dirty_count() * 2 > kCacheBytes / cache_.piece_size(); }
  /// L2 tables and the L1 table, in any order. Whatever they name is on the disk.
  [[nodiscard]] Task<Status> write_back();

 private:
  static constexpr u64 kCacheBytes = 32 << 20;

  struct Place {
    u64 piece = 0;  // its offset in the file
    u64 index = 0;  // of the entry in it
  };
  [[nodiscard]] Place place_of(u64 table, u64 guest) const;
  [[nodiscard]] Result<u64> l2_table(u64 guest) const;
  [[nodiscard]] Result<Run> run_in(const TableCache::Piece& piece, u64 guest, u64 length) const;
  [[nodiscard]] Result<Run> decode(const TableCache::Piece& piece, u64 index, u64 guest) const;
  [[nodiscard]] u64 unit() const {
    return geometry_.cluster_size() / (geometry_.extended_l2 ? kSubclusters : 1);
  }

  ImageFile& file_;
  const Geometry geometry_;
  TableCache cache_;
  std::vector<u64> l1_;
  u64 l1_offset_ = 0;
  std::set<u64> dirty_l1_;  // sectors of the table
};

}  // namespace vert::storage::qcow2

// How often each cluster of the image file is used: the refcount table, its blocks, and what is free.
//
// Owned by the image's Store, whose lock is held for all calls. In memory a count is never below the number
// of references that the tables on the disk or in memory have, so it can be written at any time, and is
// written before a table that has a new reference.
#pragma once

#include <cerrno>
#include <vector>

#include "storage/qcow2/header.hpp"
#include "storage/qcow2/metadata_map.hpp"
#include "storage/qcow2/table_cache.hpp"

namespace vert::storage::qcow2 {

/// An error with the errno value that the guest's request fails with.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> failure(int error, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{fmt::format(format, std::forward<Args>(args)...), error});
}
/// An image that contradicts itself: the error's system_error is EUCLEAN, which the image turns into EIO.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> corruption(fmt::format_string<Args...> format, Args&&... args) {
  return failure(EUCLEAN, format, std::forward<Args>(args)...);
}

[[nodiscard]] u64 load_refcount(const u8* block, unsigned order, u64 index);
void store_refcount(u8* block, unsigned order, u64 index, u64 count);

/// Writes what may have changed in the header: atomic, since it lies in one sector.
[[nodiscard]] Task<Status> write_header(ImageFile& file, const Header& header);
/// `bytes` is copied before this returns for the first time.
[[nodiscard]] Task<Status> write_bytes(ImageFile& file, u64 offset, std::vector<u8> bytes);
[[nodiscard]] Task<Status> read_bytes(ImageFile& file, u64 offset, std::span<u8> bytes);

class Refcounts {
 public:
  Refcounts(ImageFile& file, Header& header, MetadataMap& metadata);

  /// Reads the table.
  [[nodiscard]] Task<Status> load();
  [[nodiscard]] const std::vector<u64>& table() const { return table_; }

  [[nodiscard]] Task<Result<u64>> get(u64 cluster);
  /// One more or less; gives the new count.
  [[nodiscard]] Task<Result<u64>> add(u64 cluster, i64 delta);
  /// To what a check has found; the cluster's block exists.
  [[nodiscard]] Task<Status> set(u64 cluster, u64 count);

  struct Run {
    u64 cluster = 0;
    u64 count = 0;
    bool fresh = false;  // never written to: reads as zeroes
  };
  /// At least one cluster, at most `count` in a row, each with a count of 1 now.
  [[nodiscard]] Task<Result<Run>> allocate(u64 count);
  /// All of them in a row.
  [[nodiscard]] Task<Result<Run>> allocate_together(u64 count);

  [[nodiscard]] bool is_dirty() const { return cache_.dirty_count() != 0 || table_is_dirty(); }
  /// The blocks, then the table.
  [[nodiscard]] Task<Status> write_back();
  /// The cluster belongs to somebody else now: nothing of it is remembered.
  void forget(u64 cluster);
  /// The first cluster behind all that were ever used.
  [[nodiscard]] u64 end() const { return end_; }
  /// After the file was cut at its end.
  void set_end(u64 end);
  /// A whole new structure of counts, which replaces this one; see rebuild() in check.cpp.
  [[nodiscard]] Task<Status> reload();

 private:
  [[nodiscard]] u64 block_index(u64 cluster) const {
    return cluster / header_.geometry.refcounts_per_block();
  }
  [[nodiscard]] bool is_covered(u64 cluster) const {
    return block_index(cluster) < table_.size() && table_[block_index(cluster)] != 0;
  }
  [[nodiscard]] bool table_is_dirty() const { return first_dirty_ < last_dirty_; }
  void set_table_entry(u64 index, u64 offset);
  [[nodiscard]] Task<Result<TableCache::Piece*>> piece_for(u64 cluster);
  [[nodiscard]] u64 index_in_piece(u64 cluster) const;
  [[nodiscard]] Task<Result<u64>> find_free(u64 limit);
  [[nodiscard]] Task<Result<u64>> find_end();
  [[nodiscard]] Task<Result<bool>> are_free(u64 cluster, u64 count);
  [[nodiscard]] std::vector<u64> missing_blocks(u64 cluster, u64 count) const;
  [[nodiscard]] Task<Status> add_blocks(std::vector<u64> indexes, u64 place);
  [[nodiscard]] Task<Status> take(u64 cluster, u64 count);
  [[nodiscard]] Task<Status> grow_table(u64 entries);
  [[nodiscard]] Task<Status> move_table(u64 start, u64 clusters);
  [[nodiscard]] Task<Status> shrink_table(u64 entries);

  ImageFile& file_;
  Header& header_;
  MetadataMap& metadata_;
  TableCache cache_;
  std::vector<u64> table_;
  u64 first_dirty_ = ~u64{0};  // entries of the table
  u64 last_dirty_ = 0;         // behind the last one
  u64 scan_ = 0;               // no free cluster is below, but for those that were skipped
  u64 end_ = 0;
};

}  // namespace vert::storage::qcow2

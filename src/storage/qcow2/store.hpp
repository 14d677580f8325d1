// An open qcow2 file: its header and tables, and the order in which they are written.
//
// Owned by a Qcow2Image. Whatever changes tables or counts holds `lock`; ARCHITECTURE.md says why the order
// of writes is safe.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "storage/qcow2/mapping.hpp"
#include "storage/qcow2/metadata_map.hpp"
#include "storage/qcow2/refcounts.hpp"
#include "storage/qcow2/requests.hpp"
#include "storage/qcow2/snapshot_table.hpp"

namespace vert::storage::qcow2 {

struct Store {
  Store(std::unique_ptr<ImageFile> image_file, const Header& image_header);

  /// Reads the tables. Error: one of them cannot be right.
  [[nodiscard]] Task<Status> load();
  /// Finds out where metadata is; needed before anything is written. Error: two parts overlap.
  [[nodiscard]] Task<Status> map_metadata();

  [[nodiscard]] const Geometry& geometry() const { return header.geometry; }
  [[nodiscard]] bool has_lazy_refcounts() const {
    return geometry().version >= 3 && (header.compatible & kCompatibleLazyRefcounts) != 0;
  }

  // Under `lock`.

  /// To be called before counts change: marks an image with lazy refcounts as dirty.
  [[nodiscard]] Task<Status> begin_changes();
  /// Space for the guest's data: no metadata, and no place that a forged table has written to right now.
  [[nodiscard]] Task<Result<Refcounts::Run>> allocate(u64 count);
  /// Space that no table has named yet is free again at once.
  [[nodiscard]] Task<Status> give_back(Refcounts::Run run);
  /// An L2 table for `guest` that only this disk uses.
  [[nodiscard]] Task<Status> own_l2_table(u64 guest);
  /// One reference less, once the tables on the disk do not have it any more and no request is at it.
  void release(u64 cluster);
  /// The same for whatever an L2 entry refers to.
  void release_entry(u64 entry);
  [[nodiscard]] bool has_much_to_write() const {
    return mapping.is_full() || released_.size() > kMaxReleased;
  }
  /// Everything is on the disk then, in an order that is right at any moment.
  [[nodiscard]] Task<Status> sync();
  /// What was released is free, as far as requests allow. The tables on the disk do not name it any more.
  [[nodiscard]] Task<Status> free_released();
  /// The same as sync(), and the dirty bit goes. With no requests under way.
  [[nodiscard]] Task<Status> settle();

  /// No more writes to the image: `why` is what they get. Gives the error for the guest.
  [[nodiscard]] Task<Error> mark_corrupt(Error why);
  [[nodiscard]] Task<Status> update_header(Header changed);

  std::unique_ptr<ImageFile> file;
  Header header;
  MetadataMap metadata;
  Refcounts refcounts;
  Mapping mapping;
  std::vector<Snapshot> snapshots;
  Requests requests;
  Mutex lock;
  std::optional<Error> broken;  // why nothing is written any more
  u64 compressed_end = 0;       // where the next compressed cluster may begin, behind another one
  u64 frees = 0;                // how often clusters became free, so that they may hold something else

 private:
  static constexpr std::size_t kMaxReleased = 1 << 16;
  struct Released {
    u64 cluster = 0;
    u64 stamp = 0;  // requests from this one on cannot be at it
  };
  [[nodiscard]] Task<Status> append_snapshot_tables();

  std::deque<Released> released_;
};

/// An L1 table that is not the disk's own.
[[nodiscard]] Task<Result<std::vector<u64>>> read_l1(ImageFile& file, u64 offset, u64 entries);
[[nodiscard]] std::vector<u8> encode_l1(const std::vector<u64>& l1);

}  // namespace vert::storage::qcow2

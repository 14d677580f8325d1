// Growing and shrinking a qcow2 disk, and preallocation.
#include <algorithm>

#include "storage/qcow2/qcow2_image.hpp"

namespace vert::storage::qcow2 {

Task<Status> Qcow2Image::resize(u64 size) {
  Requests::Exclusion exclusion(store_.requests);
  while (!exclusion.try_enter()) co_await store_.requests.changed();
  VERT_CO_TRY(check_writable());
  co_return co_await settle_failure(
      co_await resize_alone((size + kSectorSize - 1) / kSectorSize * kSectorSize));
}

Task<Status> Qcow2Image::resize_alone(u64 size) {
  const std::string& path = store_.file->path();
  if (size == size_) co_return Status{};
  if (!store_.snapshots.empty() && (geometry().version == 2 || size < size_))
    co_return make_error("'{}' has snapshots, so it cannot be {}; delete them first", path,
                         size < size_ ? "shrunk" : "resized");
  const u64 entries = geometry().l1_entries(size);
  if (size > u64{1} << 62 || entries * 8 > kMaxL1Bytes)
    co_return make_error("a qcow2 image with clusters of {} bytes cannot have {} bytes",
                         geometry().cluster_size(), size);
  const u64 before = size_;
  if (size < before) {
    const u64 first = geometry().clusters(size) << geometry().cluster_bits;
    if (first < before) VERT_CO_TRY(co_await change_clusters(first, before - first, Change::kUnmap));
    // Nothing is left in the last cluster to reappear when the disk grows again.
    if (size < std::min(first, before))
      VERT_CO_TRY(co_await zero_bytes(size, std::min(first, before) - size));
    VERT_CO_TRY(co_await store_.sync());
  } else {
    VERT_CO_TRY(co_await grow_l1(entries));
  }
  Header changed = store_.header;
  changed.size = size;
  if (size > before) {
    // Neither what a larger backing image has may appear, nor what lies behind the end in the last cluster.
    size_ = size;
    const u64 cluster_end = std::min(size, geometry().clusters(before) << geometry().cluster_bits);
    const u64 zero_end = std::max(cluster_end, before + backed(before, size - before));
    auto status = co_await zero_range(before, zero_end - before, true);
    if (status) status = co_await store_.sync();
    if (!status) {
      size_ = before;
      co_return status;
    }
  }
  size_ = size;
  VERT_CO_TRY(co_await store_.update_header(std::move(changed)));
  if (size < before) co_return co_await cut_file();
  co_return Status{};
}

/// A larger L1 table, in a new place; the header names both its place and its size.
Task<Status> Qcow2Image::grow_l1(u64 entries) {
  if (entries <= store_.header.l1_entries) co_return Status{};
  const auto guard = co_await store_.lock.lock();
  VERT_CO_TRY(co_await store_.sync());
  VERT_CO_TRY(co_await store_.begin_changes());
  const u64 bytes = entries * 8;
  VERT_CO_ASSIGN(const auto run, co_await store_.refcounts.allocate_together(geometry().clusters(bytes)));
  std::vector<u64> l1 = store_.mapping.l1();
  l1.resize(entries);
  const u64 offset = run.cluster << geometry().cluster_bits;
  const Header before = store_.header;
  Header changed = before;
  changed.l1_offset = offset;
  changed.l1_entries = static_cast<u32>(entries);
  auto status = co_await write_bytes(*store_.file, offset, encode_l1(l1));
  if (status) status = co_await store_.sync();
  if (status) status = co_await write_header(*store_.file, changed);
  if (!status) {
    VERT_CO_TRY(co_await store_.give_back(run));
    co_return status;
  }
  store_.header = changed;
  store_.mapping.replace_l1(std::move(l1), offset);
  store_.metadata.insert(MetadataMap::Part::kL1Table, run.cluster, run.count);
  VERT_CO_TRY(co_await store_.file->flush());
  const u64 old = geometry().clusters(u64{before.l1_entries} * 8);
  for (u64 i = 0; i < old; ++i) store_.release((before.l1_offset >> geometry().cluster_bits) + i);
  co_return co_await store_.sync();
}

/// Gives free clusters at the file's end back to the host.
Task<Status> Qcow2Image::cut_file() {
  VERT_CO_TRY(co_await store_.sync());
  u64 end = store_.refcounts.end();
  while (end > 1) {
    VERT_CO_ASSIGN(const u64 count, co_await store_.refcounts.get(end - 1));
    if (count != 0) break;
    --end;
  }
  VERT_CO_ASSIGN(const u64 size, store_.file->size());
  if (end << geometry().cluster_bits >= size) co_return Status{};
  VERT_CO_TRY(store_.file->set_size(end << geometry().cluster_bits));
  store_.refcounts.set_end(end);
  co_return Status{};
}

Task<Status> Qcow2Image::preallocate() {
  Requests::Exclusion exclusion(store_.requests);
  while (!exclusion.try_enter()) co_await store_.requests.changed();
  VERT_CO_TRY(check_writable());
  u64 end = 0;
  for (u64 guest = 0; guest < size_;) {
    const u64 reach = geometry().l2_reach();
    const u64 length =
        std::min({size_ - guest, reach - guest % reach, u64{kSectorSize} << geometry().cluster_bits});
    VERT_CO_ASSIGN(const Run run, co_await store_.mapping.look_up(guest, length));
    if (run.kind == Kind::kUnallocated) {
      VERT_CO_ASSIGN(const Place place, co_await find_place(run, guest, run.length));
      VERT_CO_TRY(co_await link(place, guest));
      end = std::max(end, (place.run.cluster + place.run.count) << geometry().cluster_bits);
      guest = std::min(size_, guest + (place.run.count << geometry().cluster_bits));
    } else {
      guest += run.length;
    }
  }
  VERT_CO_ASSIGN(const u64 size, store_.file->size());
  if (size < end) VERT_CO_TRY(store_.file->set_size(end));
  co_return co_await store_.settle();
}

}  // namespace vert::storage::qcow2

#include "storage/qcow2/snapshots.hpp"

#include <time.h>

#include <algorithm>
#include <charconv>

namespace vert::storage::qcow2 {
namespace {

constexpr std::size_t kMaxName = 255;

std::string next_id(const std::vector<Snapshot>& snapshots) {
  u64 last = 0;
  for (const Snapshot& snapshot : snapshots) {
    u64 id = 0;
    std::from_chars(snapshot.id.data(), snapshot.id.data() + snapshot.id.size(), id);
    last = std::max(last, id);
  }
  return std::to_string(last + 1);
}

/// One change of the snapshots, under the store's lock.
class Change {
 public:
  explicit Change(Store& store) : store_(store) {}

  /// To be called first: nothing is only in memory any more, and the image counts as dirty.
  Task<Status> begin() {
    VERT_CO_TRY(co_await store_.sync());
    if (geometry().version < 3 || (store_.header.incompatible & kIncompatibleDirty) != 0) co_return Status{};
    Header changed = store_.header;
    changed.incompatible |= kIncompatibleDirty;
    co_return co_await store_.update_header(std::move(changed));
  }

  /// One reference more to all that an L1 table names, or an error and no change.
  Task<Status> add_references(std::vector<u64> l1) {
    VERT_CO_TRY(check_once(l1));
    u64 added = 0;
    auto status = co_await add_to_all(l1, added);
    if (status) co_return status;
    VERT_CO_TRY(co_await take_back(l1, added));
    co_return status;
  }

  /// One reference less, and what has none is free.
  Task<Status> drop_references(std::vector<u64> l1) {
    VERT_CO_TRY(check_once(l1));
    for (const u64 entry : l1) {
      if ((entry & kOffsetMask) == 0) continue;
      VERT_CO_ASSIGN(const auto table, co_await read_table(entry));
      for (const u64 each : table) store_.release_entry(each);
      store_.release((entry & kOffsetMask) >> geometry().cluster_bits);
      VERT_CO_TRY(co_await store_.free_released());
    }
    co_return Status{};
  }

  /// Lets the disk's tables say which clusters have just one reference.
  Task<Status> mark_copied() {
    for (u64 index = 0; index < store_.mapping.l1().size(); ++index) {
      const u64 entry = store_.mapping.l1()[index];
      if ((entry & kOffsetMask) == 0) continue;
      VERT_CO_ASSIGN(const u64 right, co_await with_copied(entry));
      if (right != entry) store_.mapping.set_l1_entry(index, right);
      const auto extent = store_.file->extent(entry & kOffsetMask, geometry().cluster_size());
      if (!extent.data && extent.length == geometry().cluster_size()) continue;
      for (u64 i = 0; i < geometry().l2_entries(); ++i) {
        const u64 guest = index * geometry().l2_reach() + (i << geometry().cluster_bits);
        VERT_CO_ASSIGN(const u64 old, co_await store_.mapping.entry(guest));
        if ((old & kCompressedFlag) != 0 || (old & kOffsetMask) == 0) continue;
        VERT_CO_ASSIGN(const u64 next, co_await with_copied(old));
        if (next != old) VERT_CO_TRY(co_await store_.mapping.set_entry(guest, next));
      }
      if (store_.has_much_to_write()) VERT_CO_TRY(co_await store_.sync());
    }
    co_return Status{};
  }

  /// A table in a place of its own.
  Task<Result<u64>> write_table(std::vector<u8> bytes, MetadataMap::Part part) {
    VERT_CO_ASSIGN(const auto run,
                   co_await store_.refcounts.allocate_together(geometry().clusters(bytes.size())));
    const u64 offset = run.cluster << geometry().cluster_bits;
    auto status = co_await write_bytes(*store_.file, offset, std::move(bytes));
    if (!status) {
      VERT_CO_TRY(co_await store_.give_back(run));
      co_return std::unexpected(std::move(status).error());
    }
    store_.metadata.insert(part, run.cluster, run.count);
    co_return offset;
  }
  void release_table(u64 offset, u64 bytes) {
    for (u64 i = 0; i < geometry().clusters(bytes); ++i)
      store_.release((offset >> geometry().cluster_bits) + i);
  }

  /// Writes the list of snapshots, and lets the header name it, and whatever else `changed` has.
  Task<Status> replace_list(std::vector<Snapshot> snapshots, Header changed) {
    const u64 old_size = encode_snapshots(store_.snapshots).size();
    const u64 old_offset = store_.header.snapshots_offset;
    std::vector<u8> bytes = encode_snapshots(snapshots);
    changed.snapshots = static_cast<u32>(snapshots.size());
    changed.snapshots_offset = 0;
    if (!bytes.empty()) {
      VERT_CO_ASSIGN(changed.snapshots_offset,
                     co_await write_table(std::move(bytes), MetadataMap::Part::kSnapshotTable));
    }
    VERT_CO_TRY(co_await store_.sync());
    VERT_CO_TRY(co_await store_.update_header(std::move(changed)));
    if (old_size != 0) release_table(old_offset, old_size);
    store_.snapshots = std::move(snapshots);
    co_return Status{};
  }

 private:
  [[nodiscard]] const Geometry& geometry() const { return store_.geometry(); }

  /// A forged table that names one L2 table again and again would keep us busy for ever.
  Status check_once(const std::vector<u64>& l1) const {
    std::vector<u64> tables;
    for (const u64 entry : l1)
      if ((entry & kOffsetMask) != 0) tables.push_back(entry & kOffsetMask);
    std::ranges::sort(tables);
    if (std::ranges::adjacent_find(tables) == tables.end()) return {};
    return corruption("'{}' is corrupt: an L1 table names the same L2 table twice", store_.file->path());
  }

  Task<Result<std::vector<u64>>> read_table(u64 l1_entry) {
    const u64 offset = l1_entry & kOffsetMask;
    if (geometry().in_cluster(offset) != 0)
      co_return corruption("'{}' is corrupt: an L2 table does not start at a cluster ({:#x})",
                           store_.file->path(), offset);
    const auto extent = store_.file->extent(offset, geometry().cluster_size());
    const bool is_hole = !extent.data && extent.length == geometry().cluster_size();
    VERT_CO_ASSIGN(auto table, co_await read_l1(*store_.file, offset, is_hole ? 0 : geometry().l2_entries()));
    co_return table;
  }

  /// The clusters of an L2 entry.
  [[nodiscard]] Refcounts::Run clusters_of(u64 entry) const {
    const unsigned bits = geometry().cluster_bits;
    if ((entry & kCompressedFlag) != 0) {
      const auto place = compressed_place(geometry(), entry);
      const u64 first = place.offset >> bits;
      return {first, ((place.offset + place.length - 1) >> bits) - first + 1, false};
    }
    return {(entry & kOffsetMask) >> bits, (entry & kOffsetMask) != 0 ? u64{1} : u64{0}, false};
  }

  Task<Status> add_to_all(const std::vector<u64>& l1, u64& added) {
    for (const u64 entry : l1) {
      if ((entry & kOffsetMask) == 0) continue;
      VERT_CO_TRY(co_await add_one((entry & kOffsetMask) >> geometry().cluster_bits, added));
      VERT_CO_ASSIGN(const auto table, co_await read_table(entry));
      for (const u64 each : table) {
        const auto run = clusters_of(each);
        for (u64 i = 0; i < run.count; ++i) VERT_CO_TRY(co_await add_one(run.cluster + i, added));
      }
    }
    co_return Status{};
  }
  Task<Status> add_one(u64 cluster, u64& added) {
    VERT_CO_ASSIGN(const u64 now, co_await store_.refcounts.get(cluster));
    if (now == 0)
      co_return corruption("'{}' is corrupt: cluster {:#x} is used, and its refcount is 0",
                           store_.file->path(), cluster << geometry().cluster_bits);
    auto count = co_await store_.refcounts.add(cluster, 1);
    if (!count) co_return std::unexpected(std::move(count).error());
    ++added;
    co_return Status{};
  }
  Task<Status> take_back(const std::vector<u64>& l1, u64 added) {
    for (const u64 entry : l1) {
      if ((entry & kOffsetMask) == 0) continue;
      if (added-- == 0) co_return Status{};
      VERT_CO_TRY(co_await remove_one((entry & kOffsetMask) >> geometry().cluster_bits));
      VERT_CO_ASSIGN(const auto table, co_await read_table(entry));
      for (const u64 each : table) {
        const auto run = clusters_of(each);
        for (u64 i = 0; i < run.count; ++i) {
          if (added-- == 0) co_return Status{};
          VERT_CO_TRY(co_await remove_one(run.cluster + i));
        }
      }
    }
    co_return Status{};
  }
  Task<Status> remove_one(u64 cluster) {
    auto count = co_await store_.refcounts.add(cluster, -1);
    if (!count) co_return std::unexpected(std::move(count).error());
    co_return Status{};
  }

  Task<Result<u64>> with_copied(u64 entry) {
    VERT_CO_ASSIGN(const u64 count,
                   co_await store_.refcounts.get((entry & kOffsetMask) >> geometry().cluster_bits));
    co_return (entry & ~kCopied) | (count == 1 ? kCopied : 0);
  }

  Store& store_;
};

Status check_name(const Store& store, const std::string& name) {
  if (name.empty() || name.size() > kMaxName)
    return make_error("a snapshot's name has 1 to {} bytes", kMaxName);
  if (std::ranges::count(store.snapshots, name, &Snapshot::name) != 0)
    return make_error("'{}' already has a snapshot '{}'", store.file->path(), name);
  if (store.snapshots.size() >= kMaxSnapshots)
    return make_error("'{}' has too many snapshots", store.file->path());
  return {};
}

Result<Snapshot> existing(const Store& store, const std::string& which) {
  const Snapshot* const snapshot = find_snapshot(store.snapshots, which);
  if (snapshot != nullptr) return *snapshot;
  return make_error("'{}' has no snapshot '{}'", store.file->path(), which);
}

Task<Status> create(Qcow2Image& image, std::string name) {
  Store& store = image.store();
  VERT_CO_TRY(check_name(store, name));
  Change change(store);
  VERT_CO_TRY(co_await change.begin());
  VERT_CO_TRY(co_await change.add_references(store.mapping.l1()));
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  Snapshot snapshot;
  snapshot.l1_entries = static_cast<u32>(store.mapping.l1().size());
  snapshot.id = next_id(store.snapshots);
  snapshot.name = name;
  snapshot.seconds = static_cast<u32>(now.tv_sec);
  snapshot.nanoseconds = static_cast<u32>(now.tv_nsec);
  snapshot.disk_size = image.size();
  VERT_CO_ASSIGN(snapshot.l1_offset, co_await change.write_table(encode_l1(store.mapping.l1()),
                                                                 MetadataMap::Part::kSnapshotL1Table));
  VERT_CO_TRY(co_await change.mark_copied());
  auto snapshots = store.snapshots;
  snapshots.push_back(std::move(snapshot));
  VERT_CO_TRY(co_await change.replace_list(std::move(snapshots), store.header));
  co_return co_await store.settle();
}

Task<Status> apply(Qcow2Image& image, std::string which) {
  Store& store = image.store();
  VERT_CO_ASSIGN(const Snapshot snapshot, existing(store, which));
  const std::vector<u64> old = store.mapping.l1();
  VERT_CO_ASSIGN(auto l1, co_await read_l1(*store.file, snapshot.l1_offset, snapshot.l1_entries));
  Change change(store);
  VERT_CO_TRY(co_await change.begin());
  VERT_CO_TRY(co_await change.add_references(l1));
  VERT_CO_ASSIGN(const u64 offset, co_await change.write_table(encode_l1(l1), MetadataMap::Part::kL1Table));
  VERT_CO_TRY(co_await store.sync());
  Header changed = store.header;
  changed.l1_offset = offset;
  changed.l1_entries = snapshot.l1_entries;
  changed.size = snapshot.disk_size / kSectorSize * kSectorSize;
  const u64 old_offset = store.header.l1_offset;
  VERT_CO_TRY(co_await store.update_header(std::move(changed)));
  store.mapping.replace_l1(std::move(l1), offset);
  image.set_size(store.header.size);
  VERT_CO_TRY(co_await change.drop_references(old));
  change.release_table(old_offset, old.size() * 8);
  VERT_CO_TRY(co_await store.free_released());
  VERT_CO_TRY(co_await change.mark_copied());
  co_return co_await store.settle();
}

Task<Status> remove(Qcow2Image& image, std::string which) {
  Store& store = image.store();
  VERT_CO_ASSIGN(const Snapshot snapshot, existing(store, which));
  VERT_CO_ASSIGN(auto l1, co_await read_l1(*store.file, snapshot.l1_offset, snapshot.l1_entries));
  Change change(store);
  VERT_CO_TRY(co_await change.begin());
  auto snapshots = store.snapshots;
  std::erase_if(snapshots, [&](const Snapshot& other) { return other.id == snapshot.id; });
  VERT_CO_TRY(co_await change.replace_list(std::move(snapshots), store.header));
  VERT_CO_TRY(co_await change.drop_references(std::move(l1)));
  change.release_table(snapshot.l1_offset, u64{snapshot.l1_entries} * 8);
  VERT_CO_TRY(co_await store.free_released());
  VERT_CO_TRY(co_await change.mark_copied());
  co_return co_await store.settle();
}

/// Runs one of the above alone.
Task<Status> run_alone(Qcow2Image& image, Task<Status> (*change)(Qcow2Image&, std::string),
                       std::string name) {
  Store& store = image.store();
  Requests::Exclusion exclusion(store.requests);
  while (!exclusion.try_enter()) co_await store.requests.changed();
  if (image.read_only()) co_return make_error("'{}' is open for reading only", store.file->path());
  if (store.broken) co_return std::unexpected(*store.broken);
  const auto guard = co_await store.lock.lock();
  auto status = co_await change(image, std::move(name));
  if (status || status.error().system_error != EUCLEAN) co_return status;
  co_return std::unexpected(co_await store.mark_corrupt(std::move(status).error()));
}

}  // namespace

Task<Status> create_snapshot(Qcow2Image& image, std::string name) {
  return run_alone(image, &create, std::move(name));
}
Task<Status> apply_snapshot(Qcow2Image& image, std::string which) {
  return run_alone(image, &apply, std::move(which));
}
Task<Status> delete_snapshot(Qcow2Image& image, std::string which) {
  return run_alone(image, &remove, std::move(which));
}

}  // namespace vert::storage::qcow2

#include "storage/qcow2/store.hpp"

#include <algorithm>

namespace vert::storage::qcow2 {
namespace {

/// How many entries the L1 tables of all snapshots may have for an image that is written to.
constexpr u64 kMaxSnapshotL1Entries = 16 << 20;

}  // namespace

Task<Result<std::vector<u64>>> read_l1(ImageFile& file, u64 offset, u64 entries) {
  std::vector<u8> raw(entries * 8);
  VERT_CO_TRY(co_await read_bytes(file, offset, raw));
  std::vector<u64> l1(entries);
  for (std::size_t i = 0; i < entries; ++i) l1[i] = load_be<u64>(raw.data() + i * 8);
  co_return l1;
}

std::vector<u8> encode_l1(const std::vector<u64>& l1) {
  std::vector<u8> raw(l1.size() * 8);
  for (std::size_t i = 0; i < l1.size(); ++i) store_be<u64>(raw.data() + i * 8, l1[i]);
  return raw;
}

Store::Store(std::unique_ptr<ImageFile> image_file, const Header& image_header)
    : file(std::move(image_file)),
      header(image_header),
      refcounts(*file, header, metadata),
      mapping(*file, header.geometry) {}

Task<Status> Store::load() {
  VERT_CO_TRY(co_await refcounts.load());
  VERT_CO_TRY(co_await mapping.load(header.l1_offset, header.l1_entries));
  VERT_CO_ASSIGN(snapshots, co_await read_snapshots(*file, header));
  co_return Status{};
}

Task<Status> Store::append_snapshot_tables() {
  using Part = MetadataMap::Part;
  u64 entries = 0;
  for (const Snapshot& snapshot : snapshots) {
    entries += snapshot.l1_entries;
    if (entries > kMaxSnapshotL1Entries)
      co_return make_error("'{}': the L1 tables of its snapshots are too large to write to it", file->path());
    metadata.append(Part::kSnapshotL1Table, snapshot.l1_offset >> geometry().cluster_bits,
                    geometry().clusters(u64{snapshot.l1_entries} * 8));
    VERT_CO_ASSIGN(const auto l1, co_await read_l1(*file, snapshot.l1_offset, snapshot.l1_entries));
    for (const u64 entry : l1)
      if ((entry & kOffsetMask) != 0)
        metadata.append(Part::kSnapshotL2Table, (entry & kOffsetMask) >> geometry().cluster_bits);
  }
  co_return Status{};
}

Task<Status> Store::map_metadata() {
  using Part = MetadataMap::Part;
  const unsigned bits = geometry().cluster_bits;
  metadata = {};
  metadata.append(Part::kHeader, 0);
  metadata.append(Part::kL1Table, header.l1_offset >> bits, geometry().clusters(u64{header.l1_entries} * 8));
  metadata.append(Part::kRefcountTable, header.refcount_table_offset >> bits, header.refcount_table_clusters);
  for (const u64 block : refcounts.table())
    if (block != 0) metadata.append(Part::kRefcountBlock, block >> bits);
  for (const u64 entry : mapping.l1())
    if ((entry & kOffsetMask) != 0) metadata.append(Part::kL2Table, (entry & kOffsetMask) >> bits);
  if (!snapshots.empty())
    metadata.append(Part::kSnapshotTable, header.snapshots_offset >> bits,
                    geometry().clusters(encode_snapshots(snapshots).size()));
  VERT_CO_TRY(co_await append_snapshot_tables());
  if (const auto overlap = metadata.finish())
    co_return corruption("'{}' is corrupt: a {} and a {} lie at the same place ({:#x})", file->path(),
                         MetadataMap::name_of(overlap->one), MetadataMap::name_of(overlap->other),
                         overlap->cluster << bits);
  co_return Status{};
}

Task<Status> Store::update_header(Header changed) {
  VERT_CO_TRY(co_await write_header(*file, changed));
  header = std::move(changed);
  co_return co_await file->flush();
}

Task<Status> Store::begin_changes() {
  if (!has_lazy_refcounts() || (header.incompatible & kIncompatibleDirty) != 0) co_return Status{};
  Header changed = header;
  changed.incompatible |= kIncompatibleDirty;
  co_return co_await update_header(std::move(changed));
}

Task<Result<Refcounts::Run>> Store::allocate(u64 count) {
  VERT_CO_TRY(co_await begin_changes());
  VERT_CO_ASSIGN(const auto run, co_await refcounts.allocate(count));
  const unsigned bits = geometry().cluster_bits;
  if (((run.cluster + run.count) << bits) > kMaxHostOffset) {
    VERT_CO_TRY(co_await give_back(run));
    co_return failure(EFBIG, "'{}' has reached the largest size that qcow2 has", file->path());
  }
  if (requests.is_written(run.cluster << bits, run.count << bits))
    co_return corruption("'{}' is corrupt: data at {:#x} counts as free", file->path(), run.cluster << bits);
  co_return run;
}

Task<Status> Store::give_back(Refcounts::Run run) {
  for (u64 i = 0; i < run.count; ++i) {
    auto count = co_await refcounts.add(run.cluster + i, -1);
    if (!count) co_return std::unexpected(std::move(count).error());
  }
  co_return Status{};
}

Task<Status> Store::own_l2_table(u64 guest) {
  const u64 index = mapping.l1_index(guest);
  const u64 old = mapping.l1()[index];
  if ((old & kOffsetMask) != 0 && (old & kCopied) != 0) co_return Status{};
  std::vector<u8> table(geometry().cluster_size());
  if ((old & kOffsetMask) != 0) VERT_CO_TRY(co_await read_bytes(*file, old & kOffsetMask, table));
  VERT_CO_ASSIGN(const auto run, co_await allocate(1));
  const u64 offset = run.cluster << geometry().cluster_bits;
  auto status = co_await write_bytes(*file, offset, std::move(table));
  if (!status) {
    VERT_CO_TRY(co_await give_back(run));
    co_return status;
  }
  mapping.forget(offset);
  metadata.insert(MetadataMap::Part::kL2Table, run.cluster);
  mapping.set_l1_entry(index, offset | kCopied);
  if ((old & kOffsetMask) != 0) release((old & kOffsetMask) >> geometry().cluster_bits);
  co_return Status{};
}

void Store::release(u64 cluster) { released_.push_back({cluster, requests.next()}); }

void Store::release_entry(u64 entry) {
  const unsigned bits = geometry().cluster_bits;
  if ((entry & kCompressedFlag) != 0) {
    const auto place = compressed_place(geometry(), entry);
    for (u64 at = place.offset >> bits; at <= (place.offset + place.length - 1) >> bits; ++at) release(at);
  } else if ((entry & kOffsetMask) != 0) {
    release((entry & kOffsetMask) >> bits);
  }
}

Task<Status> Store::free_released() {
  const unsigned bits = geometry().cluster_bits;
  const u64 oldest = requests.oldest();
  u64 first = 0;
  u64 last = 0;
  ++frees;
  while (!released_.empty() && released_.front().stamp <= oldest) {
    const u64 cluster = released_.front().cluster;
    released_.pop_front();
    VERT_CO_ASSIGN(const u64 count, co_await refcounts.add(cluster, -1));
    if (count != 0) continue;
    metadata.remove(cluster);
    mapping.forget(cluster << bits);
    refcounts.forget(cluster);
    if (cluster == compressed_end >> bits) compressed_end = 0;
    if (cluster != last) {
      // The space goes back to the host where it can; nothing depends on that.
      if (first != last) static_cast<void>(co_await file->punch_hole(first << bits, (last - first) << bits));
      first = cluster;
    }
    last = cluster + 1;
  }
  if (first != last) static_cast<void>(co_await file->punch_hole(first << bits, (last - first) << bits));
  co_return Status{};
}

Task<Status> Store::sync() {
  if (mapping.is_dirty() || refcounts.is_dirty()) {
    const bool writes_counts = (header.incompatible & kIncompatibleDirty) == 0;
    if (writes_counts) VERT_CO_TRY(co_await refcounts.write_back());
    if (mapping.is_dirty()) {
      VERT_CO_TRY(co_await file->flush());
      VERT_CO_TRY(co_await mapping.write_back());
    }
  }
  VERT_CO_TRY(co_await file->flush());
  if (released_.empty()) co_return Status{};
  VERT_CO_TRY(co_await free_released());
  if ((header.incompatible & kIncompatibleDirty) == 0) VERT_CO_TRY(co_await refcounts.write_back());
  co_return Status{};
}

Task<Status> Store::settle() {
  VERT_CO_TRY(co_await sync());
  VERT_CO_TRY(co_await refcounts.write_back());
  VERT_CO_TRY(co_await file->flush());
  if ((header.incompatible & kIncompatibleDirty) == 0) co_return Status{};
  Header changed = header;
  changed.incompatible &= ~kIncompatibleDirty;
  co_return co_await update_header(std::move(changed));
}

Task<Error> Store::mark_corrupt(Error why) {
  why.system_error = EIO;
  if (broken || file->read_only()) co_return why;
  broken = Error{why.message + "; see 'vert image check'", EIO};
  if (geometry().version >= 3) {
    Header changed = header;
    changed.incompatible |= kIncompatibleCorrupt;
    static_cast<void>(co_await update_header(std::move(changed)));
  }
  co_return *broken;
}

}  // namespace vert::storage::qcow2

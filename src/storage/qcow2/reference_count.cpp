#include "storage/qcow2/reference_count.hpp"

#include <algorithm>

namespace vert::storage::qcow2 {
namespace {

/// 1 GiB of counts, which take memory only where there are references.
constexpr u64 kMaxClusters = 1 << 28;
constexpr u64 kMaxBitmapBytes = 64 << 20;

}  // namespace

Result<std::unique_ptr<ReferenceCount>> ReferenceCount::make(Store& store, Report report) {
  VERT_ASSIGN(const u64 size, store.file->size());
  const u64 clusters = store.geometry().clusters(size);
  if (clusters > kMaxClusters)
    return make_error("'{}' is too large to check: it has {} clusters", store.file->path(), clusters);
  auto* const counts = static_cast<u32*>(std::calloc(clusters, sizeof(u32)));
  if (counts == nullptr)
    return make_system_error(ENOMEM, fmt::format("cannot check '{}'", store.file->path()));
  return std::unique_ptr<ReferenceCount>(new ReferenceCount(store, std::move(report), clusters, counts));
}

void ReferenceCount::count(u64 offset, u64 length, i64 weight, const char* what) {
  const unsigned bits = store_.geometry().cluster_bits;
  const u64 first = offset >> bits;
  const u64 last = (offset + length - 1) >> bits;
  if (last >= clusters_ || last < first) {
    if (weight > 0) report_(fmt::format("{} at {:#x} lies behind the file's end", what, offset));
    return;
  }
  for (u64 i = first; i <= last; ++i)
    counts_[i] = static_cast<u32>(std::clamp<i64>(counts_[i] + weight, 0, ~u32{0}));
}

void ReferenceCount::count_refcounts(i64 weight) {
  const Geometry& geometry = store_.geometry();
  count(store_.header.refcount_table_offset,
        u64{store_.header.refcount_table_clusters} << geometry.cluster_bits, weight, "the refcount table");
  for (const u64 block : store_.refcounts.table()) {
    if (block == 0) continue;
    if (geometry.in_cluster(block) != 0) {
      if (weight > 0) report_(fmt::format("a refcount block at {:#x} does not start at a cluster", block));
      continue;
    }
    count(block, geometry.cluster_size(), weight, "a refcount block");
  }
}

Task<Status> ReferenceCount::count_all() {
  const Header& header = store_.header;
  count(0, store_.geometry().cluster_size(), 1, "the header");
  count_refcounts(1);
  if (header.l1_entries != 0) count(header.l1_offset, u64{header.l1_entries} * 8, 1, "the L1 table");
  if (!store_.snapshots.empty())
    count(header.snapshots_offset, encode_snapshots(store_.snapshots).size(), 1, "the snapshot table");
  std::vector<Table> tables;
  add_l1(store_.mapping.l1(), true, tables);
  std::vector<u64> seen;
  for (const Snapshot& snapshot : store_.snapshots) {
    if (snapshot.l1_entries == 0) continue;
    count(snapshot.l1_offset, u64{snapshot.l1_entries} * 8, 1, "a snapshot's L1 table");
    // Snapshots that share a table would let the work grow without bounds.
    if (std::ranges::count(seen, snapshot.l1_offset) != 0) {
      report_(fmt::format("the L1 table of snapshot {} is another snapshot's, too", printable(snapshot.id)));
      continue;
    }
    seen.push_back(snapshot.l1_offset);
    VERT_CO_ASSIGN(const auto l1, co_await read_l1(*store_.file, snapshot.l1_offset, snapshot.l1_entries));
    add_l1(l1, false, tables);
  }
  std::ranges::sort(tables, {}, &Table::offset);
  for (std::size_t i = 0; i < tables.size();) {
    Table table = tables[i];
    for (++i; i < tables.size() && tables[i].offset == table.offset; ++i) {
      table.references += tables[i].references;
      table.is_disks |= tables[i].is_disks;
    }
    VERT_CO_TRY(co_await count_l2(table));
  }
  co_return co_await count_bitmaps();
}

void ReferenceCount::add_l1(const std::vector<u64>& l1, bool is_disks, std::vector<Table>& tables) {
  for (const u64 entry : l1) {
    const u64 offset = entry & kOffsetMask;
    if (offset == 0) continue;
    if (store_.geometry().in_cluster(offset) != 0)
      report_(fmt::format("an L2 table at {:#x} does not start at a cluster", offset));
    else
      tables.push_back({offset, 1, is_disks});
  }
}

Task<Status> ReferenceCount::count_l2(Table table) {
  const Geometry& geometry = store_.geometry();
  count(table.offset, geometry.cluster_size(), static_cast<i64>(table.references), "an L2 table");
  if (table.offset >> geometry.cluster_bits >= clusters_) co_return Status{};
  const auto extent = store_.file->extent(table.offset, geometry.cluster_size());
  if (!extent.data && extent.length == geometry.cluster_size()) co_return Status{};
  std::vector<u8> raw(geometry.cluster_size());
  VERT_CO_TRY(co_await read_bytes(*store_.file, table.offset, raw));
  u64 next = 0;
  for (u64 at = 0; at < raw.size(); at += geometry.l2_entry_size()) count_entry(raw.data() + at, table, next);
  co_return Status{};
}

/// `next` is where the neighbour's data ends.
void ReferenceCount::count_entry(const u8* raw, const Table& table, u64& next) {
  const Geometry& geometry = store_.geometry();
  const auto entry = load_be<u64>(raw);
  const u64 host = entry & kOffsetMask;
  const auto weight = static_cast<i64>(table.references);
  if ((entry & kCompressedFlag) != 0) {
    const auto place = compressed_place(geometry, entry);
    if (table.is_disks && (entry & kCopied) != 0)
      report_(
          fmt::format("a compressed cluster at {:#x} claims that it can be written in place", place.offset));
    count(place.offset, place.length, weight, "a compressed cluster");
    if (table.is_disks) {
      ++usage_.allocated;
      ++usage_.compressed;
      ++usage_.fragmented;
    }
    return;
  }
  if (geometry.extended_l2) {
    const auto bitmap = load_be<u64>(raw + 8);
    if ((bitmap >> kSubclusters & bitmap & 0xFFFF'FFFF) != 0 || (host == 0 && (bitmap & 0xFFFF'FFFF) != 0))
      report_(fmt::format("an L2 entry in the table at {:#x} contradicts itself", table.offset));
  } else if ((entry & kZeroFlag) != 0 && geometry.version == 2) {
    report_(fmt::format("the table at {:#x} has zero clusters, which version 2 does not have", table.offset));
  }
  if (host == 0) return;
  if (geometry.in_cluster(host) != 0) {
    report_(fmt::format("an L2 entry names {:#x}, which is no cluster", host));
    return;
  }
  count(host, geometry.cluster_size(), weight, "data");
  if (!table.is_disks) return;
  ++usage_.allocated;
  if (next != 0 && host != next) ++usage_.fragmented;
  next = host + geometry.cluster_size();
}

/// Dirty bitmaps that QEMU keeps in an image; vert leaves them alone until it writes.
Task<Status> ReferenceCount::count_bitmaps() {
  const Header& header = store_.header;
  if ((header.autoclear & kAutoclearBitmaps) == 0 || !header.bitmaps || header.bitmaps->size() < 24)
    co_return Status{};
  const auto directory_size = load_be<u64>(header.bitmaps->data() + 8);
  const auto directory = load_be<u64>(header.bitmaps->data() + 16);
  VERT_CO_ASSIGN(const u64 file_size, store_.file->size());
  if (directory > file_size || directory_size > std::min(kMaxBitmapBytes, file_size - directory)) {
    report_("the directory of bitmaps lies behind the file's end");
    co_return Status{};
  }
  if (directory_size == 0) co_return Status{};
  count(directory, directory_size, 1, "the directory of bitmaps");
  std::vector<u8> raw(directory_size);
  VERT_CO_TRY(co_await read_bytes(*store_.file, directory, raw));
  for (u64 at = 0; at + 24 <= raw.size();) {
    const auto offset = load_be<u64>(raw.data() + at);
    const u64 entries = load_be<u32>(raw.data() + at + 8);
    const u64 names = load_be<u16>(raw.data() + at + 18) + u64{load_be<u32>(raw.data() + at + 20)};
    at += (24 + names + 7) / 8 * 8;
    if (entries == 0) continue;
    if (offset > file_size || entries * 8 > std::min(kMaxBitmapBytes, file_size - offset)) {
      report_("a bitmap's table lies behind the file's end");
      continue;
    }
    count(offset, entries * 8, 1, "a bitmap's table");
    std::vector<u8> table(entries * 8);
    VERT_CO_TRY(co_await read_bytes(*store_.file, offset, table));
    for (u64 i = 0; i < entries; ++i) {
      const u64 data = load_be<u64>(table.data() + i * 8) & kOffsetMask;
      if (data != 0) count(data, store_.geometry().cluster_size(), 1, "a bitmap");
    }
  }
  co_return Status{};
}

}  // namespace vert::storage::qcow2

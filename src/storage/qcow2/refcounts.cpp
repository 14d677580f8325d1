#include "storage/qcow2/refcounts.hpp"

#include <algorithm>

namespace vert::storage::qcow2 {
namespace {

constexpr u64 kPieceSize = 4096;
constexpr u64 kCacheBytes = 4 << 20;
/// How many counts one allocation looks at before it takes space at the file's end.
constexpr u64 kScanBudget = 1 << 22;

}  // namespace

u64 load_refcount(const u8* block, unsigned order, u64 index) {
  switch (order) {
    case 3: return block[index];
    case 4: return load_be<u16>(block + index * 2);
    case 5: return load_be<u32>(block + index * 4);
    case 6: return load_be<u64>(block + index * 8);
    default: break;
  }
  const u64 bit = index << order;
  return static_cast<u64>(block[bit / 8] >> (bit % 8)) & ((1U << (1U << order)) - 1);
}

void store_refcount(u8* block, unsigned order, u64 index, u64 count) {
  switch (order) {
    case 3: block[index] = static_cast<u8>(count); return;
    case 4: store_be<u16>(block + index * 2, static_cast<u16>(count)); return;
    case 5: store_be<u32>(block + index * 4, static_cast<u32>(count)); return;
    case 6: store_be<u64>(block + index * 8, count); return;
    default: break;
  }
  const u64 bit = index << order;
  const u64 mask = (1U << (1U << order)) - 1;
  u8& byte = block[bit / 8];
  byte = static_cast<u8>((byte & ~(mask << (bit % 8))) | (count << (bit % 8)));
}

Task<Status> write_header(ImageFile& file, const Header& header) {
  return write_bytes(file, 0, header.encode_fields());
}

Task<Status> write_bytes(ImageFile& file, u64 offset, std::vector<u8> bytes) {
  const iovec buffer = buffer_of(std::span<u8>(bytes));
  co_return co_await file.write(offset, Buffers(&buffer, 1));
}

Task<Status> read_bytes(ImageFile& file, u64 offset, std::span<u8> bytes) {
  const iovec buffer = buffer_of(bytes);
  co_return co_await file.read(offset, Buffers(&buffer, 1));
}

Refcounts::Refcounts(ImageFile& file, Header& header, MetadataMap& metadata)
    : file_(file),
      header_(header),
      metadata_(metadata),
      cache_(file, std::min(header.geometry.cluster_size(), kPieceSize),
             kCacheBytes / std::min(header.geometry.cluster_size(), kPieceSize)) {}

Task<Status> Refcounts::load() {
  const u64 bytes = u64{header_.refcount_table_clusters} << header_.geometry.cluster_bits;
  std::vector<u8> raw(bytes);
  VERT_CO_TRY(co_await read_bytes(file_, header_.refcount_table_offset, raw));
  table_.resize(bytes / 8);
  for (std::size_t i = 0; i < table_.size(); ++i) table_[i] = load_be<u64>(raw.data() + i * 8);
  VERT_CO_ASSIGN(const u64 size, file_.size());
  end_ = header_.geometry.clusters(size);
  scan_ = 0;
  co_return Status{};
}

Task<Status> Refcounts::reload() {
  for (const u64 block : table_) cache_.drop(block, header_.geometry.cluster_size());
  first_dirty_ = ~u64{0};
  last_dirty_ = 0;
  co_return co_await load();
}

void Refcounts::set_table_entry(u64 index, u64 offset) {
  table_[index] = offset;
  first_dirty_ = std::min(first_dirty_, index);
  last_dirty_ = std::max(last_dirty_, index + 1);
}

u64 Refcounts::index_in_piece(u64 cluster) const {
  return cluster % ((cache_.piece_size() * 8) >> header_.geometry.refcount_order);
}

/// Of a cluster that is covered.
Task<Result<TableCache::Piece*>> Refcounts::piece_for(u64 cluster) {
  const u64 block = table_[block_index(cluster)];
  if (header_.geometry.in_cluster(block) != 0)
    co_return corruption("'{}' is corrupt: a refcount block does not start at a cluster ({:#x})",
                         file_.path(), block);
  const u64 bit = (cluster % header_.geometry.refcounts_per_block()) << header_.geometry.refcount_order;
  const u64 in_block = bit / 8 / cache_.piece_size() * cache_.piece_size();
  co_return co_await cache_.load(block + in_block);
}

Task<Result<u64>> Refcounts::get(u64 cluster) {
  if (!is_covered(cluster)) co_return u64{0};
  VERT_CO_ASSIGN(const auto* piece, co_await piece_for(cluster));
  co_return load_refcount(piece->bytes.get(), header_.geometry.refcount_order, index_in_piece(cluster));
}

Task<Status> Refcounts::set(u64 cluster, u64 count) {
  if (!is_covered(cluster))
    co_return corruption("'{}' is corrupt: cluster {:#x} has no refcount", file_.path(),
                         cluster << header_.geometry.cluster_bits);
  VERT_CO_ASSIGN(auto* piece, co_await piece_for(cluster));
  store_refcount(piece->bytes.get(), header_.geometry.refcount_order, index_in_piece(cluster), count);
  cache_.mark_dirty(*piece);
  if (count == 0) scan_ = std::min(scan_, cluster);
  co_return Status{};
}

Task<Result<u64>> Refcounts::add(u64 cluster, i64 delta) {
  VERT_CO_ASSIGN(const u64 now, co_await get(cluster));
  const u64 offset = cluster << header_.geometry.cluster_bits;
  if (delta < 0 && now == 0)
    co_return corruption("'{}' is corrupt: cluster {:#x} is used, and its refcount is 0", file_.path(),
                         offset);
  if (delta > 0 && now == header_.geometry.max_refcount())
    co_return failure(EINVAL, "'{}': a refcount of {} bits cannot become larger than {}", file_.path(),
                      header_.geometry.refcount_bits(), now);
  const u64 next = delta < 0 ? now - 1 : now + 1;
  VERT_CO_TRY(co_await set(cluster, next));
  co_return next;
}

/// The first free cluster from scan_ on and below `limit`, or `limit`. Blocks are not made for that.
Task<Result<u64>> Refcounts::find_free(u64 limit) {
  const u64 per_piece = (cache_.piece_size() * 8) >> header_.geometry.refcount_order;
  u64 at = scan_;
  for (u64 looked = 0; at < limit && looked < kScanBudget;) {
    const u64 piece_end = std::min(limit, (at / per_piece + 1) * per_piece);
    if (is_covered(at)) {
      VERT_CO_ASSIGN(const auto* piece, co_await piece_for(at));
      for (; at < piece_end; ++at, ++looked) {
        scan_ = at;
        if (load_refcount(piece->bytes.get(), header_.geometry.refcount_order, at % per_piece) == 0)
          co_return at;
      }
    } else {
      looked += 1;
      at = piece_end;
    }
    scan_ = at;
  }
  co_return limit;
}

/// Where clusters without a count begin, from end_ on: a crash may have left counts behind the file's end.
Task<Result<u64>> Refcounts::find_end() {
  u64 at = end_;
  for (u64 looked = 0; looked < kScanBudget; ++looked, ++at) {
    if (!is_covered(at)) co_return at;
    VERT_CO_ASSIGN(const u64 count, co_await get(at));
    if (count == 0) co_return at;
  }
  co_return corruption("'{}' is corrupt: there are refcounts behind the file's end", file_.path());
}

Task<Result<bool>> Refcounts::are_free(u64 cluster, u64 count) {
  for (u64 i = 0; i < count; ++i) {
    VERT_CO_ASSIGN(const u64 used, co_await get(cluster + i));
    if (used != 0) co_return false;
  }
  co_return true;
}

/// Gives free clusters, which have blocks, a count of 1.
Task<Status> Refcounts::take(u64 cluster, u64 count) {
  if (const auto part = metadata_.find(cluster, count))
    co_return corruption("'{}' is corrupt: its {} at cluster {:#x} counts as free", file_.path(),
                         MetadataMap::name_of(*part), cluster << header_.geometry.cluster_bits);
  for (u64 i = 0; i < count; ++i) {
    auto status = co_await set(cluster + i, 1);
    if (status) continue;
    while (i-- > 0) static_cast<void>(co_await set(cluster + i, 0));
    co_return status;
  }
  end_ = std::max(end_, cluster + count);
  co_return Status{};
}

Task<Result<Refcounts::Run>> Refcounts::allocate(u64 count) {
  VERT_CO_ASSIGN(const u64 first, co_await find_free(end_));
  if (first >= end_) co_return co_await allocate_together(count);
  Run run{first, 1, false};
  while (run.count < count && first + run.count < end_ && is_covered(first + run.count)) {
    VERT_CO_ASSIGN(const u64 used, co_await get(first + run.count));
    if (used != 0) break;
    ++run.count;
  }
  VERT_CO_TRY(co_await take(run.cluster, run.count));
  scan_ = run.cluster + run.count;
  co_return run;
}

/// The blocks that do not exist for these clusters, and for the blocks themselves right behind them.
std::vector<u64> Refcounts::missing_blocks(u64 cluster, u64 count) const {
  std::vector<u64> missing;
  for (u64 at = block_index(cluster); at <= block_index(cluster + count + missing.size() - 1); ++at)
    if (at >= table_.size() || table_[at] == 0) missing.push_back(at);
  return missing;
}

Task<Result<Refcounts::Run>> Refcounts::allocate_together(u64 count) {
  const u64 fresh_from = end_;
  while (true) {
    VERT_CO_ASSIGN(const u64 first, co_await find_end());
    const auto missing = missing_blocks(first, count);
    VERT_CO_ASSIGN(const bool free, co_await are_free(first, count + missing.size()));
    if (!free) {
      end_ = first + 1;  // leftovers of a crash: look behind them
      continue;
    }
    const u64 blocks_needed = block_index(first + count + missing.size() - 1) + 1;
    if (blocks_needed > table_.size()) {
      VERT_CO_TRY(co_await grow_table(blocks_needed));
      continue;
    }
    VERT_CO_TRY(co_await add_blocks(missing, first + count));
    VERT_CO_TRY(co_await take(first, count));
    co_return Run{first, count, first >= fresh_from};
  }
}

/// New blocks, at `place` and behind it, where each cluster has a block then.
Task<Status> Refcounts::add_blocks(std::vector<u64> indexes, u64 place) {
  const Geometry& geometry = header_.geometry;
  Status status;
  u64 made = 0;
  for (; made < indexes.size() && status; ++made) {
    const u64 offset = (place + made) << geometry.cluster_bits;
    if (metadata_.find(place + made))
      status = corruption("'{}' is corrupt: metadata at {:#x} counts as free", file_.path(), offset);
    else
      status = co_await write_bytes(file_, offset, std::vector<u8>(geometry.cluster_size()));
    if (!status) break;
    forget(place + made);
    set_table_entry(indexes[made], offset);
  }
  for (u64 i = 0; i < made && status; ++i) status = co_await take(place + i, 1);
  if (status) {
    metadata_.insert(MetadataMap::Part::kRefcountBlock, place, indexes.size());
    co_return Status{};
  }
  for (u64 i = 0; i < made; ++i)
    if (is_covered(place + i)) static_cast<void>(co_await set(place + i, 0));
  for (u64 i = 0; i < made; ++i) {
    cache_.drop((place + i) << geometry.cluster_bits, geometry.cluster_size());
    set_table_entry(indexes[i], 0);
  }
  co_return status;
}

/// A table with room for at least so many entries, in a new place behind the file's end.
Task<Status> Refcounts::grow_table(u64 entries) {
  const Geometry& geometry = header_.geometry;
  const u64 max_entries = kMaxRefcountTableBytes / 8;
  if (entries >= max_entries)
    co_return failure(EFBIG, "'{}': the refcount table has reached its largest size", file_.path());
  const u64 old_entries = table_.size();
  const u64 per_cluster = geometry.cluster_size() / 8;
  u64 clusters =
      (std::min(std::max(entries + 1, old_entries * 3 / 2), max_entries) + per_cluster - 1) / per_cluster;
  VERT_CO_ASSIGN(const u64 start, co_await find_end());
  // The blocks for the table itself may need more entries, too.
  while (true) {
    const u64 blocks = missing_blocks(start, clusters).size();
    if (block_index(start + clusters + blocks) < clusters * per_cluster) break;
    ++clusters;
  }
  VERT_CO_ASSIGN(const bool free,
                 co_await are_free(start, clusters + missing_blocks(start, clusters).size()));
  if (!free) {
    end_ = start + 1;
    co_return Status{};  // the caller looks again
  }
  table_.resize(clusters * per_cluster);
  auto status = co_await move_table(start, clusters);
  const bool is_moved = header_.refcount_table_clusters == clusters;
  if (!is_moved) VERT_CO_TRY(co_await shrink_table(old_entries));
  co_return status;
}

/// Writes the table, already grown in memory, to its new place, and lets the header point there.
Task<Status> Refcounts::move_table(u64 start, u64 clusters) {
  const Geometry& geometry = header_.geometry;
  VERT_CO_TRY(co_await add_blocks(missing_blocks(start, clusters), start + clusters));
  auto status = co_await take(start, clusters);
  if (status) status = co_await cache_.write_back();
  if (status) {
    std::vector<u8> raw(table_.size() * 8);
    for (std::size_t i = 0; i < table_.size(); ++i) store_be<u64>(raw.data() + i * 8, table_[i]);
    status = co_await write_bytes(file_, start << geometry.cluster_bits, std::move(raw));
  }
  if (status) status = co_await file_.flush();
  if (!status) {
    for (u64 i = 0; i < clusters; ++i) static_cast<void>(co_await set(start + i, 0));
    co_return status;
  }
  const u64 old = header_.refcount_table_offset >> geometry.cluster_bits;
  const u64 old_clusters = header_.refcount_table_clusters;
  Header moved = header_;
  moved.refcount_table_offset = start << geometry.cluster_bits;
  moved.refcount_table_clusters = static_cast<u32>(clusters);
  VERT_CO_TRY(co_await write_header(file_, moved));
  header_ = moved;
  first_dirty_ = ~u64{0};
  last_dirty_ = 0;
  metadata_.insert(MetadataMap::Part::kRefcountTable, start, clusters);
  // If this fails, the old table may still be the one on the disk: its clusters are not free.
  VERT_CO_TRY(co_await file_.flush());
  metadata_.remove(old, old_clusters);
  for (u64 i = 0; i < old_clusters; ++i) static_cast<void>(co_await add(old + i, -1));
  co_return Status{};
}

/// After a growth that failed: entries from `entries` on go, and the blocks that they name.
Task<Status> Refcounts::shrink_table(u64 entries) {
  for (u64 i = entries; i < table_.size(); ++i) {
    if (table_[i] == 0) continue;
    const u64 cluster = table_[i] >> header_.geometry.cluster_bits;
    static_cast<void>(co_await set(cluster, 0));
    metadata_.remove(cluster);
    forget(cluster);
  }
  table_.resize(entries);
  last_dirty_ = std::min(last_dirty_, entries);
  co_return Status{};
}

Task<Status> Refcounts::write_back() {
  VERT_CO_TRY(co_await cache_.write_back());
  if (!table_is_dirty()) co_return Status{};
  VERT_CO_TRY(co_await file_.flush());
  std::vector<u8> raw((last_dirty_ - first_dirty_) * 8);
  for (u64 i = first_dirty_; i < last_dirty_; ++i)
    store_be<u64>(raw.data() + (i - first_dirty_) * 8, table_[i]);
  VERT_CO_TRY(co_await write_bytes(file_, header_.refcount_table_offset + first_dirty_ * 8, std::move(raw)));
  first_dirty_ = ~u64{0};
  last_dirty_ = 0;
  co_return Status{};
}

void Refcounts::forget(u64 cluster) {
  cache_.drop(cluster << header_.geometry.cluster_bits, header_.geometry.cluster_size());
}

void Refcounts::set_end(u64 end) {
  end_ = end;
  scan_ = std::min(scan_, end);
}

}  // namespace vert::storage::qcow2

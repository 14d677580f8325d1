#include "storage/qcow2/mapping.hpp"

#include <algorithm>

#include "storage/qcow2/refcounts.hpp"

namespace vert::storage::qcow2 {
namespace {

constexpr u64 kPieceSize = 4096;
constexpr u64 kL1EntriesPerSector = kSectorSize / 8;

}  // namespace

Mapping::Mapping(ImageFile& file, const Geometry& geometry)
    : file_(file),
      geometry_(geometry),
      cache_(file, std::min(geometry.cluster_size(), kPieceSize),
             kCacheBytes / std::min(geometry.cluster_size(), kPieceSize)) {}

Task<Status> Mapping::load(u64 l1_offset, u64 entries) {
  std::vector<u8> raw(entries * 8);
  VERT_CO_TRY(co_await read_bytes(file_, l1_offset, raw));
  l1_.resize(entries);
  for (std::size_t i = 0; i < entries; ++i) l1_[i] = load_be<u64>(raw.data() + i * 8);
  l1_offset_ = l1_offset;
  co_return Status{};
}

/// Where the L2 table for `guest` is; 0: there is none.
Result<u64> Mapping::l2_table(u64 guest) const {
  const u64 table = l1_[l1_index(guest)] & kOffsetMask;
  if (geometry_.in_cluster(table) == 0) return table;
  return corruption("'{}' is corrupt: an L2 table does not start at a cluster ({:#x})", file_.path(), table);
}

Mapping::Place Mapping::place_of(u64 table, u64 guest) const {
  const u64 byte = (guest >> geometry_.cluster_bits) % geometry_.l2_entries() * geometry_.l2_entry_size();
  const u64 start = byte / cache_.piece_size() * cache_.piece_size();
  return {table + start, (byte - start) / geometry_.l2_entry_size()};
}

/// One entry; in an extended one, the subcluster at `guest`. Its length is not set.
Result<Run> Mapping::decode(const TableCache::Piece& piece, u64 index, u64 guest) const {
  const u8* const raw = piece.bytes.get() + index * geometry_.l2_entry_size();
  const auto entry = load_be<u64>(raw);
  Run run;
  if ((entry & kCompressedFlag) != 0) {
    run.kind = Kind::kCompressed;
    run.entry = entry;
    return run;
  }
  run.copied = (entry & kCopied) != 0;
  run.host = entry & kOffsetMask;
  bool zero = (entry & kZeroFlag) != 0;
  bool data = run.host != 0;
  if (geometry_.extended_l2) {
    const auto bitmap = load_be<u64>(raw + 8);
    const u64 subcluster = geometry_.in_cluster(guest) / unit();
    zero = (bitmap >> (kSubclusters + subcluster) & 1) != 0;
    data = (bitmap >> subcluster & 1) != 0;
    if ((zero && data) || (data && run.host == 0))
      return corruption("'{}' is corrupt: the L2 entry for {:#x} contradicts itself", file_.path(), guest);
  } else if (zero && geometry_.version == 2) {
    return corruption("'{}' is corrupt: a zero cluster at {:#x}, which version 2 does not have", file_.path(),
                      guest);
  }
  if (geometry_.in_cluster(run.host) != 0)
    return corruption("'{}' is corrupt: the L2 entry for {:#x} names {:#x}, which is no cluster",
                      file_.path(), guest, run.host);
  if (zero)
    run.kind = run.host != 0 ? Kind::kZeroAllocated : Kind::kZero;
  else
    run.kind = data ? Kind::kData : Kind::kUnallocated;
  return run;
}

/// From `guest` on, as far as this piece goes.
Result<Run> Mapping::run_in(const TableCache::Piece& piece, u64 guest, u64 length) const {
  const u64 entries = cache_.piece_size() / geometry_.l2_entry_size();
  u64 index = place_of(0, guest).index;
  VERT_ASSIGN(Run run, decode(piece, index, guest));
  const u64 in_unit = guest & (unit() - 1);
  run.length = unit() - in_unit;
  const bool has_place = run.kind == Kind::kData || run.kind == Kind::kZeroAllocated;
  u64 next = run.host + (has_place ? geometry_.in_cluster(guest) + run.length : 0);
  if (has_place) run.host += geometry_.in_cluster(guest);
  if (run.kind == Kind::kCompressed) run.length = geometry_.cluster_size() - geometry_.in_cluster(guest);
  while (run.length < length && run.kind != Kind::kCompressed) {
    const u64 at = guest + run.length;
    if (geometry_.in_cluster(at) == 0 && ++index == entries) break;
    const auto following = decode(piece, index, at);
    if (!following || following->kind != run.kind || following->copied != run.copied) break;
    if (has_place && following->host + geometry_.in_cluster(at) != next) break;
    next += unit();
    run.length += unit();
  }
  run.length = std::min(run.length, length);
  return run;
}

std::optional<Result<Run>> Mapping::find(u64 guest, u64 length) {
  const auto table = l2_table(guest);
  if (!table) return std::unexpected(table.error());
  if (*table == 0) {
    Run run;
    run.length = std::min(length, geometry_.l2_reach() - guest % geometry_.l2_reach());
    return run;
  }
  const TableCache::Piece* const piece = cache_.find(place_of(*table, guest).piece);
  if (piece == nullptr) return std::nullopt;
  return run_in(*piece, guest, length);
}

std::optional<Mapping::Data> Mapping::find_data(u64 guest, u64 length) {
  const u64 table = l1_[l1_index(guest)] & kOffsetMask;
  if (table == 0 || geometry_.in_cluster(table) != 0 || geometry_.extended_l2) return std::nullopt;
  const Place place = place_of(table, guest);
  const TableCache::Piece* const piece = cache_.find(place.piece);
  if (piece == nullptr) return std::nullopt;
  const u64 clusters = geometry_.clusters(geometry_.in_cluster(guest) + length);
  if (place.index + clusters > cache_.piece_size() / sizeof(u64)) return std::nullopt;
  const u8* const entries = piece->bytes.get() + place.index * sizeof(u64);
  const auto first = load_be<u64>(entries);
  const u64 host = first & kOffsetMask;
  const bool is_data =
      host != 0 && geometry_.in_cluster(host) == 0 && (first & (kCompressedFlag | kZeroFlag)) == 0;
  if (!is_data) return std::nullopt;
  for (u64 i = 1; i < clusters; ++i)
    if (load_be<u64>(entries + i * sizeof(u64)) != first + (i << geometry_.cluster_bits)) return std::nullopt;
  return Data{host + geometry_.in_cluster(guest), (first & kCopied) != 0};
}

Task<Result<Run>> Mapping::look_up(u64 guest, u64 length) {
  while (true) {
    if (auto found = find(guest, length)) co_return std::move(*found);
    VERT_CO_ASSIGN(const u64 table, l2_table(guest));
    VERT_CO_TRY(co_await cache_.load(place_of(table, guest).piece));
  }
}

Task<Result<u64>> Mapping::entry(u64 guest) {
  VERT_CO_ASSIGN(const u64 table, l2_table(guest));
  if (table == 0) co_return u64{0};
  const Place place = place_of(table, guest);
  VERT_CO_ASSIGN(const auto* piece, co_await cache_.load(place.piece));
  co_return load_be<u64>(piece->bytes.get() + place.index * geometry_.l2_entry_size());
}

Task<Status> Mapping::set_entry(u64 guest, u64 entry) {
  VERT_CO_ASSIGN(const u64 table, l2_table(guest));
  const Place place = place_of(table, guest);
  VERT_CO_ASSIGN(auto* piece, co_await cache_.load(place.piece));
  store_be<u64>(piece->bytes.get() + place.index * geometry_.l2_entry_size(), entry);
  cache_.mark_dirty(*piece);
  co_return Status{};
}

void Mapping::set_l1_entry(u64 index, u64 entry) {
  l1_[index] = entry;
  dirty_l1_.insert(index / kL1EntriesPerSector);
}

void Mapping::replace_l1(std::vector<u64> l1, u64 offset) {
  l1_ = std::move(l1);
  l1_offset_ = offset;
  dirty_l1_.clear();
}

Task<Status> Mapping::write_back() {
  VERT_CO_TRY(co_await cache_.write_back());
  while (!dirty_l1_.empty()) {
    const u64 sector = *dirty_l1_.begin();
    const u64 first = sector * kL1EntriesPerSector;
    std::vector<u8> raw(std::min<u64>(kL1EntriesPerSector, l1_.size() - first) * 8);
    for (u64 i = 0; i < raw.size() / 8; ++i) store_be<u64>(raw.data() + i * 8, l1_[first + i]);
    VERT_CO_TRY(co_await write_bytes(file_, l1_offset_ + first * 8, std::move(raw)));
    dirty_l1_.erase(sector);
  }
  co_return Status{};
}

}  // namespace vert::storage::qcow2

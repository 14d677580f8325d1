#include "storage/qcow2/snapshot_table.hpp"

#include <algorithm>

#include "storage/qcow2/refcounts.hpp"

namespace vert::storage::qcow2 {
namespace {

constexpr u64 kEntrySize = 40;
constexpr u64 kKnownExtra = 16;  // the size of the VM's state, the size of the disk

/// The table's bytes from the file, as far as they are asked for.
class TableReader {
 public:
  TableReader(ImageFile& file, u64 offset, u64 end) : file_(file), offset_(offset), end_(end) {}

  [[nodiscard]] u64 position() const { return position_; }
  Task<Result<std::vector<u8>>> take(u64 length) {
    if (offset_ + position_ + length > end_ || position_ + length > kMaxSnapshotTableBytes)
      co_return corruption("'{}' is corrupt: its snapshot table is cut short", file_.path());
    while (bytes_.size() < position_ + length) {
      const u64 had = bytes_.size();
      bytes_.resize(std::min(had + kReadSize, end_ - offset_));
      VERT_CO_TRY(co_await read_bytes(file_, offset_ + had, std::span(bytes_).subspan(had)));
    }
    const auto first = bytes_.begin() + static_cast<std::ptrdiff_t>(position_);
    position_ += length;
    co_return std::vector<u8>(first, first + static_cast<std::ptrdiff_t>(length));
  }

 private:
  static constexpr u64 kReadSize = 64 << 10;
  ImageFile& file_;
  const u64 offset_;
  const u64 end_;
  u64 position_ = 0;
  std::vector<u8> bytes_;
};

Status check_snapshot(const ImageFile& file, const Header& header, const Snapshot& snapshot) {
  if (header.geometry.in_cluster(snapshot.l1_offset) != 0 || snapshot.l1_entries * u64{8} > kMaxL1Bytes)
    return corruption("'{}' is corrupt: snapshot {} has an impossible L1 table", file.path(),
                      printable(snapshot.id));
  if (header.geometry.l1_entries(snapshot.disk_size) > snapshot.l1_entries)
    return corruption("'{}' is corrupt: the L1 table of snapshot {} is too small for {} bytes", file.path(),
                      printable(snapshot.id), snapshot.disk_size);
  VERT_ASSIGN(const u64 size, file.size());
  if (snapshot.l1_offset > size || snapshot.l1_entries * u64{8} > size - snapshot.l1_offset)
    return corruption("'{}' is corrupt: the L1 table of snapshot {} lies behind the file's end", file.path(),
                      printable(snapshot.id));
  return {};
}

Task<Result<Snapshot>> read_snapshot(TableReader& reader, u64 disk_size) {
  Snapshot snapshot;
  VERT_CO_ASSIGN(const auto entry, co_await reader.take(kEntrySize));
  snapshot.l1_offset = load_be<u64>(entry.data());
  snapshot.l1_entries = load_be<u32>(entry.data() + 8);
  const u64 id_size = load_be<u16>(entry.data() + 12);
  const u64 name_size = load_be<u16>(entry.data() + 14);
  snapshot.seconds = load_be<u32>(entry.data() + 16);
  snapshot.nanoseconds = load_be<u32>(entry.data() + 20);
  snapshot.vm_clock = load_be<u64>(entry.data() + 24);
  snapshot.vm_state_size = load_be<u32>(entry.data() + 32);
  snapshot.disk_size = disk_size;
  const u64 extra_size = load_be<u32>(entry.data() + 36);
  if (extra_size > kMaxSnapshotExtra)
    co_return corruption("a snapshot has {} bytes of extra data, too many", extra_size);
  VERT_CO_ASSIGN(const auto extra, co_await reader.take(extra_size));
  if (extra.size() >= 8) snapshot.vm_state_size = load_be<u64>(extra.data());
  if (extra.size() >= kKnownExtra) {
    snapshot.disk_size = load_be<u64>(extra.data() + 8);
    snapshot.unknown_extra.assign(extra.begin() + kKnownExtra, extra.end());
  }
  VERT_CO_ASSIGN(const auto id, co_await reader.take(id_size));
  VERT_CO_ASSIGN(const auto name, co_await reader.take(name_size));
  snapshot.id.assign(id.begin(), id.end());
  snapshot.name.assign(name.begin(), name.end());
  co_return snapshot;
}

}  // namespace

Task<Result<std::vector<Snapshot>>> read_snapshots(ImageFile& file, const Header& header) {
  VERT_CO_ASSIGN(const u64 end, file.size());
  TableReader reader(file, header.snapshots_offset, end);
  std::vector<Snapshot> snapshots;
  for (u32 i = 0; i < header.snapshots; ++i) {
    // Each entry starts at a multiple of 8; behind the last one there may be nothing.
    VERT_CO_TRY(co_await reader.take((8 - reader.position() % 8) % 8));
    VERT_CO_ASSIGN(auto snapshot, co_await read_snapshot(reader, header.size));
    VERT_CO_TRY(check_snapshot(file, header, snapshot));
    snapshots.push_back(std::move(snapshot));
  }
  co_return snapshots;
}

std::vector<u8> encode_snapshots(const std::vector<Snapshot>& snapshots) {
  std::vector<u8> bytes;
  for (const Snapshot& snapshot : snapshots) {
    const std::size_t start = bytes.size();
    bytes.resize(start + kEntrySize + kKnownExtra);
    u8* const entry = bytes.data() + start;
    store_be<u64>(entry, snapshot.l1_offset);
    store_be<u32>(entry + 8, snapshot.l1_entries);
    store_be<u16>(entry + 12, static_cast<u16>(snapshot.id.size()));
    store_be<u16>(entry + 14, static_cast<u16>(snapshot.name.size()));
    store_be<u32>(entry + 16, snapshot.seconds);
    store_be<u32>(entry + 20, snapshot.nanoseconds);
    store_be<u64>(entry + 24, snapshot.vm_clock);
    store_be<u32>(entry + 32,
                  snapshot.vm_state_size >> 32 != 0 ? 0 : static_cast<u32>(snapshot.vm_state_size));
    store_be<u32>(entry + 36, static_cast<u32>(kKnownExtra + snapshot.unknown_extra.size()));
    store_be<u64>(entry + kEntrySize, snapshot.vm_state_size);
    store_be<u64>(entry + kEntrySize + 8, snapshot.disk_size);
    bytes.insert(bytes.end(), snapshot.unknown_extra.begin(), snapshot.unknown_extra.end());
    bytes.insert(bytes.end(), snapshot.id.begin(), snapshot.id.end());
    bytes.insert(bytes.end(), snapshot.name.begin(), snapshot.name.end());
    bytes.resize((bytes.size() + 7) / 8 * 8);
  }
  return bytes;
}

const Snapshot* find_snapshot(const std::vector<Snapshot>& snapshots, const std::string& which) {
  auto found = std::ranges::find(snapshots, which, &Snapshot::name);
  if (found == snapshots.end()) found = std::ranges::find(snapshots, which, &Snapshot::id);
  return found == snapshots.end() ? nullptr : &*found;
}

}  // namespace vert::storage::qcow2

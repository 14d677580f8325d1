#include "machine/disk_boot/partition_table.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

namespace vert::machine::disk_boot {

namespace {

constexpr u64 kSectorSize = 512;
using Sector = std::array<u8, kSectorSize>;

template <typename T>
T field(std::span<const u8> bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.subspan(offset, sizeof value).data(), sizeof value);
  return value;
}

Status read_sector(BlockReader& disk, u64 number, Sector& sector) {
  if (number >= disk.size() / kSectorSize) return make_error("a partition table points beyond the end");
  return disk.read(number * kSectorSize, sector);
}

/// Sets the place of a partition; false if it does not lie on the disk.
bool place(const BlockReader& disk, u64 first_sector, u64 sectors, Partition& partition) {
  const u64 disk_sectors = disk.size() / kSectorSize;
  if (sectors == 0 || first_sector >= disk_sectors) return false;
  partition.offset = first_sector * kSectorSize;
  // Linux cuts what is too long, as a table has it whose image was shortened.
  partition.size = std::min(sectors, disk_sectors - first_sector) * kSectorSize;
  return true;
}

// MBR

constexpr std::size_t kMbrEntries = 446;
constexpr std::size_t kMbrEntrySize = 16;
constexpr std::size_t kMbrSignature = 510;
constexpr std::size_t kDiskId = 440;
constexpr unsigned kMaxLogical = 128;

struct MbrEntry {
  u8 status = 0;
  u8 type = 0;
  u32 first = 0;
  u32 count = 0;

  [[nodiscard]] bool used() const { return type != 0 && count != 0; }
  [[nodiscard]] bool extended() const { return type == 0x05 || type == 0x0F || type == 0x85; }
};

MbrEntry mbr_entry(const Sector& sector, unsigned index) {
  const auto raw = std::span(sector).subspan(kMbrEntries + index * kMbrEntrySize, kMbrEntrySize);
  return {raw[0], raw[4], field<u32>(raw, 8), field<u32>(raw, 12)};
}

/// A boot sector of a file system has the same signature, but code where the entries would be.
bool is_mbr(const Sector& sector) {
  if (field<u16>(sector, kMbrSignature) != 0xAA55) return false;
  bool any_used = false;
  for (unsigned i = 0; i < 4; ++i) {
    const MbrEntry entry = mbr_entry(sector, i);
    if ((entry.status & 0x7F) != 0) return false;
    any_used = any_used || entry.used();
  }
  return any_used;
}

bool is_protective(const Sector& sector) {
  for (unsigned i = 0; i < 4; ++i)
    if (mbr_entry(sector, i).type == 0xEE) return true;
  return false;
}

PartitionRole mbr_role(u8 type) {
  if (type == 0xEA) return PartitionRole::kBoot;
  if (type == 0xEF) return PartitionRole::kEfiSystem;
  return PartitionRole::kUnknown;
}

class MbrScan {
 public:
  MbrScan(BlockReader& disk, const Sector& sector)
      : disk_(disk), sector_(sector), disk_id_(field<u32>(sector, kDiskId)) {}

  Result<PartitionTable> run() {
    std::optional<u64> extended;
    for (unsigned i = 0; i < 4; ++i) {
      const MbrEntry entry = mbr_entry(sector_, i);
      if (!entry.used()) continue;
      if (entry.extended()) {
        if (!extended) extended = entry.first;
      } else {
        add(i + 1, entry.first, entry);
      }
    }
    if (extended) VERT_TRY(scan_logical(*extended));
    return std::move(table_);
  }

 private:
  void add(unsigned number, u64 first_sector, const MbrEntry& entry) {
    Partition partition;
    partition.number = number;
    partition.role = mbr_role(entry.type);
    partition.uuid = fmt::format("{:08x}-{:02x}", disk_id_, number);
    if (place(disk_, first_sector, entry.count, partition)) table_.partitions.push_back(std::move(partition));
  }

  /// Each logical partition has a table of its own: itself, and a link to the next one's table.
  Status scan_logical(u64 extended) {
    std::set<u64> seen;
    u64 at = extended;
    for (unsigned number = 5; number < 5 + kMaxLogical; ++number) {
      if (!seen.insert(at).second) return make_error("its logical partitions form a loop");
      Sector sector;
      VERT_TRY(read_sector(disk_, at, sector));
      if (field<u16>(sector, kMbrSignature) != 0xAA55)
        return make_error("the table of logical partition {} is damaged", number);
      const MbrEntry own = mbr_entry(sector, 0);
      if (own.used() && !own.extended()) add(number, at + own.first, own);
      const MbrEntry next = mbr_entry(sector, 1);
      if (!next.used() || !next.extended()) return {};
      at = extended + next.first;
    }
    return make_error("it has more than {} logical partitions", kMaxLogical);
  }

  BlockReader& disk_;
  const Sector& sector_;
  u32 disk_id_;
  PartitionTable table_{.found = true, .partitions = {}};
};

// GPT

constexpr u32 kMinHeaderSize = 92;
constexpr u32 kMinEntrySize = 128;
constexpr u32 kMaxEntrySize = 4096;
constexpr u32 kMaxEntries = 1024;

/// The first three fields of a GUID are little-endian numbers (UEFI 2.10, appendix A).
std::string guid_text(std::span<const u8> raw) {
  std::string text = fmt::format("{:08x}-{:04x}-{:04x}-{:02x}{:02x}-", field<u32>(raw, 0), field<u16>(raw, 4),
                                 field<u16>(raw, 6), raw[8], raw[9]);
  for (const u8 byte : raw.subspan(10, 6)) text += fmt::format("{:02x}", byte);
  return text;
}

PartitionRole gpt_role(const std::string& type) {
  if (type == "4f68bce3-e8cd-4db1-96e7-fbcaf984b709") return PartitionRole::kRoot;  // Linux root, x86-64
  if (type == "bc13c2ff-59e6-4262-a352-b275fd6f7172") return PartitionRole::kBoot;  // XBOOTLDR
  if (type == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b") return PartitionRole::kEfiSystem;
  return PartitionRole::kUnknown;
}

u32 checksum(std::span<const u8> bytes) {
  return static_cast<u32>(::crc32(0, bytes.data(), static_cast<uInt>(bytes.size())));
}

struct GptHeader {
  u64 entries_at = 0;
  u32 count = 0;
  u32 entry_size = 0;
  u32 entries_checksum = 0;
};

Result<GptHeader> read_gpt_header(BlockReader& disk, u64 sector_number) {
  Sector sector;
  VERT_TRY(read_sector(disk, sector_number, sector));
  if (std::memcmp(sector.data(), "EFI PART", 8) != 0) return make_error("the header has no signature");
  const u32 size = field<u32>(sector, 12);
  if (size < kMinHeaderSize || size > kSectorSize) return make_error("the header's size is {}", size);
  const u32 stored = field<u32>(sector, 16);
  Sector blanked = sector;
  std::fill_n(blanked.begin() + 16, 4, u8{0});
  if (checksum(std::span(blanked).first(size)) != stored) return make_error("the header's checksum is wrong");
  if (field<u64>(sector, 24) != sector_number) return make_error("the header belongs elsewhere");
  const GptHeader header{field<u64>(sector, 72), field<u32>(sector, 80), field<u32>(sector, 84),
                         field<u32>(sector, 88)};
  if (header.entry_size < kMinEntrySize || header.entry_size > kMaxEntrySize ||
      !std::has_single_bit(header.entry_size))
    return make_error("entries have {} bytes", header.entry_size);
  if (header.count > kMaxEntries) return make_error("it has {} entries", header.count);
  return header;
}

Result<std::vector<u8>> read_gpt_entries(BlockReader& disk, const GptHeader& header) {
  std::vector<u8> entries(std::size_t{header.count} * header.entry_size);
  const u64 sectors = disk.size() / kSectorSize;
  if (header.entries_at >= sectors || entries.size() > (sectors - header.entries_at) * kSectorSize)
    return make_error("the entries lie beyond the end");
  VERT_TRY(disk.read(header.entries_at * kSectorSize, entries));
  if (checksum(entries) != header.entries_checksum) return make_error("the entries' checksum is wrong");
  return entries;
}

Result<PartitionTable> read_gpt_at(BlockReader& disk, u64 sector_number) {
  VERT_ASSIGN(const GptHeader header, read_gpt_header(disk, sector_number));
  VERT_ASSIGN(const auto entries, read_gpt_entries(disk, header));
  PartitionTable table{.found = true, .partitions = {}};
  for (u32 i = 0; i < header.count; ++i) {
    const auto raw = std::span(entries).subspan(std::size_t{i} * header.entry_size, kMinEntrySize);
    const u64 first = field<u64>(raw, 32);
    const u64 last = field<u64>(raw, 40);
    const bool used = std::ranges::any_of(raw.first(16), [](u8 byte) { return byte != 0; });
    if (!used || last < first || last == ~u64{0}) continue;
    Partition partition;
    partition.number = i + 1;
    partition.role = gpt_role(guid_text(raw.first(16)));
    partition.uuid = guid_text(raw.subspan(16, 16));
    if (place(disk, first, last - first + 1, partition)) table.partitions.push_back(std::move(partition));
  }
  return table;
}

Result<PartitionTable> read_gpt(BlockReader& disk) {
  Result<PartitionTable> primary = read_gpt_at(disk, 1);
  if (primary) return primary;
  Result<PartitionTable> backup = read_gpt_at(disk, disk.size() / kSectorSize - 1);
  if (backup) return backup;
  return make_error("its GPT is damaged ({}), and so is the backup ({})", primary.error().message,
                    backup.error().message);
}

}  // namespace

Result<PartitionTable> read_partition_table(BlockReader& disk) {
  if (disk.size() < kSectorSize) return PartitionTable{};
  Sector sector;
  VERT_TRY(read_sector(disk, 0, sector));
  if (!is_mbr(sector)) return PartitionTable{};
  // Linux, too, looks for a GPT only behind a protective MBR.
  return is_protective(sector) ? read_gpt(disk) : MbrScan(disk, sector).run();
}

}  // namespace vert::machine::disk_boot

#include "machine/disk_boot/file_system_kind.hpp"

#include <algorithm>
#include <vector>

namespace vert::machine::disk_boot {

namespace {

using namespace std::string_view_literals;

struct Magic {
  u64 offset;
  std::string_view bytes;
  FileSystemGuess guess;
};

constexpr FileSystemKind kOther = FileSystemKind::kOther;

constexpr Magic kMagics[] = {
    {0, "LUKS\xBA\xBE"sv, {kOther, "encrypted (LUKS)", true, false}},
    {0, "XFSB"sv, {kOther, "XFS", true, true}},
    {0x10040, "_BHRfS_M"sv, {kOther, "btrfs", true, true}},
    {0x018, "LVM2 001"sv, {kOther, "an LVM volume", true, false}},
    {0x218, "LVM2 001"sv, {kOther, "an LVM volume", true, false}},
    {0x418, "LVM2 001"sv, {kOther, "an LVM volume", true, false}},
    {0x618, "LVM2 001"sv, {kOther, "an LVM volume", true, false}},
    {0x1000, "\xFC\x4E\x2B\xA9"sv, {kOther, "a RAID member", true, false}},
    {0x400, "\x10\x20\xF5\xF2"sv, {kOther, "F2FS", true, true}},
    {0x400, "\xE2\xE1\xF5\xE0"sv, {kOther, "EROFS", true, true}},
    {0, "hsqs"sv, {kOther, "squashfs", true, true}},
    {0x8001, "CD001"sv, {kOther, "ISO 9660", false, false}},
    {0xFF6, "SWAPSPACE2"sv, {kOther, "swap", false, false}},
    {3, "NTFS    "sv, {kOther, "NTFS", false, false}},
    {3, "EXFAT   "sv, {kOther, "exFAT", false, false}},
    // Ahead of FAT, whose names extlinux's boot sector has, too.
    {0x438, "\x53\xEF"sv, {FileSystemKind::kExt, "ext4", true, true}},
    {0x36, "FAT"sv, {kOther, "FAT", false, false}},
    {0x52, "FAT32"sv, {kOther, "FAT", false, false}},
};

Result<bool> matches(BlockReader& disk, u64 offset, u64 size, const Magic& magic) {
  if (magic.offset + magic.bytes.size() > size) return false;
  std::vector<u8> bytes(magic.bytes.size());
  VERT_TRY(disk.read(offset + magic.offset, bytes));
  return std::ranges::equal(bytes, magic.bytes, [](u8 byte, char c) { return byte == static_cast<u8>(c); });
}

}  // namespace

Result<FileSystemGuess> guess_file_system(BlockReader& disk, u64 offset, u64 size) {
  for (const Magic& magic : kMagics) {
    VERT_ASSIGN(const bool found, matches(disk, offset, size, magic));
    if (found) return magic.guess;
  }
  return FileSystemGuess{};
}

}  // namespace vert::machine::disk_boot

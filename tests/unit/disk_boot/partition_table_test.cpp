// Tables made by sfdisk, whole and with one thing broken.
#include "machine/disk_boot/partition_table.hpp"

#include <zlib.h>

#include <cstring>

#include "unit/disk_boot/disk_images.hpp"

namespace vert::machine::disk_boot {
namespace {

using test::DiskImage;
using test::kMiB;
using test::MemoryReader;

constexpr u64 kDiskSize = 16 * kMiB;

const char* const kGptScript =
    "label: gpt\n"
    "start=2048, size=2048, type=BC13C2FF-59E6-4262-A352-B275FD6F7172, "
    "uuid=11111111-2222-3333-4455-66778899AABB\n"
    "start=4096, size=4096, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, "
    "uuid=21111111-2222-3333-4455-66778899AABB\n"
    "15 : start=8192, size=2048, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n";

/// Each script runs once.
std::vector<u8> made_by_sfdisk(const std::string& script) {
  static std::map<std::string, std::vector<u8>> made;
  auto& bytes = made[script];
  if (bytes.empty()) {
    DiskImage image(kDiskSize);
    image.partition(script);
    bytes = image.bytes();
  }
  return bytes;
}

Result<PartitionTable> read(std::vector<u8> bytes) {
  MemoryReader reader(std::move(bytes));
  return read_partition_table(reader);
}

std::string error_of(const std::vector<u8>& bytes) {
  const auto table = read(bytes);
  return table ? "no error" : table.error().message;
}

template <typename T>
void put(std::vector<u8>& bytes, u64 offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

constexpr u64 kHeader = 512;
constexpr u64 kBackupHeader = kDiskSize - 512;

/// Makes the header's checksum right again, so that what it says is looked at.
void sign_header(std::vector<u8>& bytes, u64 header = kHeader) {
  put(bytes, header + 16, u32{0});
  put(bytes, header + 16, static_cast<u32>(::crc32(0, bytes.data() + header, 92)));
}

TEST(PartitionTable, GptSaysWhereAndWhatFor) {
  const auto table = read(made_by_sfdisk(kGptScript));
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->partitions.size(), 3U);
  const Partition& boot = table->partitions[0];
  EXPECT_EQ(boot.number, 1U);
  EXPECT_EQ(boot.offset, 1 * kMiB);
  EXPECT_EQ(boot.size, 1 * kMiB);
  EXPECT_EQ(boot.role, PartitionRole::kBoot);
  EXPECT_EQ(boot.uuid, "11111111-2222-3333-4455-66778899aabb");
  EXPECT_EQ(table->partitions[1].role, PartitionRole::kRoot);
  EXPECT_EQ(table->partitions[2].number, 15U);
  EXPECT_EQ(table->partitions[2].role, PartitionRole::kEfiSystem);
}

TEST(PartitionTable, GptsBackupIsUsedIfThePrimaryIsBroken) {
  auto bytes = made_by_sfdisk(kGptScript);
  std::fill_n(bytes.begin() + kHeader, 512, u8{0});
  const auto table = read(bytes);
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_EQ(table->partitions.size(), 3U);
}

TEST(PartitionTable, GptsBackupIsUsedIfTheEntriesAreBroken) {
  auto bytes = made_by_sfdisk(kGptScript);
  bytes[1024 + 32] ^= 1;
  const auto table = read(bytes);
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_EQ(table->partitions[0].offset, 1 * kMiB);
}

TEST(PartitionTable, GptOfAGrownDiskNeedsNoBackup) {
  auto bytes = made_by_sfdisk(kGptScript);
  bytes.resize(2 * kDiskSize);
  const auto table = read(bytes);
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_EQ(table->partitions.size(), 3U);
}

class BrokenGpt : public testing::Test {
 protected:
  BrokenGpt() : bytes_(made_by_sfdisk(kGptScript)) { bytes_[kBackupHeader] = 'x'; }

  /// The error, with the field of the header changed and the checksum right.
  template <typename T>
  std::string error_with(u64 field, T value) {
    put(bytes_, kHeader + field, value);
    sign_header(bytes_);
    return error_of(bytes_);
  }
  static std::string damaged(const std::string& how) {
    return "its GPT is damaged (" + how + "), and so is the backup (the header has no signature)";
  }

  std::vector<u8> bytes_;
};

TEST_F(BrokenGpt, WithoutSignature) {
  bytes_[kHeader] = 'x';
  EXPECT_EQ(error_of(bytes_), damaged("the header has no signature"));
}

TEST_F(BrokenGpt, WithAWrongChecksum) {
  bytes_[kHeader + 40] ^= 1;
  EXPECT_EQ(error_of(bytes_), damaged("the header's checksum is wrong"));
}

TEST_F(BrokenGpt, WithWrongEntries) {
  bytes_[1024] ^= 1;
  EXPECT_EQ(error_of(bytes_), damaged("the entries' checksum is wrong"));
}

TEST_F(BrokenGpt, WithAnImpossibleHeaderSize) {
  EXPECT_EQ(error_with(12, u32{0xFFFFFFFF}), damaged("the header's size is 4294967295"));
  EXPECT_EQ(error_with(12, u32{0}), damaged("the header's size is 0"));
}

TEST_F(BrokenGpt, OfAnotherPlace) {
  EXPECT_EQ(error_with(24, u64{7}), damaged("the header belongs elsewhere"));
}

TEST_F(BrokenGpt, WithImpossibleEntries) {
  EXPECT_EQ(error_with(84, u32{0}), damaged("entries have 0 bytes"));
  EXPECT_EQ(error_with(84, u32{192}), damaged("entries have 192 bytes"));
  EXPECT_EQ(error_with(84, u32{0x80000000}), damaged("entries have 2147483648 bytes"));
}

TEST_F(BrokenGpt, WithTooManyEntries) {
  EXPECT_EQ(error_with(80, u32{0xFFFFFFFF}), damaged("it has 4294967295 entries"));
}

TEST_F(BrokenGpt, WithEntriesBeyondTheEnd) {
  EXPECT_EQ(error_with(72, ~u64{0}), damaged("the entries lie beyond the end"));
  EXPECT_EQ(error_with(72, u64{kDiskSize / 512 - 1}), damaged("the entries lie beyond the end"));
}

TEST(PartitionTable, GptEntriesThatLieElsewhereAreLeftOut) {
  auto bytes = made_by_sfdisk(kGptScript);
  put(bytes, 1024 + 32, u64{1} << 60);  // the first begins beyond the end
  put(bytes, 1024 + 40, ~u64{0} - 1);
  put(bytes, 1024 + 128 + 40, u64{4096 - 1});      // the second ends before it begins
  put(bytes, 1024 + 14 * 128 + 40, u64{1} << 62);  // the third ends beyond the end
  put(bytes, kHeader + 88, static_cast<u32>(::crc32(0, bytes.data() + 1024, 128 * 128)));
  sign_header(bytes);
  const auto table = read(bytes);
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->partitions.size(), 1U);
  EXPECT_EQ(table->partitions[0].offset, 4 * kMiB);
  EXPECT_EQ(table->partitions[0].size, kDiskSize - 4 * kMiB);
}

const char* const kMbrScript =
    "label: dos\nlabel-id: 0x1234abcd\n"
    "start=2048, size=2048, type=83\n"
    "start=4096, size=16384, type=5\n"
    "5 : start=6144, size=2048, type=83\n"
    "6 : start=10240, size=2048, type=83\n"
    "7 : start=14336, size=2048, type=82\n";

/// Where each logical partition's own table is, in bytes.
std::vector<u64> logical_tables(const std::vector<u8>& bytes) {
  std::vector<u64> at = {4096 * 512};
  while (at.size() < 3) {
    u32 next = 0;
    std::memcpy(&next, bytes.data() + at.back() + 446 + 16 + 8, sizeof next);
    at.push_back((4096 + u64{next}) * 512);
  }
  return at;
}

TEST(PartitionTable, MbrHasPrimaryAndLogicalPartitions) {
  const auto table = read(made_by_sfdisk(kMbrScript));
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->partitions.size(), 4U);
  EXPECT_EQ(table->partitions[0].offset, 1 * kMiB);
  EXPECT_EQ(table->partitions[0].uuid, "1234abcd-01");
  EXPECT_EQ(table->partitions[1].number, 5U);
  EXPECT_EQ(table->partitions[1].offset, 3 * kMiB);
  EXPECT_EQ(table->partitions[1].uuid, "1234abcd-05");
  EXPECT_EQ(table->partitions[3].offset, 7 * kMiB);
  EXPECT_EQ(table->partitions[3].size, 1 * kMiB);
}

TEST(PartitionTable, LoopOfLogicalPartitionsIsRefused) {
  auto bytes = made_by_sfdisk(kMbrScript);
  put(bytes, logical_tables(bytes)[2] + 446 + 16 + 4, u8{5});
  put(bytes, logical_tables(bytes)[2] + 446 + 16 + 8, u32{0});
  put(bytes, logical_tables(bytes)[2] + 446 + 16 + 12, u32{1});
  EXPECT_EQ(error_of(bytes), "its logical partitions form a loop");
}

TEST(PartitionTable, LogicalPartitionWithoutTableIsRefused) {
  auto bytes = made_by_sfdisk(kMbrScript);
  bytes[logical_tables(bytes)[1] + 510] = 0;
  EXPECT_EQ(error_of(bytes), "the table of logical partition 6 is damaged");
}

TEST(PartitionTable, LogicalPartitionBeyondTheEndIsRefused) {
  auto bytes = made_by_sfdisk(kMbrScript);
  put(bytes, logical_tables(bytes)[0] + 446 + 16 + 8, u32{0xFFFFFFFF});
  EXPECT_EQ(error_of(bytes), "a partition table points beyond the end");
}

TEST(PartitionTable, NumberOfLogicalPartitionsHasALimit) {
  auto bytes = made_by_sfdisk(kMbrScript);
  const u64 extended = 4096;
  for (u32 i = 0; i < 200; ++i) {  // each one's table in the sector behind the one before
    const u64 at = (extended + i) * 512;
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), 512, u8{0});
    put(bytes, at + 446 + 16 + 4, u8{5});
    put(bytes, at + 446 + 16 + 8, u32{i + 1});
    put(bytes, at + 446 + 16 + 12, u32{1});
    put(bytes, at + 510, u16{0xAA55});
  }
  EXPECT_EQ(error_of(bytes), "it has more than 128 logical partitions");
}

TEST(PartitionTable, NoneOnAnEmptyDisk) {
  for (const u64 size : {u64{0}, u64{100}, u64{512}, kMiB}) {
    const auto table = read(std::vector<u8>(size));
    ASSERT_TRUE(table) << table.error().message;
    EXPECT_FALSE(table->found);
  }
}

TEST(PartitionTable, BootSectorOfAFileSystemIsNone) {
  std::vector<u8> bytes(kMiB, 0xEB);
  put(bytes, 510, u16{0xAA55});
  const auto table = read(bytes);
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_FALSE(table->found);
}

TEST(PartitionTable, GptOfADiskThatEndsAtOnceIsDamaged) {
  auto bytes = made_by_sfdisk(kGptScript);
  bytes.resize(512);
  EXPECT_NE(error_of(bytes), "no error");
}

}  // namespace
}  // namespace vert::machine::disk_boot

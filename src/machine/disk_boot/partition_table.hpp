// The partitions of a disk: GPT (UEFI 2.10, chapter 5) and MBR with logical partitions. All of it is hostile
// input.
#pragma once

#include <string>
#include <vector>

#include "machine/disk_boot/block_reader.hpp"

namespace vert::machine::disk_boot {

/// What a partition's type says it is for, as the Discoverable Partitions Specification has it.
enum class PartitionRole { kUnknown, kRoot, kBoot, kEfiSystem };

struct Partition {
  unsigned number = 0;  // as in /dev/vda1
  u64 offset = 0;       // bytes
  u64 size = 0;
  PartitionRole role = PartitionRole::kUnknown;
  std::string uuid;  // as Linux's root=PARTUUID= takes it
};

struct PartitionTable {
  bool found = false;
  std::vector<Partition> partitions;
};

/// The table of the disk, if it has one, without unused entries and what lies beyond the disk's end. Error:
/// the table is damaged, and so is its backup.
[[nodiscard]] Result<PartitionTable> read_partition_table(BlockReader& disk);

}  // namespace vert::machine::disk_boot

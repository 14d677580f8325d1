// The file systems of a disk: on its partitions, or on the bare disk.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine/disk_boot/ext_file_system.hpp"
#include "machine/disk_boot/file_system_kind.hpp"
#include "machine/disk_boot/partition_table.hpp"

namespace vert::machine::disk_boot {

struct Volume {
  std::optional<Partition> partition;  // nothing: the bare disk
  FileSystemGuess guess;
  std::unique_ptr<ExtFileSystem> files;  // nothing unless it is a readable ext4
  std::string fault;                     // why an ext4 is not readable

  [[nodiscard]] PartitionRole role() const { return partition ? partition->role : PartitionRole::kUnknown; }
  /// As in "partition 2 is XFS".
  [[nodiscard]] std::string place() const;
  /// What holds a Linux, and not just its kernels.
  [[nodiscard]] bool is_root() const;
};

class Volumes {
 public:
  /// Error: one that says why none of the disk can be read.
  [[nodiscard]] static Result<Volumes> open(BlockReader& disk);

  /// Where a kernel may be: those that can be read, in the order in which to look.
  [[nodiscard]] std::vector<Volume*> readable();
  [[nodiscard]] Volume* by_uuid(const std::string& uuid);
  [[nodiscard]] Volume* by_label(const std::string& label);
  [[nodiscard]] Volume* by_number(unsigned number);
  /// Where the root file system seems to be; `kernel` holds the kernel. Null if nothing seems so.
  [[nodiscard]] const Volume* root(const Volume& kernel) const;

  /// Why no kernel has been found.
  [[nodiscard]] Error describe_failure() const;

 private:
  std::vector<Volume> volumes_;
};

}  // namespace vert::machine::disk_boot

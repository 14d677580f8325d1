// The table of internal snapshots in a qcow2 image. Pure but for reading; the image's thread.
#pragma once

#include <string>
#include <vector>

#include "storage/image_file.hpp"
#include "storage/qcow2/header.hpp"

namespace vert::storage::qcow2 {

struct Snapshot {
  u64 l1_offset = 0;
  u32 l1_entries = 0;
  std::string id;
  std::string name;
  u32 seconds = 0;  // since the epoch
  u32 nanoseconds = 0;
  u64 vm_clock = 0;  // in nanoseconds
  u64 vm_state_size = 0;
  u64 disk_size = 0;
  std::vector<u8> unknown_extra = {};  // behind what version 3 defines
};

/// Error: the table is cut short or has impossible entries.
[[nodiscard]] Task<Result<std::vector<Snapshot>>> read_snapshots(ImageFile& file, const Header& header);
[[nodiscard]] std::vector<u8> encode_snapshots(const std::vector<Snapshot>& snapshots);
/// By name or, if there is none, by ID.
[[nodiscard]] const Snapshot* find_snapshot(const std::vector<Snapshot>& snapshots, const std::string& which);

}  // namespace vert::storage::qcow2

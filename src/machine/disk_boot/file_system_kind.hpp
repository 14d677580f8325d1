// What a partition holds, told by its magic numbers.
#pragma once

#include <string_view>

#include "machine/disk_boot/block_reader.hpp"

namespace vert::machine::disk_boot {

enum class FileSystemKind { kUnknown, kExt, kOther };

struct FileSystemGuess {
  FileSystemKind kind = FileSystemKind::kUnknown;
  std::string_view name;   // for people
  bool is_linux = false;   // a Linux may be there
  bool mountable = false;  // root= can name it
};

/// `size` bytes of the disk from `offset`.
[[nodiscard]] Result<FileSystemGuess> guess_file_system(BlockReader& disk, u64 offset, u64 size);

}  // namespace vert::machine::disk_boot

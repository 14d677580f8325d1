// Finds the kernel, initial RAM disk and command line in a whole-disk image, so that a disk boots without
// other files.
//
// The image is hostile: a confined child process (confined_child.hpp) makes sense of it, and the calling
// thread reads the bytes for it. May be called while other threads run.
#pragma once

#include <string>
#include <vector>

#include "machine/disk_boot/block_reader.hpp"

namespace vert::machine::disk_boot {

inline constexpr u64 kMaxBootFile = u64{512} << 20;
inline constexpr u64 kMaxBootText = 4096;  // the command line, and the description

struct DiskBoot {
  std::vector<u8> kernel;
  std::vector<u8> initrd;    // may be empty
  std::string command_line;  // printable ASCII
  std::string description;   // one line: "booting /boot/vmlinuz-... with /boot/initrd.img-... (...)"
};

/// `name` is the image's, for errors: one line each, which says what to do.
[[nodiscard]] Result<DiskBoot> find_disk_boot(BlockReader& disk, const std::string& name);

}  // namespace vert::machine::disk_boot

// ELF kernels: program headers and the PVH note, checked (System V ABI, chapters 4 and 5).
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "machine/boot/image_view.hpp"
#include "machine/boot/placement.hpp"

namespace vert::machine {

struct ElfSegment {
  u64 file_offset = 0;
  u64 file_size = 0;  // lies within the file, and is at most memory_size
  u64 virtual_address = 0;
  u64 physical_address = 0;
  u64 memory_size = 0;
};

struct ElfImage {
  bool is_64bit = false;
  u64 entry = 0;                     // physical
  std::vector<ElfSegment> segments;  // PT_LOAD with memory, at least one
  std::optional<u32> pvh_entry;      // XEN_ELFNOTE_PHYS32_ENTRY
};

[[nodiscard]] bool is_elf(ImageView image);
[[nodiscard]] Result<ElfImage> parse_elf(std::string_view name, ImageView image);
/// Puts the segments at their physical addresses.
[[nodiscard]] Status put_elf(std::string_view name, ImageView image, const ElfImage& elf,
                             Placement& placement);

}  // namespace vert::machine

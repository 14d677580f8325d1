// The loaders, one a kind of kernel, and what only boot/ needs of them.
#pragma once

#include <optional>
#include <span>

#include "machine/boot/image_view.hpp"
#include "machine/boot/kernel_image.hpp"
#include "machine/boot/placement.hpp"

namespace vert::machine {

[[nodiscard]] bool is_bzimage(ImageView image);
/// Offset of a multiboot 1 header whose checksum holds.
[[nodiscard]] std::optional<u64> find_multiboot_header(ImageView image);

[[nodiscard]] Status load_bzimage(const BootSource& source, const MemoryMap& map, Placement& placement,
                                  cpu::CpuState& state);
[[nodiscard]] Status load_multiboot(const BootSource& source, const MemoryMap& map, Placement& placement,
                                    cpu::CpuState& state);
[[nodiscard]] Status load_pvh(const BootSource& source, const MemoryMap& map, Placement& placement,
                              cpu::CpuState& state);
[[nodiscard]] Status load_plain_elf(const BootSource& source, const MemoryMap& map, Placement& placement,
                                    cpu::CpuState& state);

}  // namespace vert::machine

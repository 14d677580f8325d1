// The newest kernel of a volume, for images without a boot loader's configuration: by the names that
// distributions give to kernels and initrds in /boot.
#pragma once

#include "machine/disk_boot/boot_choice.hpp"

namespace vert::machine::disk_boot {

[[nodiscard]] std::optional<BootChoice> choose_newest_kernel(Volumes& volumes, Volume& volume);

}  // namespace vert::machine::disk_boot

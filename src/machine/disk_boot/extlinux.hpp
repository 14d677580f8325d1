// What EXTLINUX or SYSLINUX would boot by its configuration, which U-Boot reads, too.
#pragma once

#include "machine/disk_boot/boot_choice.hpp"

namespace vert::machine::disk_boot {

/// Nothing if the volume has no such file, or one that vert does not understand, which `note` then tells.
[[nodiscard]] std::optional<BootChoice> choose_by_extlinux(Volumes& volumes, Volume& volume,
                                                           std::string& note);

}  // namespace vert::machine::disk_boot

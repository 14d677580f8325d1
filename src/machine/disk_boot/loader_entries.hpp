// Boot Loader Specification, type 1: a file for each entry in loader/entries, as systemd-boot and Fedora's
// GRUB have them.
#pragma once

#include "machine/disk_boot/boot_choice.hpp"

namespace vert::machine::disk_boot {

/// Nothing if the volume has no entries, or none whose kernel is there, which `note` then tells.
[[nodiscard]] std::optional<BootChoice> choose_by_loader_entries(Volumes& volumes, Volume& volume,
                                                                 std::string& note);

}  // namespace vert::machine::disk_boot

// What GRUB would boot by its grub.cfg.
#pragma once

#include "machine/disk_boot/boot_choice.hpp"
#include "machine/disk_boot/config_text.hpp"

namespace vert::machine::disk_boot {

/// Nothing if the volume has no grub.cfg, or one that vert does not understand, which `note` then tells.
[[nodiscard]] std::optional<BootChoice> choose_by_grub(Volumes& volumes, Volume& volume, std::string& note);

/// What GRUB knows before it shows entries: its environment block, and what grub.cfg sets.
[[nodiscard]] Variables read_grub_variables(Volume& volume);

}  // namespace vert::machine::disk_boot

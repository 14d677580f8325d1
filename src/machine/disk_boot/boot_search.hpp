// The search itself, as the confined child does it: which file system, which entry, which files.
#pragma once

#include "machine/disk_boot/block_reader.hpp"
#include "machine/disk_boot/confined_child.hpp"

namespace vert::machine::disk_boot {

/// Writes four sections: kernel, initrd (may be empty), command line, description. Error: nothing to boot was
/// found.
Status search_and_copy(BlockReader& disk, ConfinedOutput& output);

}  // namespace vert::machine::disk_boot

// The kernel, and initrd or modules, that a machine boots, kept for as long as it may have to boot again.
#pragma once

#include <deque>
#include <vector>

#include "base/error.hpp"
#include "machine/boot/kernel_image.hpp"
#include "machine/machine.hpp"

namespace vert::machine {

struct BootFiles {
  std::vector<u8> kernel;
  std::deque<std::vector<u8>> modules;
  BootSource source;  // views of the above
};

/// Whether the first disk says what to boot.
[[nodiscard]] bool boots_from_disk(const MachineConfig& config);

/// Reads what `config` names: for a multiboot kernel, its initrd is a list of modules. `disks_open`: this
/// process has the disks open, and what was written to them is flushed. Error: a file cannot be read, is
/// empty, or is larger than the memory; the disk has nothing to boot.
[[nodiscard]] Result<std::unique_ptr<BootFiles>> read_boot_files(const MachineConfig& config,
                                                                 bool disks_open);

}  // namespace vert::machine

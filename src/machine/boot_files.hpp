// The kernel, and initrd or modules, that a machine boots, kept for as long as it may have to boot again.
#pragma once

#include <vector>

#include "base/error.hpp"
#include "machine/boot/kernel_image.hpp"
#include "machine/machine.hpp"

namespace vert::machine {

struct BootFiles {
  std::vector<u8> kernel;
  std::vector<std::vector<u8>> modules;
  BootSource source;  // views of the above
};

/// Reads what `config` names: for a multiboot kernel, its initrd is a list of modules. Error: a file cannot
/// be read, is empty, or is larger than the memory.
[[nodiscard]] Result<std::unique_ptr<BootFiles>> read_boot_files(const MachineConfig& config);

}  // namespace vert::machine

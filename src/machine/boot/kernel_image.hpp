// Boot images: what kind a kernel file is, and placing it in guest memory ready to run.
//
// Files are hostile: every field is checked before it is used, and every error is one line that names the
// file and what is wrong with it. Guest RAM must be all zeroes but for firmware tables (a fresh machine).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "cpu/cpu_state.hpp"
#include "machine/firmware/memory_map.hpp"
#include "memory/guest_memory.hpp"

namespace vert::machine {

enum class KernelKind {
  kBzImage,    // Linux boot protocol 2.12 or later, by its 64-bit or else its 32-bit entry
  kMultiboot,  // multiboot 1
  kPvh,        // ELF with a Xen PHYS32_ENTRY note
  kElf,        // ELF without: entered as Linux's vmlinux is, with boot_params
};

/// What is loaded beside the kernel: an initial RAM disk, or a multiboot module.
struct BootModule {
  std::string name;          // of the file, for messages
  std::string command_line;  // multiboot: the name and what follows it
  std::span<const u8> bytes;
};

struct BootSource {
  std::string kernel_name;  // for messages, and the multiboot command line's first word
  std::span<const u8> kernel;
  std::vector<BootModule> modules;  // any number for multiboot, else at most one
  std::string command_line;
};

/// What the file is, by its content.
[[nodiscard]] Result<KernelKind> detect_kernel(std::string_view name, std::span<const u8> kernel);

/// How many bytes of a bzImage are real-mode setup, before the kernel itself; 0 for anything else.
[[nodiscard]] u64 bzimage_setup_size(std::span<const u8> kernel);

/// Places kernel, initrd and boot data in `memory`, and sets `state` (of the boot processor, after
/// cpu::reset()) to the kernel's entry. On an error memory may hold part of the image.
[[nodiscard]] Status load_kernel(const BootSource& source, const MemoryMap& map, memory::GuestMemory& memory,
                                 cpu::CpuState& state);

}  // namespace vert::machine

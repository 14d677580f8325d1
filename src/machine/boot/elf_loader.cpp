// ELF kernels: by their PVH entry (Xen, docs/misc/pvh.pandoc), or as Linux's vmlinux without one.
#include <array>
#include <cstring>

#include "machine/boot/elf_image.hpp"
#include "machine/boot/entry_state.hpp"
#include "machine/boot/linux_params.hpp"
#include "machine/boot/loaders_internal.hpp"

namespace vert::machine {

namespace {

/// struct hvm_start_info, version 1 (Xen, public/arch-x86/hvm/start_info.h).
struct HvmStartInfo {
  u32 magic = 0x336EC578;
  u32 version = 1;
  u32 flags = 0;
  u32 module_count = 0;
  u64 modules = 0;
  u64 command_line = boot_area::kCommandLine;
  u64 rsdp = kBiosTablesBase;
  u64 memory_map = 0;
  u32 memory_map_entries = 0;
  u32 reserved = 0;
};
static_assert(sizeof(HvmStartInfo) == 56);

struct HvmModule {
  u64 address = 0;
  u64 size = 0;
  u64 command_line = 0;
  u64 reserved = 0;
};

struct HvmMemoryMapEntry {
  u64 address = 0;
  u64 size = 0;
  u32 type = 0;
  u32 reserved = 0;
};

template <typename T>
std::span<const u8> bytes_of(const T& value) {
  return {reinterpret_cast<const u8*>(&value), sizeof value};
}

void put_memory_map(const MemoryMap& map, HvmStartInfo& info, Placement& placement) {
  constexpr u64 kMapAddress = boot_area::kTables + sizeof(HvmModule);
  info.memory_map = kMapAddress;
  for (const E820Entry& entry : map.e820()) {
    const HvmMemoryMapEntry raw = {entry.base, entry.size, static_cast<u32>(entry.type), 0};
    placement.put_boot_data(kMapAddress + info.memory_map_entries * sizeof raw, bytes_of(raw));
    ++info.memory_map_entries;
  }
}

Status put_initrd_module(const BootSource& source, const MemoryMap& map, HvmStartInfo& info,
                         Placement& placement) {
  if (source.modules.empty()) return {};
  const BootModule& initrd = source.modules.front();
  HvmModule module;
  module.size = initrd.bytes.size();
  VERT_ASSIGN(module.address,
              placement.find_highest(initrd.name, module.size, placement.low_end_used(), map.low_end()));
  VERT_TRY(placement.put(initrd.name, module.address, module.size, initrd.bytes));
  placement.put_boot_data(boot_area::kTables, bytes_of(module));
  info.modules = boot_area::kTables;
  info.module_count = 1;
  return {};
}

/// The header that a bzImage would have had.
std::array<u8, setup_header::kEnd - setup_header::kStart> vmlinux_setup_header() {
  namespace header = setup_header;
  constexpr u16 kVersion = 0x20C;
  constexpr u32 kAlignment = 0x200000;
  std::array<u8, header::kEnd - header::kStart> bytes{};
  const auto set = [&](u64 offset, auto value) {
    std::memcpy(bytes.data() + (offset - header::kStart), &value, sizeof value);
  };
  set(header::kBootFlag, header::kBootFlagValue);
  set(header::kMagic, header::kMagicValue);
  set(header::kVersion, kVersion);
  set(header::kLoadFlags, header::kLoadedHigh);
  set(header::kAlignment, kAlignment);
  return bytes;
}

}  // namespace

Status load_pvh(const BootSource& source, const MemoryMap& map, Placement& placement, cpu::CpuState& state) {
  VERT_ASSIGN(const ElfImage elf, parse_elf(source.kernel_name, source.kernel));
  VERT_TRY(put_elf(source.kernel_name, source.kernel, elf, placement));
  VERT_TRY(placement.put_command_line(source.command_line, boot_area::kCommandLineSize));
  HvmStartInfo info;
  VERT_TRY(put_initrd_module(source, map, info, placement));
  put_memory_map(map, info, placement);
  placement.put_boot_data(boot_area::kInfo, bytes_of(info));
  enter_flat32(placement, state, elf.pvh_entry.value());
  state.gpr[x86::kRbx] = boot_area::kInfo;
  return {};
}

Status load_plain_elf(const BootSource& source, const MemoryMap& map, Placement& placement,
                      cpu::CpuState& state) {
  VERT_ASSIGN(const ElfImage elf, parse_elf(source.kernel_name, source.kernel));
  if (elf.entry >= kFourGiB)
    return make_error("{}: its entry point {:#x} lies above 4 GiB", source.kernel_name, elf.entry);
  VERT_TRY(put_elf(source.kernel_name, source.kernel, elf, placement));
  if (elf.is_64bit)
    enter_long_mode(placement, state, elf.entry);
  else
    enter_flat32(placement, state, static_cast<u32>(elf.entry));
  return put_linux_params(source, map,
                          {.header = vmlinux_setup_header(),
                           .initrd_limit = map.low_end(),
                           .command_line_limit = boot_area::kCommandLineSize},
                          placement, state);
}

}  // namespace vert::machine

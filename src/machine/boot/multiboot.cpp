// Multiboot 1 kernels (Multiboot Specification 0.6.96).
#include <algorithm>
#include <cstring>

#include "machine/boot/elf_image.hpp"
#include "machine/boot/entry_state.hpp"
#include "machine/boot/loaders_internal.hpp"

namespace vert::machine {

namespace {

// Section 3.1, the header.
constexpr u32 kHeaderMagic = 0x1BADB002;
constexpr u64 kSearchLimit = 8192;
constexpr u32 kMustUnderstand = 0xFFFF;
constexpr u32 kUnderstood = 0x7;  // page-aligned modules, memory information, video mode (a wish)
constexpr u32 kHasAddresses = 1U << 16;

/// The address fields, for images that are no ELF files.
struct AddressFields {
  u32 header = 0;
  u32 load = 0;
  u32 load_end = 0;
  u32 bss_end = 0;
  u32 entry = 0;
};

// Section 3.2 and 3.3, what the kernel gets.
constexpr u32 kLoaderMagic = 0x2BADB002;

struct MultibootInfo {
  static constexpr u32 kMemory = 1U << 0;
  static constexpr u32 kCommandLine = 1U << 2;
  static constexpr u32 kModules = 1U << 3;
  static constexpr u32 kMemoryMap = 1U << 6;
  static constexpr u32 kLoaderName = 1U << 9;

  u32 flags = 0;
  u32 memory_lower_kib = 0;
  u32 memory_upper_kib = 0;
  u32 boot_device = 0;
  u32 command_line = 0;
  u32 module_count = 0;
  u32 modules = 0;
  u32 symbols[4] = {};
  u32 memory_map_length = 0;
  u32 memory_map = 0;
  u32 drives_length = 0;
  u32 drives = 0;
  u32 config_table = 0;
  u32 loader_name = 0;
  u32 apm_table = 0;
  u32 video[12] = {};
};
static_assert(sizeof(MultibootInfo) == 120);

struct MultibootModule {
  u32 start = 0;
  u32 end = 0;
  u32 command_line = 0;
  u32 reserved = 0;
};

struct [[gnu::packed]] MultibootMemoryMapEntry {
  u32 size = 20;  // of what follows
  u64 base = 0;
  u64 length = 0;
  u32 type = 0;
};
static_assert(sizeof(MultibootMemoryMapEntry) == 24);

// Within boot_area::kTables.
constexpr u64 kMaxModules = 128;
constexpr u64 kModuleTable = boot_area::kTables;
constexpr u64 kLoaderNameAt = kModuleTable + kMaxModules * sizeof(MultibootModule);
constexpr char kLoaderNameText[16] = "vert";
constexpr u64 kMemoryMapAt = kLoaderNameAt + sizeof kLoaderNameText;

template <typename T>
std::span<const u8> bytes_of(const T& value) {
  return {reinterpret_cast<const u8*>(&value), sizeof value};
}

/// Puts an image by its header's address fields (3.1.3); yields the entry point.
Result<u32> put_by_addresses(const std::string& name, ImageView image, u64 header_offset,
                             Placement& placement) {
  constexpr u64 kAddressFieldsAt = 12;
  const auto fields = image.read<AddressFields>(header_offset + kAddressFieldsAt);
  if (!fields) return make_error("{}: truncated: ends within its multiboot header", name);
  if (fields->header < fields->load || fields->header - fields->load > header_offset)
    return make_error(
        "{}: its multiboot header says load address {:#x} and header address {:#x}, but lies at {:#x}", name,
        fields->load, fields->header, header_offset);
  const u64 file_offset = header_offset - (fields->header - fields->load);
  const u64 load_end = fields->load_end != 0 ? fields->load_end : fields->load + (image.size() - file_offset);
  if (load_end < fields->load)
    return make_error("{}: its multiboot header ends loading at {:#x}, before the start {:#x}", name,
                      load_end, fields->load);
  const auto bytes = image.slice(file_offset, load_end - fields->load);
  if (!bytes)
    return make_error("{}: truncated: its multiboot header asks for {} bytes, the file has {}", name,
                      load_end - fields->load, image.size() - file_offset);
  const u64 end = fields->bss_end != 0 ? fields->bss_end : load_end;
  if (end < load_end)
    return make_error("{}: its multiboot header ends the bss at {:#x}, within the image", name, end);
  if (fields->entry < fields->load || fields->entry >= end)
    return make_error("{}: its entry point {:#x} lies outside of the image", name, fields->entry);
  VERT_TRY(placement.put(name, fields->load, end - fields->load, *bytes));
  return fields->entry;
}

Result<u32> put_elf_kernel(const std::string& name, ImageView image, Placement& placement) {
  if (!is_elf(image))
    return make_error("{}: a multiboot header without addresses, but not an ELF file", name);
  VERT_ASSIGN(const ElfImage elf, parse_elf(name, image));
  if (elf.entry >= kFourGiB) return make_error("{}: its entry point {:#x} lies above 4 GiB", name, elf.entry);
  VERT_TRY(put_elf(name, image, elf, placement));
  return static_cast<u32>(elf.entry);
}

Result<MultibootModule> put_module(const BootModule& module, const MemoryMap& map, Placement& placement) {
  const u64 size = module.bytes.size();
  VERT_ASSIGN(const u64 start,
              placement.find_lowest(module.name, size, placement.low_end_used(), map.low_end()));
  VERT_TRY(placement.put(module.name, start, size, module.bytes));
  VERT_ASSIGN(const u64 line, placement.put_module_line(module.command_line));
  return MultibootModule{static_cast<u32>(start), static_cast<u32>(start + size), static_cast<u32>(line), 0};
}

Status put_modules(const BootSource& source, const MemoryMap& map, MultibootInfo& info,
                   Placement& placement) {
  if (source.modules.empty()) return {};
  if (source.modules.size() > kMaxModules)
    return make_error("{} modules are more than a multiboot kernel can be given: {} are the most",
                      source.modules.size(), kMaxModules);
  info.flags |= MultibootInfo::kModules;
  info.modules = static_cast<u32>(kModuleTable);
  for (const BootModule& module : source.modules) {
    VERT_ASSIGN(const MultibootModule entry, put_module(module, map, placement));
    placement.put_boot_data(kModuleTable + info.module_count * sizeof entry, bytes_of(entry));
    ++info.module_count;
  }
  return {};
}

void put_memory_map(const MemoryMap& map, MultibootInfo& info, Placement& placement) {
  info.flags |= MultibootInfo::kMemory | MultibootInfo::kMemoryMap;
  info.memory_lower_kib = static_cast<u32>(kEbdaBase >> 10);
  info.memory_upper_kib = static_cast<u32>((map.low_end() - kOneMiB) >> 10);
  info.memory_map = static_cast<u32>(kMemoryMapAt);
  for (const E820Entry& entry : map.e820()) {
    const MultibootMemoryMapEntry raw = {20, entry.base, entry.size, static_cast<u32>(entry.type)};
    placement.put_boot_data(kMemoryMapAt + info.memory_map_length, bytes_of(raw));
    info.memory_map_length += static_cast<u32>(sizeof raw);
  }
}

}  // namespace

std::optional<u64> find_multiboot_header(ImageView image) {
  for (u64 offset = 0; offset < std::min(image.size(), kSearchLimit); offset += 4) {
    const auto magic = image.read<u32>(offset);
    const auto flags = image.read<u32>(offset + 4);
    const auto checksum = image.read<u32>(offset + 8);
    if (!checksum) break;
    if (*magic == kHeaderMagic && *magic + *flags + *checksum == 0) return offset;
  }
  return std::nullopt;
}

Status load_multiboot(const BootSource& source, const MemoryMap& map, Placement& placement,
                      cpu::CpuState& state) {
  const ImageView image = source.kernel;
  const u64 header_offset = find_multiboot_header(image).value();
  const u32 flags = image.read<u32>(header_offset + 4).value();
  if (const u32 unknown = flags & kMustUnderstand & ~kUnderstood; unknown != 0)
    return make_error("{}: its multiboot header requires features that vert does not know (flags {:#x})",
                      source.kernel_name, unknown);
  VERT_ASSIGN(const u32 entry, (flags & kHasAddresses) != 0
                                   ? put_by_addresses(source.kernel_name, image, header_offset, placement)
                                   : put_elf_kernel(source.kernel_name, image, placement));
  MultibootInfo info;
  // By convention the first word is the kernel's own name.
  VERT_TRY(placement.put_command_line(source.kernel_name + " " + source.command_line,
                                      boot_area::kCommandLineSize));
  info.flags |= MultibootInfo::kCommandLine | MultibootInfo::kLoaderName;
  info.command_line = static_cast<u32>(boot_area::kCommandLine);
  info.loader_name = static_cast<u32>(kLoaderNameAt);
  placement.put_boot_data(kLoaderNameAt, bytes_of(kLoaderNameText));
  VERT_TRY(put_modules(source, map, info, placement));
  put_memory_map(map, info, placement);
  placement.put_boot_data(boot_area::kInfo, bytes_of(info));
  enter_flat32(placement, state, entry);
  state.gpr[x86::kRax] = kLoaderMagic;
  state.gpr[x86::kRbx] = boot_area::kInfo;
  return {};
}

}  // namespace vert::machine

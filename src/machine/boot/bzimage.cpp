// Linux bzImage by its 64-bit or 32-bit entry point (Documentation/arch/x86/boot.rst).
#include <algorithm>
#include <bit>

#include "machine/boot/entry_state.hpp"
#include "machine/boot/linux_params.hpp"
#include "machine/boot/loaders_internal.hpp"

namespace vert::machine {

namespace {

namespace header = setup_header;

constexpr u64 kSectorSize = 512;
constexpr u64 kEntry64 = 0x200;  // of the protected-mode part

/// The setup header's fields, checked.
struct BzImage {
  std::span<const u8> setup_header;
  std::span<const u8> protected_mode;
  u64 load_address = 0;
  u64 memory_size = 0;
  u64 initrd_limit = 0;
  u64 command_line_size = 0;
  bool is_64bit = false;
};

/// All fields up to header::kEnd lie in the file: parse_bzimage() saw to it.
template <typename T>
T field(ImageView image, u64 offset) {
  return image.read<T>(offset).value();
}

/// Where the kernel wants to lie: as it says, or aligned as it says if it can be moved.
Result<u64> load_address(std::string_view name, ImageView image) {
  const u64 preferred = field<u64>(image, header::kPreferredAddress);
  if (field<u8>(image, header::kRelocatable) == 0) return preferred;
  const u64 alignment = field<u32>(image, header::kAlignment);
  if (!std::has_single_bit(alignment))
    return make_error("{}: its kernel_alignment {:#x} is not a power of two", name, alignment);
  if (preferred > kFourGiB)
    return make_error("{}: wants to be loaded at {:#x}, above 4 GiB", name, preferred);
  return (std::max(preferred, kOneMiB) + alignment - 1) & ~(alignment - 1);
}

u64 setup_size(ImageView image) {
  constexpr u64 kDefaultSetupSectors = 4;
  const u8 sectors = field<u8>(image, header::kSetupSectors);
  return ((sectors == 0 ? kDefaultSetupSectors : sectors) + 1) * kSectorSize;
}

Result<std::span<const u8>> protected_mode_part(std::string_view name, ImageView image) {
  constexpr u64 kParagraph = 16;
  const u64 start = setup_size(image);
  const u64 paragraphs = field<u32>(image, header::kSystemSize);
  // The last paragraph may be cut short.
  if (start >= image.size() || paragraphs * kParagraph > image.size() - start + (kParagraph - 1))
    return make_error("{}: truncated: {} bytes of setup and {} of kernel in a file of {}", name, start,
                      paragraphs * kParagraph, image.size());
  return *image.slice(start, image.size() - start);
}

Result<BzImage> parse_bzimage(std::string_view name, ImageView image) {
  constexpr u16 kMinVersion = 0x20C;
  constexpr u16 kKernel64 = 1;
  if (image.size() < header::kEnd) return make_error("{}: truncated: ends within its setup header", name);
  const u16 version = field<u16>(image, header::kVersion);
  if (version < kMinVersion)
    return make_error("{}: Linux boot protocol {}.{}, but vert needs 2.12 (Linux 3.8) or later", name,
                      version >> 8, version & 0xFF);
  if ((field<u8>(image, header::kLoadFlags) & header::kLoadedHigh) == 0)
    return make_error("{}: a zImage, which loads low: vert boots bzImages only", name);

  BzImage kernel;
  const u64 header_end = header::kMagic + field<u8>(image, header::kJumpOffset);
  if (header_end < header::kEnd)
    return make_error("{}: its setup header ends at {:#x}, before the fields of its version", name,
                      header_end);
  const u64 copy_end = std::min({header_end, header::kRoomEnd, image.size()});
  kernel.setup_header = *image.slice(header::kStart, copy_end - header::kStart);
  VERT_ASSIGN(kernel.protected_mode, protected_mode_part(name, image));
  kernel.is_64bit = (field<u16>(image, header::kXLoadFlags) & kKernel64) != 0;
  if (kernel.is_64bit && kernel.protected_mode.size() <= kEntry64)
    return make_error("{}: truncated: the kernel ends before its entry point", name);
  VERT_ASSIGN(kernel.load_address, load_address(name, image));
  kernel.memory_size = std::max<u64>(field<u32>(image, header::kInitSize), kernel.protected_mode.size());
  kernel.initrd_limit = u64{field<u32>(image, header::kInitrdMax)} + 1;
  kernel.command_line_size = field<u32>(image, header::kCommandLineSize);
  return kernel;
}

}  // namespace

bool is_bzimage(ImageView image) {
  return image.read<u16>(header::kBootFlag) == header::kBootFlagValue &&
         image.read<u32>(header::kMagic) == header::kMagicValue;
}

u64 bzimage_setup_size(std::span<const u8> kernel) {
  return is_bzimage(kernel) ? std::min<u64>(setup_size(kernel), kernel.size()) : 0;
}

Status load_bzimage(const BootSource& source, const MemoryMap& map, Placement& placement,
                    cpu::CpuState& state) {
  VERT_ASSIGN(const BzImage kernel, parse_bzimage(source.kernel_name, source.kernel));
  if (kernel.load_address >= kFourGiB)
    return make_error("{}: wants to be loaded at {:#x}, above 4 GiB", source.kernel_name,
                      kernel.load_address);
  VERT_TRY(placement.put(source.kernel_name, kernel.load_address, kernel.memory_size, kernel.protected_mode));
  if (kernel.is_64bit)
    enter_long_mode(placement, state, kernel.load_address + kEntry64);
  else
    enter_flat32(placement, state, static_cast<u32>(kernel.load_address));
  return put_linux_params(source, map,
                          {.header = kernel.setup_header,
                           .initrd_limit = kernel.initrd_limit,
                           .command_line_limit = kernel.command_line_size},
                          placement, state);
}

}  // namespace vert::machine

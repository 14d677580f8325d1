#include "machine/boot/kernel_image.hpp"

#include "machine/boot/elf_image.hpp"
#include "machine/boot/loaders_internal.hpp"

namespace vert::machine {

Result<KernelKind> detect_kernel(std::string_view name, std::span<const u8> kernel) {
  if (is_bzimage(kernel)) return KernelKind::kBzImage;
  // A multiboot header is as explicit as a PVH note; images that have both (Xen) pass modules either way.
  if (find_multiboot_header(kernel).has_value()) return KernelKind::kMultiboot;
  if (is_elf(kernel)) {
    VERT_ASSIGN(const ElfImage elf, parse_elf(name, kernel));
    return elf.pvh_entry.has_value() ? KernelKind::kPvh : KernelKind::kElf;
  }
  return make_error(
      "{}: neither a kernel that vert can boot (a Linux bzImage, an ELF file or a multiboot image), nor a "
      "disk with a partition table or ext4",
      name);
}

Status load_kernel(const BootSource& source, const MemoryMap& map, memory::GuestMemory& memory,
                   cpu::CpuState& state) {
  VERT_ASSIGN(const KernelKind kind, detect_kernel(source.kernel_name, source.kernel));
  Placement placement(map, memory);
  switch (kind) {
    case KernelKind::kBzImage: return load_bzimage(source, map, placement, state);
    case KernelKind::kMultiboot: return load_multiboot(source, map, placement, state);
    case KernelKind::kPvh: return load_pvh(source, map, placement, state);
    case KernelKind::kElf: break;
  }
  return load_plain_elf(source, map, placement, state);
}

}  // namespace vert::machine

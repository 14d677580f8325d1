#include "machine/boot/elf_image.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace vert::machine {

namespace {

constexpr unsigned kMaxProgramHeaders = 256;
constexpr u32 kXenPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY

/// The program header's fields that both classes have.
struct ProgramHeader {
  u32 type = 0;
  u64 alignment = 0;
  ElfSegment segment;
};

template <typename Phdr>
std::optional<ProgramHeader> read_program_header(ImageView image, u64 offset) {
  const auto raw = image.read<Phdr>(offset);
  if (!raw) return std::nullopt;
  return ProgramHeader{
      raw->p_type, raw->p_align, {raw->p_offset, raw->p_filesz, raw->p_vaddr, raw->p_paddr, raw->p_memsz}};
}

template <typename Ehdr, typename Phdr>
Result<std::vector<ProgramHeader>> read_headers(std::string_view name, ImageView image, ElfImage& elf) {
  const auto header = image.read<Ehdr>(0);
  if (!header) return make_error("{}: truncated: ends within its ELF header", name);
  if (header->e_machine != EM_X86_64 && header->e_machine != EM_386)
    return make_error("{}: an ELF file for another machine than x86 ({})", name, header->e_machine);
  if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
    return make_error("{}: an ELF file, but not an executable one (type {})", name, header->e_type);
  if (header->e_phnum == 0 || header->e_phnum > kMaxProgramHeaders)
    return make_error("{}: has {} program headers, not 1 to {}", name, header->e_phnum, kMaxProgramHeaders);
  if (header->e_phentsize != sizeof(Phdr))
    return make_error("{}: has program headers of {} bytes instead of {}", name, header->e_phentsize,
                      sizeof(Phdr));
  elf.entry = header->e_entry;
  std::vector<ProgramHeader> headers;
  const u64 start = header->e_phoff;
  if (!image.slice(start, u64{header->e_phnum} * sizeof(Phdr)))
    return make_error("{}: truncated: its program headers lie at {:#x}, past the end of the file", name,
                      start);
  for (u64 i = 0; i < header->e_phnum; ++i)
    headers.push_back(*read_program_header<Phdr>(image, start + i * sizeof(Phdr)));
  return headers;
}

Status check_segment(std::string_view name, ImageView image, const ElfSegment& segment) {
  if (!image.slice(segment.file_offset, segment.file_size))
    return make_error("{}: truncated: a segment of {} bytes at {:#x} passes the end of the file", name,
                      segment.file_size, segment.file_offset);
  if (segment.file_size > segment.memory_size)
    return make_error("{}: a segment has {} bytes in the file but only {} in memory", name, segment.file_size,
                      segment.memory_size);
  return {};
}

/// Looks for the PVH entry among the notes of one segment. Ill-formed notes end the search.
std::optional<u32> find_pvh_entry(ImageView notes, u64 alignment) {
  const auto pad = [&](u64 size) { return (size + alignment - 1) & ~(alignment - 1); };
  u64 offset = 0;
  while (const auto note = notes.read<Elf64_Nhdr>(offset)) {
    const u64 name_at = offset + sizeof(Elf64_Nhdr);
    const u64 descriptor_at = pad(name_at + note->n_namesz);
    const auto owner = notes.slice(name_at, note->n_namesz);
    if (!owner || !notes.slice(descriptor_at, note->n_descsz)) return std::nullopt;
    const bool xen = owner->size() == 4 && std::memcmp(owner->data(), "Xen", 4) == 0;
    if (xen && note->n_type == kXenPhys32Entry && note->n_descsz >= sizeof(u32))
      return notes.read<u32>(descriptor_at);
    offset = pad(descriptor_at + note->n_descsz);
  }
  return std::nullopt;
}

/// Linkers give e_entry as a physical or as a virtual address.
Result<u64> physical_entry(std::string_view name, const ElfImage& elf) {
  for (const ElfSegment& segment : elf.segments)
    if (elf.entry - segment.physical_address < segment.memory_size) return elf.entry;
  for (const ElfSegment& segment : elf.segments)
    if (elf.entry - segment.virtual_address < segment.memory_size)
      return segment.physical_address + (elf.entry - segment.virtual_address);
  return make_error("{}: its entry point {:#x} lies in none of its segments", name, elf.entry);
}

}  // namespace

bool is_elf(ImageView image) {
  const auto ident = image.slice(0, SELFMAG);
  return ident && std::memcmp(ident->data(), ELFMAG, SELFMAG) == 0;
}

Result<ElfImage> parse_elf(std::string_view name, ImageView image) {
  if (image.read<u8>(EI_DATA) != ELFDATA2LSB) return make_error("{}: not a little-endian ELF file", name);
  ElfImage elf;
  elf.is_64bit = image.read<u8>(EI_CLASS) == ELFCLASS64;
  VERT_ASSIGN(const auto headers, elf.is_64bit ? (read_headers<Elf64_Ehdr, Elf64_Phdr>(name, image, elf))
                                               : (read_headers<Elf32_Ehdr, Elf32_Phdr>(name, image, elf)));
  for (const ProgramHeader& header : headers) {
    const ElfSegment& segment = header.segment;
    if (header.type == PT_LOAD && segment.memory_size + segment.file_size != 0) {
      VERT_TRY(check_segment(name, image, segment));
      elf.segments.push_back(segment);
    } else if (header.type == PT_NOTE && !elf.pvh_entry) {
      constexpr u64 kWideAlignment = 8;
      if (const auto notes = image.slice(segment.file_offset, segment.file_size))
        elf.pvh_entry = find_pvh_entry(*notes, header.alignment == kWideAlignment ? kWideAlignment : 4);
    }
  }
  if (elf.segments.empty()) return make_error("{}: an ELF file with nothing to load", name);
  if (elf.pvh_entry) return elf;  // e_entry is for other loaders
  VERT_ASSIGN(elf.entry, physical_entry(name, elf));
  return elf;
}

Status put_elf(std::string_view name, ImageView image, const ElfImage& elf, Placement& placement) {
  for (std::size_t i = 0; i < elf.segments.size(); ++i) {
    const ElfSegment& segment = elf.segments[i];
    VERT_TRY(placement.put(fmt::format("{}: segment {}", name, i), segment.physical_address,
                           segment.memory_size, *image.slice(segment.file_offset, segment.file_size)));
  }
  return {};
}

}  // namespace vert::machine

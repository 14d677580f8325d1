// Hand-made boot images for tests: the smallest files that each loader takes.
#pragma once

#include <elf.h>

#include <cstring>
#include <vector>

#include "base/types.hpp"

namespace vert::test {

using Image = std::vector<u8>;

template <typename T>
void poke(Image& image, u64 offset, T value) {
  if (image.size() < offset + sizeof value) image.resize(offset + sizeof value);
  std::memcpy(image.data() + offset, &value, sizeof value);
}

inline constexpr u64 kBzSetupBytes = 5 * 512;
inline constexpr u64 kBzPayload = 4096;

/// As Debian's: protocol 2.15, relocatable, loads at 16 MiB.
inline Image make_bzimage() {
  Image image(kBzSetupBytes + kBzPayload);
  poke<u8>(image, 0x1F1, 4);
  poke<u32>(image, 0x1F4, kBzPayload / 16);
  poke<u16>(image, 0x1FE, 0xAA55);
  poke<u8>(image, 0x200, 0xEB);
  poke<u8>(image, 0x201, 0x6A);
  poke<u32>(image, 0x202, 0x53726448);
  poke<u16>(image, 0x206, 0x20F);
  poke<u8>(image, 0x211, 1);
  poke<u32>(image, 0x22C, 0x7FFFFFFF);
  poke<u32>(image, 0x230, 0x200000);
  poke<u8>(image, 0x234, 1);
  poke<u16>(image, 0x236, 0x7F);
  poke<u32>(image, 0x238, 2047);
  poke<u64>(image, 0x258, 0x1000000);
  poke<u32>(image, 0x260, 0x400000);
  for (u64 i = 0; i < kBzPayload; ++i) image[kBzSetupBytes + i] = static_cast<u8>(i * 7 + 1);
  return image;
}

struct ElfShape {
  bool pvh = false;
  u16 type = ET_EXEC;
  u16 machine = EM_X86_64;
  u64 physical = 0x1000000;
  u64 virtual_base = 0xFFFFFFFF81000000;
  u64 file_size = 512;
  u64 memory_size = 8192;
};

inline constexpr u64 kElfSegmentAt = 0x400;
inline constexpr u64 kElfNoteAt = 0x200;
inline constexpr u32 kPvhEntry = 0x1000040;

template <typename Ehdr, typename Phdr>
Image make_elf(const ElfShape& shape, u8 elf_class) {
  Image image(kElfSegmentAt + shape.file_size);
  Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = elf_class;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = shape.type;
  header.e_machine = shape.machine;
  header.e_version = EV_CURRENT;
  header.e_entry = static_cast<decltype(header.e_entry)>(shape.physical + 0x10);
  header.e_phoff = sizeof(Ehdr);
  header.e_ehsize = sizeof(Ehdr);
  header.e_phentsize = sizeof(Phdr);
  header.e_phnum = shape.pvh ? 2 : 1;
  poke(image, 0, header);
  Phdr load{};
  load.p_type = PT_LOAD;
  load.p_offset = kElfSegmentAt;
  load.p_vaddr = static_cast<decltype(load.p_vaddr)>(shape.virtual_base);
  load.p_paddr = static_cast<decltype(load.p_paddr)>(shape.physical);
  load.p_filesz = static_cast<decltype(load.p_filesz)>(shape.file_size);
  load.p_memsz = static_cast<decltype(load.p_memsz)>(shape.memory_size);
  load.p_align = 4096;
  poke(image, sizeof(Ehdr), load);
  if (shape.pvh) {
    Phdr note{};
    note.p_type = PT_NOTE;
    note.p_offset = kElfNoteAt;
    note.p_filesz = 20 + 20;
    note.p_align = 4;
    poke(image, sizeof(Ehdr) + sizeof(Phdr), note);
    const auto put_note = [&](u64 at, u32 type, u32 value) {
      poke(image, at, Elf64_Nhdr{4, 4, type});
      std::memcpy(image.data() + at + 12, "Xen", 4);
      poke(image, at + 16, value);
    };
    put_note(kElfNoteAt, 5, 0xDEAD);  // some other note first
    put_note(kElfNoteAt + 20, 18, kPvhEntry);
  }
  for (u64 i = 0; i < shape.file_size; ++i) image[kElfSegmentAt + i] = static_cast<u8>(i * 3 + 5);
  return image;
}

inline Image make_elf64(const ElfShape& shape = {}) {
  return make_elf<Elf64_Ehdr, Elf64_Phdr>(shape, ELFCLASS64);
}
inline Image make_elf32(const ElfShape& shape = {}) {
  return make_elf<Elf32_Ehdr, Elf32_Phdr>(shape, ELFCLASS32);
}

inline void put_multiboot_header(Image& image, u64 at, u32 flags) {
  constexpr u32 kMagic = 0x1BADB002;
  poke(image, at, kMagic);
  poke(image, at + 4, flags);
  poke(image, at + 8, 0 - kMagic - flags);
}

inline constexpr u64 kFlatHeaderAt = 0x40;
inline constexpr u32 kFlatLoad = 0x200000;

/// With address fields: the whole file goes to 2 MiB, 4 KiB of bss follow.
inline Image make_flat_multiboot() {
  Image image(1024);
  for (u64 i = 0; i < image.size(); ++i) image[i] = static_cast<u8>(i);
  put_multiboot_header(image, kFlatHeaderAt, 1U << 16);
  const u32 fields[] = {kFlatLoad + kFlatHeaderAt, kFlatLoad, kFlatLoad + 1024, kFlatLoad + 1024 + 4096,
                        kFlatLoad + 0x80};
  for (u64 i = 0; i < 5; ++i) poke(image, kFlatHeaderAt + 12 + 4 * i, fields[i]);
  return image;
}

inline Image make_elf32_multiboot() {
  ElfShape shape;
  shape.machine = EM_386;
  shape.physical = 0x400000;
  shape.virtual_base = 0x400000;
  Image image = make_elf32(shape);
  put_multiboot_header(image, kElfSegmentAt, 3);
  return image;
}

}  // namespace vert::test

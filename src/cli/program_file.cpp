#include "cli/program_file.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/fd.hpp"

namespace vert::cli {
namespace {

struct Elf64 {
  using Header = Elf64_Ehdr;
  using Segment = Elf64_Phdr;
  using Section = Elf64_Shdr;
  using Symbol = Elf64_Sym;
};
struct Elf32 {
  using Header = Elf32_Ehdr;
  using Segment = Elf32_Phdr;
  using Section = Elf32_Shdr;
  using Symbol = Elf32_Sym;
};

}  // namespace

template <typename T>
std::optional<T> ProgramFile::at(u64 offset) const {
  if (offset > bytes_.size() || bytes_.size() - offset < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes_.data() + offset, sizeof value);
  return value;
}

Result<ProgramFile> ProgramFile::read(const std::string& path) {
  VERT_ASSIGN(auto bytes, base::read_file(path));
  return parse(path, std::move(bytes));
}

Result<ProgramFile> ProgramFile::parse(const std::string& name, std::vector<u8> bytes) {
  ProgramFile program;
  program.bytes_ = std::move(bytes);
  const auto ident = program.at<std::array<u8, EI_NIDENT>>(0);
  if (!ident || std::memcmp(ident->data(), ELFMAG, SELFMAG) != 0 || (*ident)[EI_DATA] != ELFDATA2LSB)
    return make_error("{} is not an ELF program for x86", name);
  program.is_64bit_ = (*ident)[EI_CLASS] == ELFCLASS64;
  VERT_TRY(program.is_64bit_ ? program.load<Elf64>(name) : program.load<Elf32>(name));
  return program;
}

template <typename Elf>
Status ProgramFile::load(const std::string& name) {
  const auto header = at<typename Elf::Header>(0);
  const unsigned machine = is_64bit_ ? EM_X86_64 : EM_386;
  if (!header || header->e_machine != machine) return make_error("{} is not an ELF program for x86", name);
  entry_ = header->e_entry;
  for (u64 i = 0; i < header->e_phnum; ++i) {
    const auto segment = at<typename Elf::Segment>(header->e_phoff + i * sizeof(typename Elf::Segment));
    if (!segment || segment->p_type != PT_LOAD || segment->p_offset > bytes_.size()) continue;
    segments_.push_back({segment->p_vaddr, segment->p_offset,
                         std::min<u64>(segment->p_filesz, bytes_.size() - segment->p_offset)});
  }
  if (segments_.empty())
    return make_error("{} has nothing to load: is it an object file? Link it first", name);
  load_symbols<Elf>(header->e_shoff, header->e_shnum);
  return {};
}

template <typename Elf>
void ProgramFile::load_symbols(u64 section_offset, u64 section_count) {
  using Section = typename Elf::Section;
  using Symbol = typename Elf::Symbol;
  for (u64 i = 0; i < section_count; ++i) {
    const auto table = at<Section>(section_offset + i * sizeof(Section));
    if (!table || (table->sh_type != SHT_SYMTAB && table->sh_type != SHT_DYNSYM)) continue;
    const auto strings = at<Section>(section_offset + u64{table->sh_link} * sizeof(Section));
    if (!strings || table->sh_link >= section_count) continue;
    for (u64 k = 0; k < table->sh_size / sizeof(Symbol); ++k) {
      const auto symbol = at<Symbol>(table->sh_offset + k * sizeof(Symbol));
      if (!symbol) break;
      const u64 name = strings->sh_offset + symbol->st_name;
      if ((symbol->st_info & 0xF) != STT_FUNC || symbol->st_value == 0 || name >= bytes_.size()) continue;
      const auto first = bytes_.begin() + static_cast<std::ptrdiff_t>(name);
      functions_.push_back(
          {std::string(first, std::find(first, bytes_.end(), 0)), symbol->st_value, symbol->st_size});
    }
  }
  std::ranges::stable_sort(functions_, {}, &ProgramSymbol::address);
}

const ProgramSymbol* ProgramFile::function(std::string_view name) const {
  const auto found = std::ranges::find(functions_, name, &ProgramSymbol::name);
  return found == functions_.end() ? nullptr : &*found;
}

std::span<const u8> ProgramFile::bytes_at(u64 address) const {
  for (const Segment& segment : segments_) {
    const u64 inside = address - segment.address;
    if (inside < segment.size)
      return std::span(bytes_).subspan(segment.offset + inside, segment.size - inside);
  }
  return {};
}

}  // namespace vert::cli

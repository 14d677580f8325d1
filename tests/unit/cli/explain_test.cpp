// `vert explain`: its words, and programs that are not what they say.
#include <elf.h>

#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "cli/explain_plan.hpp"

namespace vert::cli {
namespace {

TEST(ExplainPlan, BytesInAnyCommonForm) {
  const std::vector<u8> expected = {0x48, 0x89, 0xE5, 0xC3};
  for (const char* text : {"48 89 e5 c3", "4889e5c3", "0x48,0x89, 0xE5,0xc3", " 4889 e5c3\n"}) {
    const auto bytes = parse_hex_bytes(text);
    ASSERT_TRUE(bytes) << text;
    EXPECT_EQ(*bytes, expected) << text;
  }
  for (const char* text : {"", " ", "4", "488", "xy", "48 0x", "4g"})
    EXPECT_FALSE(parse_hex_bytes(text)) << text;
}

TEST(ExplainPlan, AddressesAndModes) {
  EXPECT_EQ(parse_address("0xffffffff81000000").value(), 0xFFFFFFFF81000000);
  EXPECT_EQ(parse_address("401000").value(), 0x401000U);
  for (const char* text : {"", "0x", "main", "40100g", "11112222333344445"})
    EXPECT_FALSE(parse_address(text)) << text;
  EXPECT_EQ(parse_code_kind("user32").value(), machine::CodeKind::kUser32);
  EXPECT_FALSE(parse_code_kind("smm"));
}

/// A program of one segment, with the functions f (4 bytes at 401000) and g (size unknown, at 401010).
std::vector<u8> make_program() {
  struct Image {
    Elf64_Ehdr header{};
    Elf64_Phdr segment{};
    Elf64_Shdr sections[3]{};
    Elf64_Sym symbols[3]{};
    char strings[8] = {'\0', 'f', '\0', 'g', '\0'};
    u8 code[32] = {0x55, 0x48, 0x89, 0xE5};
  } image;
  std::memcpy(image.header.e_ident, ELFMAG, SELFMAG);
  image.header.e_ident[EI_CLASS] = ELFCLASS64;
  image.header.e_ident[EI_DATA] = ELFDATA2LSB;
  image.header.e_machine = EM_X86_64;
  image.header.e_entry = 0x401010;
  image.header.e_phoff = offsetof(Image, segment);
  image.header.e_phnum = 1;
  image.header.e_shoff = offsetof(Image, sections);
  image.header.e_shnum = 3;
  image.segment.p_type = PT_LOAD;
  image.segment.p_vaddr = 0x401000;
  image.segment.p_offset = offsetof(Image, code);
  image.segment.p_filesz = sizeof image.code;
  const auto section = [&](unsigned index, u32 type, u64 offset, u64 size) {
    image.sections[index].sh_type = type;
    image.sections[index].sh_offset = offset;
    image.sections[index].sh_size = size;
  };
  section(1, SHT_SYMTAB, offsetof(Image, symbols), sizeof image.symbols);
  image.sections[1].sh_link = 2;
  section(2, SHT_STRTAB, offsetof(Image, strings), sizeof image.strings);
  const auto function = [&](unsigned index, u32 name, u64 address, u64 size) {
    image.symbols[index].st_name = name;
    image.symbols[index].st_info = STT_FUNC;
    image.symbols[index].st_value = address;
    image.symbols[index].st_size = size;
  };
  function(1, 1, 0x401000, 4);
  function(2, 3, 0x401010, 0);
  std::vector<u8> bytes(sizeof image);
  std::memcpy(bytes.data(), &image, sizeof image);
  return bytes;
}

TEST(ProgramFile, FindsFunctionsAndTheirBytes) {
  const auto program = ProgramFile::parse("p", make_program());
  ASSERT_TRUE(program);
  EXPECT_TRUE(program->is_64bit());
  ASSERT_EQ(program->functions().size(), 2U);
  EXPECT_EQ(program->functions()[0].name, "f");
  EXPECT_EQ(program->bytes_at(0x401001)[0], 0x48);
  EXPECT_EQ(program->bytes_at(0x401001).size(), 31U);
  EXPECT_TRUE(program->bytes_at(0x401020).empty());
  EXPECT_TRUE(program->bytes_at(0x400FFF).empty());
}

TEST(ProgramFile, ChoosesWhatIsAskedFor) {
  const ProgramFile program = ProgramFile::parse("p", make_program()).value();
  const auto is = [&](const std::string& where, u64 address, u64 size) {
    const auto range = choose_code(program, "p", where);
    return range && range->address == address && range->size == size;
  };
  EXPECT_TRUE(is("", 0x401010, 0));  // no main: the entry point
  EXPECT_TRUE(is("f", 0x401000, 4));
  EXPECT_TRUE(is("0x401002", 0x401002, 0));
  EXPECT_TRUE(is("401000-401003", 0x401000, 3));
  EXPECT_FALSE(choose_code(program, "p", "401003-401003"));
  EXPECT_FALSE(choose_code(program, "p", "401003-"));
  EXPECT_NE(choose_code(program, "p", "main").error().message.find("no function 'main'"), std::string::npos);
}

TEST(ProgramFile, RefusesWhatIsNoProgram) {
  EXPECT_FALSE(ProgramFile::parse("p", {}));
  EXPECT_FALSE(ProgramFile::parse("p", std::vector<u8>(100, 0x7F)));
  std::vector<u8> arm = make_program();
  arm[offsetof(Elf64_Ehdr, e_machine)] = EM_AARCH64;
  EXPECT_FALSE(ProgramFile::parse("p", arm));
  std::vector<u8> object = make_program();
  object[offsetof(Elf64_Ehdr, e_phnum)] = 0;
  EXPECT_FALSE(ProgramFile::parse("p", object));
}

TEST(ProgramFile, SurvivesBrokenFiles) {
  const std::vector<u8> whole = make_program();
  std::mt19937 random(7);
  for (unsigned round = 0; round < 20'000; ++round) {
    std::vector<u8> bytes = whole;
    if (round % 2 == 0) bytes.resize(random() % bytes.size());
    for (unsigned i = 0; i < 3 && !bytes.empty(); ++i) {
      const std::size_t at = 16 + random() % 350;
      if (at < bytes.size()) bytes[at] = static_cast<u8>(random() % 3 == 0 ? 0xFF : random());
    }
    const auto program = ProgramFile::parse("p", bytes);
    if (!program) continue;
    EXPECT_LE(program->bytes_at(program->entry()).size(), bytes.size());
    static_cast<void>(choose_code(*program, "p", "f"));
  }
}

}  // namespace
}  // namespace vert::cli

// Boot images: what the loaders place where, and what they refuse.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "machine/boot/kernel_image.hpp"
#include "machine/boot/placement.hpp"
#include "unit/machine/boot_images.hpp"

namespace vert::machine {
namespace {

using test::Image;
using test::poke;

constexpr u64 kMiB = u64{1} << 20;

/// A fresh machine's memory, and one image loaded into it.
class Boot {
 public:
  explicit Boot(u64 memory_bytes = 64 * kMiB)
      : map(MemoryMap::make(memory_bytes).value()),
        memory(memory::GuestMemory::create(map.ram_regions()).value()) {}

  Status load(const Image& kernel) {
    source.kernel = kernel;
    source.kernel_name = "kernel";
    return load_kernel(source, map, *memory, state);
  }
  template <typename T>
  T at(u64 address) const {
    return memory->load<T>(Gpa(address)).value();
  }
  std::string text(u64 address) const {
    std::string out;
    while (const u8 c = at<u8>(address++)) out.push_back(static_cast<char>(c));
    return out;
  }
  bool holds(u64 address, std::span<const u8> bytes) const {
    return std::ranges::equal(std::span(memory->host(Gpa(address), bytes.size()), bytes.size()), bytes);
  }

  MemoryMap map;
  std::unique_ptr<memory::GuestMemory> memory;
  BootSource source;
  cpu::CpuState state;
};

std::string error_of(const Image& kernel, u64 memory_bytes = 64 * kMiB) {
  Boot boot(memory_bytes);
  const Status status = boot.load(kernel);
  if (status) return "loaded";
  EXPECT_EQ(status.error().message.find('\n'), std::string::npos);
  return status.error().message;
}

/// Every shorter file is refused with a line that names it; nothing crashes.
void refuses_all_prefixes(const Image& image, u64 needed) {
  Boot boot;
  for (u64 size = 0; size < needed; ++size) {
    const Status status = boot.load(Image(image.begin(), image.begin() + static_cast<i64>(size)));
    ASSERT_FALSE(status.has_value()) << "of " << size << " bytes";
    ASSERT_TRUE(status.error().message.starts_with("kernel: ")) << status.error().message;
  }
}

constexpr u64 kLongModeCr0 = x86::cr0::PE | x86::cr0::ET | x86::cr0::PG;

/// The page tables map `linear` to itself, as the processor walks them.
void expect_identity(const Boot& boot, u64 linear) {
  constexpr u64 kAddress = 0x000F'FFFF'FFFF'F000;
  const u64 pml4e = boot.at<u64>(boot.state.cr3 + 8 * ((linear >> 39) & 511));
  const u64 pdpte = boot.at<u64>((pml4e & kAddress) + 8 * ((linear >> 30) & 511));
  const u64 pde = boot.at<u64>((pdpte & kAddress) + 8 * ((linear >> 21) & 511));
  EXPECT_EQ(pml4e & 3, 3U);
  EXPECT_EQ(pdpte & 3, 3U);
  EXPECT_EQ(pde & 0x83, 0x83U);
  EXPECT_EQ(pde & kAddress, linear & ~u64{0x1FFFFF});
}

/// The hidden part of a segment register is what its selector says in the GDT.
void expect_loaded_from_gdt(const Boot& boot, const x86::Segment& segment) {
  const x86::Descriptor descriptor{boot.at<u64>(boot.state.gdtr.base + (segment.selector & 0xFFF8U))};
  EXPECT_EQ(descriptor.to_segment(segment.selector), segment);
}

TEST(BzImage, IsEnteredAsTheBootProtocolSays) {
  Boot boot;
  boot.source.command_line = "console=ttyS0 quiet";
  const Image image = test::make_bzimage();
  ASSERT_TRUE(boot.load(image));
  EXPECT_EQ(detect_kernel("k", image).value(), KernelKind::kBzImage);

  const auto& state = boot.state;
  EXPECT_EQ(state.rip, 0x1000200U);
  EXPECT_TRUE(boot.holds(0x1000000, std::span(image).subspan(test::kBzSetupBytes)));
  EXPECT_EQ(state.cr0, kLongModeCr0);
  EXPECT_EQ(state.cr4, x86::cr4::PAE);
  EXPECT_EQ(state.efer, x86::efer::LME | x86::efer::LMA);
  EXPECT_EQ(state.rflags, x86::rflags::kFixed1);
  EXPECT_TRUE(state.code64());
  EXPECT_EQ(state.seg(x86::kCs).selector, 0x10);
  EXPECT_EQ(state.seg(x86::kSs).selector, 0x18);
  for (const auto& segment : state.segment) expect_loaded_from_gdt(boot, segment);
  for (const u64 address : {u64{0}, state.rip, u64{0xFFFFFFFF}}) expect_identity(boot, address);

  const u64 params = state.gpr[x86::kRsi];
  EXPECT_EQ(boot.at<u32>(params + 0x202), 0x53726448U);
  EXPECT_EQ(boot.at<u64>(params + 0x258), 0x1000000U);
  EXPECT_EQ(boot.at<u8>(params + 0x210), 0xFF);
  EXPECT_EQ(boot.at<u64>(params + 0x70), kBiosTablesBase);
  EXPECT_EQ(boot.text(boot.at<u32>(params + 0x228)), "console=ttyS0 quiet");
  EXPECT_EQ(boot.at<u32>(params + 0x218), 0U);
  ASSERT_EQ(boot.at<u8>(params + 0x1E8), 4);
  EXPECT_EQ(boot.at<u64>(params + 0x2D0 + 40), kOneMiB);
  EXPECT_EQ(boot.at<u64>(params + 0x2D0 + 48), 63 * kMiB);
  EXPECT_EQ(boot.at<u32>(params + 0x2D0 + 56), 1U);
}

TEST(BzImage, Without64BitEntryIsEnteredInFlatProtectedMode) {
  Image image = test::make_bzimage();
  poke<u16>(image, 0x236, 0);
  Boot boot;
  boot.state.gpr.fill(0x5A5A);
  ASSERT_TRUE(boot.load(image));
  const auto& state = boot.state;
  EXPECT_EQ(state.rip, 0x1000000U);
  EXPECT_EQ(state.cr0, x86::cr0::PE | x86::cr0::ET);
  EXPECT_EQ(state.efer, 0U);
  EXPECT_EQ(state.rflags, x86::rflags::kFixed1);
  EXPECT_TRUE(state.seg(x86::kCs).is_big() && !state.seg(x86::kCs).is_long());
  EXPECT_EQ(state.seg(x86::kCs).selector, 0x10);
  EXPECT_EQ(state.seg(x86::kDs).selector, 0x18);
  for (const auto& segment : state.segment) expect_loaded_from_gdt(boot, segment);
  for (const unsigned zero : {x86::kRbx, x86::kRbp, x86::kRdi}) EXPECT_EQ(state.gpr[zero], 0U);
  EXPECT_EQ(boot.at<u32>(state.gpr[x86::kRsi] + 0x202), 0x53726448U);
  EXPECT_TRUE(boot.holds(0x1000000, std::span(image).subspan(test::kBzSetupBytes)));
}

TEST(BzImage, InitrdGoesAsHighAsTheKernelAllows) {
  const Image initrd(5000, 0xA5);
  Boot boot;
  boot.source.modules = {{"initrd", "initrd", initrd}};
  ASSERT_TRUE(boot.load(test::make_bzimage()));
  const u64 params = boot.state.gpr[x86::kRsi];
  EXPECT_EQ(boot.at<u32>(params + 0x218), 64 * kMiB - 8192);
  EXPECT_EQ(boot.at<u32>(params + 0x21C), 5000U);
  EXPECT_TRUE(boot.holds(64 * kMiB - 8192, initrd));

  Image limited = test::make_bzimage();
  poke<u32>(limited, 0x22C, 0x2FFFFFF);
  Boot second;
  second.source.modules = {{"initrd", "initrd", initrd}};
  ASSERT_TRUE(second.load(limited));
  EXPECT_EQ(second.at<u32>(second.state.gpr[x86::kRsi] + 0x218), 0x3000000U - 8192);
}

TEST(BzImage, TooLittleMemoryIsSaid) {
  EXPECT_NE(error_of(test::make_bzimage(), 16 * kMiB).find("--memory"), std::string::npos);
  Boot boot(24 * kMiB);
  const Image initrd(8 * kMiB);
  boot.source.modules = {{"initrd", "initrd", initrd}};
  const Status status = boot.load(test::make_bzimage());
  ASSERT_FALSE(status);
  EXPECT_TRUE(status.error().message.starts_with("initrd: ")) << status.error().message;
}

TEST(BzImage, TooLongACommandLineIsRefused) {
  Boot boot;
  boot.source.command_line = std::string(2047, 'x');
  EXPECT_TRUE(boot.load(test::make_bzimage()));
  Boot second;
  second.source.command_line = std::string(2048, 'x');
  EXPECT_FALSE(second.load(test::make_bzimage()));
}

TEST(BzImage, LastParagraphMayBeShort) {
  Image image = test::make_bzimage();
  image.resize(image.size() - 15);
  EXPECT_EQ(error_of(image), "loaded");
  refuses_all_prefixes(test::make_bzimage(), test::kBzSetupBytes + test::kBzPayload - 15);
}

struct BadField {
  u64 offset;
  u64 value;
  unsigned size;
  const char* says;
};

class BadBzImage : public testing::TestWithParam<BadField> {};

TEST_P(BadBzImage, IsRefused) {
  Image image = test::make_bzimage();
  const auto& bad = GetParam();
  std::memcpy(image.data() + bad.offset, &bad.value, bad.size);
  const std::string error = error_of(image);
  EXPECT_NE(error.find(bad.says), std::string::npos) << error;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadBzImage,
    testing::Values(BadField{0x206, 0x20B, 2, "protocol 2.11"}, BadField{0x211, 0, 1, "zImage"},
                    BadField{0x201, 0x10, 1, "setup header"}, BadField{0x1F1, 255, 1, "truncated"},
                    BadField{0x1F4, 0xFFFFFFFF, 4, "truncated"}, BadField{0x230, 3, 4, "power of two"},
                    BadField{0x230, 0, 4, "power of two"}, BadField{0x230, 0x80000000, 4, "--memory"},
                    BadField{0x258, ~u64{0}, 8, "above 4 GiB"}, BadField{0x260, 0xFFFFFFFF, 4, "--memory"}));

TEST(BzImage, ThatCannotMoveIsNotMoved) {
  Image image = test::make_bzimage();
  poke<u8>(image, 0x234, 0);
  poke<u64>(image, 0x258, 0x90000);
  EXPECT_NE(error_of(image).find("overlaps"), std::string::npos);
  poke<u64>(image, 0x258, ~u64{0} - 100);
  EXPECT_NE(error_of(image).find("above 4 GiB"), std::string::npos);
  poke<u64>(image, 0x258, 0x100000);
  EXPECT_EQ(error_of(image), "loaded");
}

TEST(Pvh, IsEnteredInFlatProtectedMode) {
  const Image initrd(100, 0x5A);
  Boot boot;
  boot.source.modules = {{"initrd", "initrd", initrd}};
  boot.source.command_line = "a b";
  const Image image = test::make_elf64({.pvh = true});
  EXPECT_EQ(detect_kernel("k", image).value(), KernelKind::kPvh);
  ASSERT_TRUE(boot.load(image));
  const auto& state = boot.state;
  EXPECT_EQ(state.rip, test::kPvhEntry);
  EXPECT_EQ(state.cr0, x86::cr0::PE | x86::cr0::ET);
  EXPECT_EQ(state.cr4, 0U);
  EXPECT_EQ(state.efer, 0U);
  EXPECT_EQ(state.seg(x86::kCs).limit, 0xFFFFFFFFU);
  EXPECT_TRUE(state.seg(x86::kCs).is_code() && state.seg(x86::kCs).is_big() &&
              !state.seg(x86::kCs).is_long());
  EXPECT_EQ(state.tr.type(), x86::kTssBusy);
  EXPECT_EQ(state.tr.limit, 0x67U);
  for (const auto& segment : state.segment) expect_loaded_from_gdt(boot, segment);
  EXPECT_TRUE(boot.holds(0x1000000, std::span(image).subspan(test::kElfSegmentAt)));

  const u64 info = state.gpr[x86::kRbx];
  EXPECT_EQ(boot.at<u32>(info), 0x336EC578U);
  EXPECT_EQ(boot.at<u32>(info + 4), 1U);
  ASSERT_EQ(boot.at<u32>(info + 12), 1U);
  const u64 module = boot.at<u64>(info + 16);
  EXPECT_EQ(boot.at<u64>(module + 8), 100U);
  EXPECT_TRUE(boot.holds(boot.at<u64>(module), initrd));
  EXPECT_EQ(boot.text(boot.at<u64>(info + 24)), "a b");
  EXPECT_EQ(boot.at<u64>(info + 32), kBiosTablesBase);
  const u64 memory_map = boot.at<u64>(info + 40);
  ASSERT_EQ(boot.at<u32>(info + 48), boot.map.e820().size());
  EXPECT_EQ(boot.at<u64>(memory_map + 2 * 24), kOneMiB);
  EXPECT_EQ(boot.at<u32>(memory_map + 24 + 16), 2U);
}

TEST(Pvh, Elf32WithANoteIsPvhToo) {
  test::ElfShape shape;
  shape.pvh = true;
  shape.machine = EM_386;
  shape.virtual_base = 0xC1000000;
  Boot boot;
  ASSERT_TRUE(boot.load(test::make_elf32(shape)));
  EXPECT_EQ(boot.state.rip, test::kPvhEntry);
}

TEST(Pvh, IllFormedNotesAreNoNotes) {
  for (const u64 field : {0, 4, 20, 24}) {  // namesz and descsz of both
    Image image = test::make_elf64({.pvh = true});
    poke<u32>(image, test::kElfNoteAt + field, 0xFFFFFFFF);
    EXPECT_EQ(detect_kernel("k", image).value(), KernelKind::kElf);
  }
}

TEST(PlainElf, IsEnteredAsVmlinux) {
  Boot boot;
  ASSERT_TRUE(boot.load(test::make_elf64()));
  EXPECT_EQ(boot.state.rip, 0x1000010U);
  EXPECT_TRUE(boot.state.code64());
  const u64 params = boot.state.gpr[x86::kRsi];
  EXPECT_EQ(boot.at<u16>(params + 0x1FE), 0xAA55);
  EXPECT_EQ(boot.at<u32>(params + 0x202), 0x53726448U);
}

TEST(PlainElf, VirtualEntryIsTranslated) {
  Image image = test::make_elf64();
  poke<u64>(image, offsetof(Elf64_Ehdr, e_entry), 0xFFFFFFFF81000123);
  Boot boot;
  ASSERT_TRUE(boot.load(image));
  EXPECT_EQ(boot.state.rip, 0x1000123U);
}

TEST(PlainElf, Elf32IsEnteredInProtectedMode) {
  test::ElfShape shape;
  shape.machine = EM_386;
  shape.virtual_base = 0xC1000000;
  Boot boot;
  ASSERT_TRUE(boot.load(test::make_elf32(shape)));
  EXPECT_EQ(boot.state.rip, 0x1000010U);
  EXPECT_FALSE(boot.state.long_mode());
  EXPECT_EQ(boot.at<u32>(boot.state.gpr[x86::kRsi] + 0x202), 0x53726448U);
}

TEST(PlainElf, PrefixesAreRefused) {
  const Image image = test::make_elf64({.pvh = true});
  refuses_all_prefixes(image, image.size());
  const Image small = test::make_elf32({.machine = EM_386, .virtual_base = 0xC1000000});
  refuses_all_prefixes(small, small.size());
}

TEST(PlainElf, BadSegmentsAreRefused) {
  const auto with = [](u64 offset, u64 value) {
    Image image = test::make_elf64();
    poke<u64>(image, sizeof(Elf64_Ehdr) + offset, value);
    return error_of(image);
  };
  EXPECT_NE(with(offsetof(Elf64_Phdr, p_offset), ~u64{0} - 10).find("truncated"), std::string::npos);
  EXPECT_NE(with(offsetof(Elf64_Phdr, p_filesz), ~u64{0}).find("truncated"), std::string::npos);
  EXPECT_NE(with(offsetof(Elf64_Phdr, p_memsz), 10).find("only 10 in memory"), std::string::npos);
  EXPECT_NE(with(offsetof(Elf64_Phdr, p_memsz), ~u64{0}).find("--memory"), std::string::npos);
  EXPECT_NE(with(offsetof(Elf64_Phdr, p_paddr), kEbdaBase).find("none of its segments"), std::string::npos);
  Image image = test::make_elf64({.physical = ~u64{0} - 4095, .memory_size = 4096});
  EXPECT_NE(error_of(image).find("above 4 GiB"), std::string::npos);
  image = test::make_elf64({.physical = 0xFF000});
  EXPECT_NE(error_of(image).find("overlaps the BIOS area"), std::string::npos);
}

TEST(PlainElf, OverlappingSegmentsAreRefused) {
  Image image = test::make_elf64();
  poke<u16>(image, offsetof(Elf64_Ehdr, e_phnum), 2);
  std::memcpy(image.data() + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), image.data() + sizeof(Elf64_Ehdr),
              sizeof(Elf64_Phdr));
  EXPECT_NE(error_of(image).find("overlaps"), std::string::npos);
}

TEST(PlainElf, OtherMachinesAndTypesAreRefused) {
  EXPECT_NE(error_of(test::make_elf64({.machine = EM_AARCH64})).find("another machine"), std::string::npos);
  EXPECT_NE(error_of(test::make_elf64({.type = ET_REL})).find("not an executable"), std::string::npos);
  Image image = test::make_elf64();
  poke<u16>(image, offsetof(Elf64_Ehdr, e_phnum), 0xFFFF);
  EXPECT_NE(error_of(image).find("program headers"), std::string::npos);
}

TEST(Multiboot, FlatImageGoesWhereItsHeaderSays) {
  const Image module(4097, 0x77);
  Boot boot;
  boot.source.modules = {{"initrd", "initrd", module}};
  boot.source.command_line = "x=1";
  const Image image = test::make_flat_multiboot();
  EXPECT_EQ(detect_kernel("k", image).value(), KernelKind::kMultiboot);
  ASSERT_TRUE(boot.load(image));
  const auto& state = boot.state;
  EXPECT_TRUE(boot.holds(test::kFlatLoad, image));
  EXPECT_EQ(state.rip, test::kFlatLoad + 0x80);
  EXPECT_EQ(state.gpr[x86::kRax], 0x2BADB002U);
  EXPECT_EQ(state.cr0 & (x86::cr0::PE | x86::cr0::PG), x86::cr0::PE);
  EXPECT_EQ(state.rflags & x86::rflags::IF, 0U);

  const u64 info = state.gpr[x86::kRbx];
  EXPECT_EQ(boot.at<u32>(info), (1U << 0) | (1U << 2) | (1U << 3) | (1U << 6) | (1U << 9));
  EXPECT_EQ(boot.at<u32>(info + 4), 639U);
  EXPECT_EQ(boot.at<u32>(info + 8), 63U * 1024);
  EXPECT_EQ(boot.text(boot.at<u32>(info + 16)), "kernel x=1");
  EXPECT_EQ(boot.text(boot.at<u32>(info + 64)), "vert");
  ASSERT_EQ(boot.at<u32>(info + 20), 1U);
  const u64 modules = boot.at<u32>(info + 24);
  const u64 start = boot.at<u32>(modules);
  EXPECT_EQ(start, test::kFlatLoad + 0x2000);  // page-aligned, past the bss
  EXPECT_EQ(boot.at<u32>(modules + 4) - start, module.size());
  EXPECT_TRUE(boot.holds(start, module));
  EXPECT_EQ(boot.text(boot.at<u32>(modules + 8)), "initrd");
  const u64 map = boot.at<u32>(info + 48);
  EXPECT_EQ(boot.at<u32>(info + 44), 24 * boot.map.e820().size());
  EXPECT_EQ(boot.at<u32>(map), 20U);
  EXPECT_EQ(boot.at<u64>(map + 24 + 4), kEbdaBase);
  EXPECT_EQ(boot.at<u32>(map + 24 + 20), 2U);
}

TEST(Multiboot, EachModuleHasItsPlaceAndItsCommandLine) {
  const Image first(4097, 0x11);
  const Image second(3, 0x22);
  Boot boot;
  boot.source.modules = {{"a", "a x y", first}, {"b", "b", second}};
  ASSERT_TRUE(boot.load(test::make_flat_multiboot()));
  const u64 info = boot.state.gpr[x86::kRbx];
  ASSERT_EQ(boot.at<u32>(info + 20), 2U);
  const u64 modules = boot.at<u32>(info + 24);
  EXPECT_TRUE(boot.holds(boot.at<u32>(modules), first));
  EXPECT_EQ(boot.text(boot.at<u32>(modules + 8)), "a x y");
  EXPECT_EQ(boot.at<u32>(modules + 16) % kPageSize, 0U);
  EXPECT_EQ(boot.at<u32>(modules + 20) - boot.at<u32>(modules + 16), 3U);
  EXPECT_TRUE(boot.holds(boot.at<u32>(modules + 16), second));
  EXPECT_EQ(boot.text(boot.at<u32>(modules + 24)), "b");
  EXPECT_EQ(boot.text(boot.at<u32>(info + 64)), "vert");
}

TEST(Multiboot, TooManyModulesOrTooLongLinesAreRefused) {
  const Image byte(1);
  const auto with = [&](std::size_t count, const std::string& line) {
    Boot boot;
    boot.source.modules.assign(count, {"m", line, byte});
    const Status status = boot.load(test::make_flat_multiboot());
    return status ? "loaded" : status.error().message;
  };
  EXPECT_EQ(with(128, "m"), "loaded");
  EXPECT_NE(with(129, "m").find("128 are the most"), std::string::npos);
  EXPECT_EQ(with(1, std::string(8191, 'x')), "loaded");
  EXPECT_NE(with(1, std::string(8192, 'x')).find("shorten --initrd"), std::string::npos);
  EXPECT_NE(with(2, std::string(4096, 'x')).find("shorten --initrd"), std::string::npos);
}

TEST(Multiboot, LoadEndAndBssMayBeLeftOut) {
  Image image = test::make_flat_multiboot();
  poke<u32>(image, test::kFlatHeaderAt + 20, 0);
  poke<u32>(image, test::kFlatHeaderAt + 24, 0);
  Boot boot;
  ASSERT_TRUE(boot.load(image));
  EXPECT_TRUE(boot.holds(test::kFlatLoad, image));
}

TEST(Multiboot, ElfIsLoadedByItsProgramHeaders) {
  const Image image = test::make_elf32_multiboot();
  Boot boot;
  ASSERT_TRUE(boot.load(image));
  EXPECT_EQ(boot.state.rip, 0x400010U);
  EXPECT_TRUE(boot.holds(0x400000, std::span(image).subspan(test::kElfSegmentAt)));
  Image wide = test::make_elf64({.physical = 0x400000});
  test::put_multiboot_header(wide, test::kElfSegmentAt, 0);
  Boot second;
  ASSERT_TRUE(second.load(wide));
  EXPECT_EQ(second.state.rip, 0x400010U);
  EXPECT_FALSE(second.state.long_mode());
}

TEST(Multiboot, BadHeadersAreRefused) {
  const auto with = [](u64 field, u32 value) {
    Image image = test::make_flat_multiboot();
    poke<u32>(image, test::kFlatHeaderAt + 12 + 4 * field, value);
    return error_of(image);
  };
  EXPECT_NE(with(0, 0).find("header address"), std::string::npos);
  EXPECT_NE(with(1, 0xFFFFFFFF).find("header address"), std::string::npos);
  EXPECT_NE(with(1, 0).find("header address"), std::string::npos);
  EXPECT_NE(with(2, 1).find("before the start"), std::string::npos);
  EXPECT_NE(with(2, 0xFFFFFFFF).find("truncated"), std::string::npos);
  EXPECT_NE(with(3, test::kFlatLoad + 1).find("within the image"), std::string::npos);
  EXPECT_NE(with(3, 0xFFFFFFFF).find("--memory"), std::string::npos);
  EXPECT_NE(with(4, 0).find("entry point"), std::string::npos);
  Image image = test::make_flat_multiboot();
  test::put_multiboot_header(image, test::kFlatHeaderAt, (1U << 16) | (1U << 5));
  EXPECT_NE(error_of(image).find("requires features"), std::string::npos);
  test::put_multiboot_header(image, test::kFlatHeaderAt, 0);
  EXPECT_NE(error_of(image).find("not an ELF file"), std::string::npos);
  refuses_all_prefixes(test::make_flat_multiboot(), 1024);
}

TEST(Multiboot, HeaderCountsOnlyAlignedEarlyAndWithChecksum) {
  Image late(16384);
  test::put_multiboot_header(late, 8192, 1U << 16);
  EXPECT_FALSE(detect_kernel("k", late));
  Image odd(1024);
  test::put_multiboot_header(odd, 66, 1U << 16);
  EXPECT_FALSE(detect_kernel("k", odd));
  Image wrong = test::make_flat_multiboot();
  ++wrong[test::kFlatHeaderAt + 8];
  EXPECT_FALSE(detect_kernel("k", wrong));
}

TEST(Detect, OtherFilesAreRefusedByName) {
  const auto kind = detect_kernel("README", Image(10000, 'x'));
  ASSERT_FALSE(kind);
  EXPECT_TRUE(kind.error().message.starts_with("README: neither a kernel"));
  EXPECT_FALSE(detect_kernel("empty", {}));
}

TEST(Placement, PiecesFindRoomBetweenOthers) {
  Boot boot;
  Placement placement(boot.map, *boot.memory);
  ASSERT_TRUE(placement.put("top", 64 * kMiB - kPageSize, kPageSize, {}));
  EXPECT_EQ(placement.find_highest("x", 100, kOneMiB, ~u64{0}).value(), 64 * kMiB - 2 * kPageSize);
  EXPECT_EQ(placement.find_lowest("x", 100, 0, ~u64{0}).value(), kPageSize);
  EXPECT_EQ(placement.find_lowest("x", 0x90000, 0, ~u64{0}).value(), kOneMiB);
  EXPECT_FALSE(placement.find_highest("x", 64 * kMiB, 0, ~u64{0}));
  EXPECT_FALSE(placement.find_lowest("x", ~u64{0}, 0, ~u64{0}));
  EXPECT_FALSE(placement.put("huge", 0, ~u64{0}, {}));
  EXPECT_FALSE(placement.put("twice", 64 * kMiB - 10, 10, {}));
}

}  // namespace
}  // namespace vert::machine

// Mutated boot images through all loaders: each is loaded or refused in one line, and nothing else happens.
//
// Deterministic: mutant n is always the same. VERT_FUZZ_SECONDS=N goes on for N seconds.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "machine/boot/kernel_image.hpp"
#include "machine/boot/placement.hpp"
#include "support/random.hpp"
#include "unit/machine/boot_images.hpp"

namespace vert::machine {
namespace {

using test::Image;
using test::Random;

/// Values at which parsers break.
u64 interesting(Random& random) {
  static constexpr u64 kValues[] = {
      0,          1,           4,           0x7F,    0xFF,    0x1000, 0x7FFFFFFF, 0x80000000,   0xFFFFFFFF,
      0xFFFFF000, 0x100000,    0x1000000,   0x9FC00, 0x80000, 0xFFFF, 0x8000,     u64{1} << 32, u64{1} << 63,
      ~u64{0},    ~u64{0xFFF}, kFourGiB - 1};
  return kValues[random.below(std::size(kValues))] + random.below(3) - 1;
}

/// Headers are small; most mutations go there.
void mutate(Random& random, Image& image) {
  constexpr u64 kHeaderBytes = 0x400;
  const u64 mutations = 1 + random.below(6);
  for (u64 i = 0; i < mutations && !image.empty(); ++i) {
    const u64 range = random.below(8) == 0 ? image.size() : std::min<u64>(image.size(), kHeaderBytes);
    const u64 at = random.below(range);
    const u64 size = u64{1} << random.below(4);
    const u64 value = random.below(2) == 0 ? interesting(random) : random.next();
    switch (random.below(8)) {
      case 0: image[at] = static_cast<u8>(image[at] ^ (1U << random.below(8))); break;
      case 1: image.resize(random.below(image.size() + 1)); break;
      case 2: image.resize(image.size() + random.below(512)); break;
      case 3:  // fields are aligned more often than not
        std::memcpy(image.data() + (at & ~(size - 1)), &value,
                    std::min<u64>(size, image.size() - (at & ~(size - 1))));
        break;
      case 4: {  // copy a piece of the header elsewhere
        const u64 from = random.below(range);
        const u64 length = std::min<u64>(random.below(64), image.size() - std::max(at, from));
        std::memmove(image.data() + at, image.data() + from, length);
        break;
      }
      case 5: image[at] = static_cast<u8>(value); break;
      default: std::memcpy(image.data() + at, &value, std::min<u64>(size, image.size() - at)); break;
    }
  }
}

/// Checksums would keep most mutants of a multiboot header out.
void mend_multiboot(Image& image, u64 at) {
  if (image.size() < at + 12) return;
  u32 fields[2];
  std::memcpy(fields, image.data() + at, sizeof fields);
  const u32 checksum = 0 - fields[0] - fields[1];
  std::memcpy(image.data() + at + 8, &checksum, sizeof checksum);
}

std::vector<Image> seeds() {
  test::ElfShape wide;
  wide.pvh = true;
  test::ElfShape narrow;
  narrow.machine = EM_386;
  narrow.virtual_base = 0xC1000000;
  test::ElfShape narrow_pvh = narrow;
  narrow_pvh.pvh = true;
  return {test::make_bzimage(),        test::make_elf64(),           test::make_elf64(wide),
          test::make_elf32(narrow),    test::make_elf32(narrow_pvh), test::make_flat_multiboot(),
          test::make_elf32_multiboot()};
}

constexpr u64 kMemory = u64{32} << 20;

/// What holds of every image that is accepted.
void check_loaded(const memory::GuestMemory& memory, const cpu::CpuState& state) {
  ASSERT_LT(state.rip, kFourGiB);
  ASSERT_TRUE(state.protected_mode());
  ASSERT_EQ(state.gdtr.base, boot_area::kGdt);
  // The entry code was placed beside vert's own boot data, never on it.
  ASSERT_TRUE(memory.load<u64>(Gpa(boot_area::kGdt)) == 0U);
  ASSERT_NE(memory.load<u64>(Gpa(boot_area::kGdt + 0x10)).value(), 0U);
}

void run_one(u64 seed, const std::vector<Image>& images, bool& loaded) {
  Random random(seed);
  Image kernel = images[random.below(images.size())];
  mutate(random, kernel);
  if (random.below(2) == 0) {
    mend_multiboot(kernel, test::kFlatHeaderAt);
    mend_multiboot(kernel, test::kElfSegmentAt);
  }
  const Image initrd(random.below(3) == 0 ? random.below(2 * kMemory) : random.below(5000));

  const auto map = MemoryMap::make(kMemory).value();
  const auto memory = memory::GuestMemory::create(map.ram_regions()).value();
  BootSource source;
  source.kernel_name = "kernel";
  source.kernel = kernel;
  if (random.below(2) == 0) source.modules = {{"initrd", "initrd", initrd}};
  source.command_line = std::string(random.below(10) == 0 ? random.below(100'000) : 20, 'c');
  cpu::CpuState state;
  const Status status = load_kernel(source, map, *memory, state);
  loaded = status.has_value();
  if (loaded) {
    check_loaded(*memory, state);
  } else {
    ASSERT_FALSE(status.error().message.empty());
    ASSERT_LT(status.error().message.size(), 400U);
    ASSERT_EQ(status.error().message.find('\n'), std::string::npos);
  }
}

TEST(BootImages, MutantsAreLoadedOrRefused) {
  constexpr u64 kShortRun = 400;
  const char* seconds = std::getenv("VERT_FUZZ_SECONDS");
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::seconds(seconds != nullptr ? std::strtoul(seconds, nullptr, 10) : 0);
  const std::vector<Image> images = seeds();
  u64 loaded_count = 0;
  u64 seed = 0;
  for (; seed < kShortRun || std::chrono::steady_clock::now() < end; ++seed) {
    bool loaded = false;
    run_one(seed, images, loaded);
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
    loaded_count += loaded ? 1 : 0;
  }
  // A fuzzer that never gets past the first check, or never fails one, tests nothing.
  EXPECT_GT(loaded_count, seed / 50);
  EXPECT_LT(loaded_count, seed - seed / 50);
}

}  // namespace
}  // namespace vert::machine

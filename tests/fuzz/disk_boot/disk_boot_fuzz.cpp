// Mutated disk images: each boots or is refused in one line within the limits, and nothing else happens.
//
// Deterministic but for the times in the file systems: mutant n is always the same. VERT_FUZZ_SECONDS=N goes
// on for N seconds.
#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>

#include "machine/disk_boot/disk_boot.hpp"
#include "support/random.hpp"
#include "unit/disk_boot/disk_images.hpp"

namespace vert::machine::disk_boot {
namespace {

using test::DiskImage;
using test::kMiB;
using test::MemoryReader;
using vert::test::Random;
using Clock = std::chrono::steady_clock;

constexpr u64 kSectorSize = 512;

const test::Files kGrubFiles = {
    {"/boot/vmlinuz-1", std::string(40'000, 'k')},
    {"/boot/initrd.img-1", std::string(9'000, 'i')},
    {"/vmlinuz", "-> boot/vmlinuz-1"},
    {"/boot/grub/grub.cfg",
     "set default=\"${saved_entry}\"\nsubmenu more {\nmenuentry 'Debian GNU/Linux' --class debian "
     "$menuentry_id_option 'gnulinux' {\n  if [ x$a = xb ]; then insmod gzio; fi\n  search --fs-uuid "
     "--set=root "
     "11111111-2222-3333-4455-66778899aabb\n  linux /boot/vmlinuz-1 root=PARTUUID=1 ro $vt_handoff \"a b\"\n "
     " initrd "
     "/boot/initrd.img-1\n}\n}\n"},
    {"/boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=more>gnulinux\n####"},
    {"/etc/fstab", "UUID=5b1e / ext4 rw 0 1\n"}};

const test::Files kLoaderFiles = {
    {"/loader/loader.conf", "default a*\ntimeout 3\n"},
    {"/loader/entries/a-6.1+3-0.conf",
     "title A\nversion 6.1\nlinux /k\ninitrd /i $tuned\noptions root=x $kernelopts\n"},
    {"/loader/entries/a-6.10.conf", "title B\nversion 6.10\nsort-key a\nlinux /k\noptions root=y\n"},
    {"/grub2/grubenv", "# GRUB Environment Block\nkernelopts=ro\n####"},
    {"/k", std::string(5'000, 'k')},
    {"/i", std::string(2'000, 'i')}};

const test::Files kExtlinuxFiles = {
    {"/boot/extlinux.conf",
     "DEFAULT menu.c32\nLABEL virt\n  MENU DEFAULT\n  MENU LABEL ^Linux\n  LINUX vmlinuz-virt\n  INITRD "
     "initramfs-virt,initramfs-virt\n  APPEND root=UUID=66 initrd=x\n"},
    {"/boot/vmlinuz-virt", std::string(30'000, 'k')},
    {"/boot/initramfs-virt", std::string(3'000, 'i')},
    {"/sbin/init", "x"}};

struct Seed {
  std::vector<u8> bytes;
  std::vector<u64> sectors;  // those that are not all zeros
};

Seed take(DiskImage& image) {
  Seed seed{image.bytes(), {}};
  for (u64 at = 0; at + kSectorSize <= seed.bytes.size(); at += kSectorSize) {
    const auto sector = std::span(seed.bytes).subspan(at, kSectorSize);
    // The contents of kernels and initrds would be most of it.
    const bool is_filler = std::ranges::all_of(sector, [&](u8 byte) { return byte == sector[0]; });
    if (!is_filler) seed.sectors.push_back(at);
  }
  return seed;
}

std::vector<Seed> seeds() {
  std::vector<Seed> made;
  {
    DiskImage image(4 * kMiB);
    image.partition(
        "label: gpt\nstart=2048, size=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\nstart=4096, "
        "size=2048, "
        "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n");
    image.format(1 * kMiB, 1 * kMiB, kGrubFiles, "-O ^has_journal,metadata_csum -N 32");
    made.push_back(take(image));
  }
  {
    DiskImage image(4 * kMiB);
    image.partition(
        "label: dos\nlabel-id: 0x1234abcd\nstart=2048, size=6000, type=5\n5 : start=2100, size=100, "
        "type=82\n6 : "
        "start=4096, size=2048, type=83\n");
    image.format(2 * kMiB, 1 * kMiB, kLoaderFiles, "-O ^has_journal,^metadata_csum,inline_data -I 256 -N 32");
    made.push_back(take(image));
  }
  {
    DiskImage image(1 * kMiB);
    image.format(0, 1 * kMiB, kExtlinuxFiles, "-O ^has_journal -N 32", "ext2");
    made.push_back(take(image));
  }
  {
    DiskImage image(4 * kMiB);
    image.format(0, 4 * kMiB, kGrubFiles, "-O ^metadata_csum -J size=1 -N 32");
    image.run("debugfs -R 'blocks /boot' disk | tail -n 1 | tr -d ' ' >number");
    image.run("dd if=disk bs=1024 count=1 skip=$(cat number) | sed s/vmlinuz-1/vmlinuz-2/ >folder");
    image.run(
        "printf \"jo -c\\njw -b $(cat number) folder\\njw -r 77\\njc\\n\" >script && debugfs -w -f script "
        "disk");
    made.push_back(take(image));
  }
  return made;
}

/// Values at which parsers break.
u64 interesting(Random& random) {
  static constexpr u64 kValues[] = {0,       1,           2,          0x7F,       0xFF,         0xFFFF,
                                    0x8000,  0x7FFFFFFF,  0x80000000, 0xFFFFFFFF, u64{1} << 32, u64{1} << 63,
                                    ~u64{0}, 1024,        4096,       2048,       0x05,         11,
                                    128,     u64{1} << 40};
  return kValues[random.below(std::size(kValues))] + random.below(3) - 1;
}

void put(std::vector<u8>& image, u64 at, u64 value, u64 size) {
  if (at < image.size()) std::memcpy(image.data() + at, &value, std::min<u64>(size, image.size() - at));
}

void mutate_once(Random& random, const Seed& seed, std::vector<u8>& image) {
  const u64 sector = random.pick(seed.sectors);
  const u64 at = sector + random.below(kSectorSize);
  const u64 size = u64{1} << random.below(4);
  const u64 value = random.below(2) == 0 ? interesting(random) : random.next();
  switch (random.below(10)) {
    case 0: put(image, at, random.next() & 0x7F, 1); break;  // text
    case 1: put(image, at, u64{image[at % image.size()]} ^ (u64{1} << random.below(8)), 1); break;
    case 2:
    case 3:
    case 4: put(image, at & ~(size - 1), value, size); break;  // fields are aligned more often than not
    case 5: {                                                  // a sector in another one's place
      const u64 from = random.pick(seed.sectors);
      if (std::max(from, sector) + kSectorSize <= image.size())
        std::memcpy(image.data() + sector, seed.bytes.data() + from, kSectorSize);
      break;
    }
    case 6: image.resize(random.below(8) == 0 ? random.below(image.size()) + 1 : image.size()); break;
    case 7: put(image, at, at / 1024 + random.below(64), 4); break;  // a block's number
    default: put(image, at, value, size); break;
  }
}

/// Checksums would keep most mutants of a GPT out.
void mend_gpt(std::vector<u8>& image) {
  constexpr u64 kHeader = 512;
  constexpr u64 kEntries = 1024;
  constexpr u64 kEntriesSize = 128 * 128;
  if (image.size() < kEntries + kEntriesSize || std::memcmp(image.data() + kHeader, "EFI PART", 8) != 0)
    return;
  put(image, kHeader + 88, ::crc32(0, image.data() + kEntries, kEntriesSize), 4);
  put(image, kHeader + 16, 0, 4);
  put(image, kHeader + 16, ::crc32(0, image.data() + kHeader, 92), 4);
}

void check_error(const std::string& error) {
  ASSERT_TRUE(error.starts_with("d.img: "));
  ASSERT_TRUE(error.ends_with(": name a kernel with --kernel")) << error;
  ASSERT_LT(error.size(), 1000U) << error;
  for (const char c : error) ASSERT_TRUE(c >= ' ' && c <= '~') << error;
  // A sanitizer ends the child with a status of its own. libext2fs may crash; vert's code may not.
  ASSERT_EQ(error.find("ended with"), std::string::npos) << error;
}

void check_found(const DiskBoot& found) {
  ASSERT_FALSE(found.kernel.empty());
  ASSERT_NE((" " + found.command_line).find(" console="), std::string::npos);
  ASSERT_TRUE(found.description.starts_with("booting /")) << found.description;
}

void run_one(u64 number, const std::vector<Seed>& seeds, bool& booted) {
  Random random(number);
  const Seed& seed = random.pick(seeds);
  std::vector<u8> image = seed.bytes;
  const u64 mutations = 1 + random.below(4);
  for (u64 i = 0; i < mutations; ++i) mutate_once(random, seed, image);
  if (random.below(4) != 0) mend_gpt(image);
  MemoryReader reader(std::move(image));
  const auto start = Clock::now();
  const auto found = find_disk_boot(reader, "d.img");
  const auto took = Clock::now() - start;
  ASSERT_LT(took, std::chrono::seconds(60)) << "the limit is 20 s";
  booted = found.has_value();
  if (found)
    check_found(*found);
  else
    check_error(found.error().message);
}

TEST(DiskBootFuzz, MutantsBootOrAreRefused) {
  constexpr u64 kShortRun = 300;
  const char* seconds = std::getenv("VERT_FUZZ_SECONDS");
  const auto end =
      Clock::now() + std::chrono::seconds(seconds != nullptr ? std::strtoul(seconds, nullptr, 10) : 0);
  const std::vector<Seed> images = seeds();
  u64 booted_count = 0;
  u64 number = 0;
  for (; number < kShortRun || Clock::now() < end; ++number) {
    bool booted = false;
    run_one(number, images, booted);
    ASSERT_FALSE(HasFatalFailure()) << "mutant " << number;
    booted_count += booted ? 1 : 0;
  }
  // A fuzzer that never gets past the first check, or never fails one, tests nothing.
  EXPECT_GT(booted_count, number / 50);
  EXPECT_LT(booted_count, number - number / 50);
}

}  // namespace
}  // namespace vert::machine::disk_boot

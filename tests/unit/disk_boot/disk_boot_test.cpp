// Whole images: which kernel is found where, and what is said if there is none.
#include "machine/disk_boot/disk_boot.hpp"

#include "unit/disk_boot/disk_images.hpp"

namespace vert::machine::disk_boot {
namespace {

using test::DiskImage;
using test::FileReader;
using test::Files;
using test::kMiB;

constexpr u64 kDiskSize = 40 * kMiB;
const std::string kRootGuid = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";
const std::string kBootGuid = "BC13C2FF-59E6-4262-A352-B275FD6F7172";
const std::string kLinuxGuid = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
const std::string kUuid = "11111111-2222-3333-4455-66778899aabb";

Result<DiskBoot> find(const DiskImage& image) {
  FileReader reader(image.path());
  return find_disk_boot(reader, "d.img");
}

std::string error_of(const DiskImage& image) {
  const auto found = find(image);
  return found ? "no error: " + found->description : found.error().message;
}

/// "kernel | initrd | command line | description", or the error.
std::string summary(const DiskImage& image) {
  const auto found = find(image);
  if (!found) return found.error().message;
  return fmt::format("{} | {} | {} | {}", std::string(found->kernel.begin(), found->kernel.end()),
                     std::string(found->initrd.begin(), found->initrd.end()), found->command_line,
                     found->description);
}

/// A GPT with partitions of 8 MiB each, at 2 MiB, 12 MiB and 22 MiB.
void make_gpt(DiskImage& image, const std::vector<std::string>& types) {
  std::string script = "label: gpt\n";
  u64 start = 4096;
  for (const std::string& type : types) {
    script += fmt::format("start={}, size=16384, type={}, uuid={}\n", start, type, kUuid);
    start += 20480;
  }
  image.partition(script);
}

Files debian() {
  return {{"/boot/vmlinuz-6.1.0-9-amd64", "old kernel"},
          {"/boot/initrd.img-6.1.0-9-amd64", "old initrd"},
          {"/boot/vmlinuz-6.1.0-13-amd64", "kernel"},
          {"/boot/initrd.img-6.1.0-13-amd64", "initrd"},
          {"/boot/vmlinuz-6.1.0-14-amd64.old", "leftover"},
          {"/vmlinuz", "-> boot/vmlinuz-6.1.0-9-amd64"},
          {"/etc/fstab", "# /etc/fstab\nUUID=5b1e / ext4 rw 0 1\nUUID=6666 /home ext4 rw 0 1\n"}};
}

TEST(DiskBoot, NewestKernelOfAGptsRootPartition) {
  DiskImage image(kDiskSize);
  make_gpt(image, {kLinuxGuid, kRootGuid});
  image.format(12 * kMiB, 8 * kMiB, debian());
  EXPECT_EQ(summary(image),
            "kernel | initrd | root=UUID=5b1e ro console=ttyS0 | booting /boot/vmlinuz-6.1.0-13-amd64 with "
            "/boot/initrd.img-6.1.0-13-amd64 (the newest kernel on partition 2)");
}

TEST(DiskBoot, LogicalPartition) {
  DiskImage image(kDiskSize);
  image.partition(
      "label: dos\nlabel-id: 0x1234abcd\nstart=2048, size=2048, type=82\nstart=4096, size=36864, type=5\n"
      "5 : start=8192, size=16384, type=83\n");
  image.format(4 * kMiB, 8 * kMiB, {{"/boot/vmlinuz-6.1", "kernel"}, {"/sbin/init", "x"}});
  EXPECT_EQ(
      summary(image),
      "kernel |  | root=PARTUUID=1234abcd-05 ro console=ttyS0 | booting /boot/vmlinuz-6.1 (the newest kernel "
      "on partition 5)");
}

TEST(DiskBoot, BareFileSystem) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB,
               {{"/boot/vmlinuz-virt", "kernel"}, {"/boot/initramfs-virt", "initrd"}, {"/sbin/init", "x"}},
               "-U " + kUuid);
  EXPECT_EQ(summary(image),
            "kernel | initrd | root=UUID=" + kUuid +
                " ro console=ttyS0 | booting /boot/vmlinuz-virt with /boot/initramfs-virt (the newest "
                "kernel on the disk)");
}

TEST(DiskBoot, BareFileSystemWithoutInitrdIsTheFirstDisk) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-virt", "kernel"}, {"/sbin/init", "x"}});
  EXPECT_EQ(find(image).value().command_line, "root=/dev/vda ro console=ttyS0");
}

TEST(DiskBoot, Ext2AndExt3) {
  for (const char* const type : {"ext2", "ext3"}) {
    DiskImage image(8 * kMiB);
    image.format(0, 8 * kMiB, {{"/boot/vmlinuz-virt", "kernel"}}, "", type);
    EXPECT_TRUE(find(image)) << type;
  }
}

TEST(DiskBoot, FeaturesOfNewerExt4) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-virt", "kernel"}}, "-O inline_data,metadata_csum,64bit -I 512");
  EXPECT_TRUE(find(image)) << error_of(image);
}

TEST(DiskBoot, SeparateBootPartitionGoesFirst) {
  DiskImage image(kDiskSize);
  make_gpt(image, {kRootGuid, kBootGuid});
  image.format(2 * kMiB, 8 * kMiB,
               {{"/boot/vmlinuz-5.0", "hidden by the mount"}, {"/etc/fstab", "/dev/sda1 / ext4\n"}});
  image.format(12 * kMiB, 8 * kMiB, {{"/vmlinuz-6.1", "kernel"}, {"/initramfs-6.1.img", "initrd"}});
  EXPECT_EQ(summary(image),
            "kernel | initrd | root=PARTUUID=" + kUuid +
                " ro console=ttyS0 | booting /vmlinuz-6.1 with /initramfs-6.1.img (the newest kernel "
                "on partition 2)");
}

TEST(DiskBoot, RootMayBeAFileSystemThatVertCannotRead) {
  DiskImage image(kDiskSize);
  make_gpt(image, {kLinuxGuid, kLinuxGuid});
  image.format(2 * kMiB, 8 * kMiB, {{"/vmlinuz-6.1", "kernel"}, {"/initramfs-6.1.img", "initrd"}});
  image.write(12 * kMiB, "XFSB");
  EXPECT_EQ(find(image).value().command_line, "root=PARTUUID=" + kUuid + " ro console=ttyS0");
}

TEST(DiskBoot, RootInAnLvmVolumeCannotBeNamed) {
  DiskImage image(kDiskSize);
  make_gpt(image, {kLinuxGuid, kLinuxGuid});
  image.format(2 * kMiB, 8 * kMiB, {{"/vmlinuz-6.1", "kernel"}, {"/initramfs-6.1.img", "initrd"}});
  image.write(12 * kMiB + 0x218, "LVM2 001");
  EXPECT_EQ(find(image).value().command_line, "console=ttyS0");
}

TEST(DiskBoot, KernelWithoutRootIsSaidToBe) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/vmlinuz-6.1", "kernel"}});
  EXPECT_EQ(
      summary(image),
      "kernel |  | console=ttyS0 | booting /vmlinuz-6.1 (the newest kernel on the disk, no root file system "
      "found: name it with --append root=...)");
}

TEST(DiskBoot, LinksAreFollowedWithinTheFileSystem) {
  for (const char* const target : {"boot/kernel", "/boot/kernel", "../../boot/kernel", "/boot/again"}) {
    DiskImage image(8 * kMiB);
    image.format(0, 8 * kMiB,
                 {{"/boot/kernel", "kernel"},
                  {"/boot/again", "-> kernel"},
                  {"/vmlinuz", std::string("-> ") + target},
                  {"/initrd.img", "-> /etc/passwd"}});
    EXPECT_EQ(summary(image).substr(0, 11), "kernel |  |") << target;
  }
}

TEST(DiskBoot, LoopOfLinksIsNoKernel) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/vmlinuz", "-> boot/vmlinuz"}, {"/boot/vmlinuz", "-> /vmlinuz"}});
  EXPECT_EQ(error_of(image), "d.img: no kernel is in the ext4 of the disk: name a kernel with --kernel");
}

TEST(DiskBoot, LargeFilesArriveWhole) {
  std::string kernel;
  for (u32 i = 0; kernel.size() < 3 * kMiB + 77; ++i) kernel += fmt::format("{:x} ", i * 2654435761U);
  DiskImage image(16 * kMiB);
  image.format(0, 16 * kMiB, {{"/boot/vmlinuz-1", kernel}});
  const auto found = find(image);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_TRUE(std::equal(found->kernel.begin(), found->kernel.end(), kernel.begin(), kernel.end(),
                         [](u8 byte, char c) { return byte == static_cast<u8>(c); }));
}

TEST(DiskBoot, NothingOnTheDisk) {
  EXPECT_EQ(error_of(DiskImage(kMiB)),
            "d.img: holds no partition table and no ext4: name a kernel with --kernel");
  EXPECT_EQ(error_of(DiskImage(0)),
            "d.img: holds no partition table and no ext4: name a kernel with --kernel");
}

TEST(DiskBoot, NothingOnThePartitions) {
  DiskImage image(kDiskSize);
  make_gpt(image, {kLinuxGuid, kLinuxGuid});
  EXPECT_EQ(
      error_of(image),
      "d.img: none of its 2 partitions holds a file system that vert knows: name a kernel with --kernel");
}

TEST(DiskBoot, OtherFileSystemsAreNamed) {
  const std::vector<std::pair<u64, std::pair<std::string, std::string>>> kinds = {
      {0, {"XFSB", "XFS"}},
      {0x10040, {"_BHRfS_M", "btrfs"}},
      {0, {"LUKS\xBA\xBE", "encrypted (LUKS)"}},
      {0x218, {"LVM2 001", "an LVM volume"}},
  };
  for (const auto& [at, kind] : kinds) {
    DiskImage image(kDiskSize);
    make_gpt(image, {kLinuxGuid, kLinuxGuid});
    image.write(12 * kMiB + at, kind.first);
    EXPECT_EQ(error_of(image), "d.img: partition 2 is " + kind.second +
                                   ", which vert cannot read: name a kernel with --kernel");
  }
}

TEST(DiskBoot, DiskWithFatOnly) {
  DiskImage image(kMiB);
  image.write(0x52, "FAT32");
  EXPECT_EQ(error_of(image),
            "d.img: the disk is FAT, where vert does not look for a kernel: name a kernel with --kernel");
}

TEST(DiskBoot, NoKernelOnOneAndAnotherThatCannotBeRead) {
  DiskImage image(kDiskSize);
  make_gpt(image, {kLinuxGuid, kRootGuid});
  image.format(2 * kMiB, 8 * kMiB, {{"/grub/font", "x"}});
  image.write(12 * kMiB, "XFSB");
  EXPECT_EQ(error_of(image),
            "d.img: partition 2 is XFS, which vert cannot read; no kernel is in the ext4 of partition 1: "
            "name a kernel "
            "with --kernel");
}

TEST(DiskBoot, EmptyKernelIsRefused) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-1", ""}});
  EXPECT_EQ(error_of(image), "d.img: /boot/vmlinuz-1 is empty: name a kernel with --kernel");
}

TEST(DiskBoot, KernelThatIsTooBigIsRefused) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-1", "x"}});
  image.run("debugfs -w -R 'set_inode_field /boot/vmlinuz-1 size 600000000' disk");
  EXPECT_EQ(error_of(image),
            "d.img: /boot/vmlinuz-1 has 572 MiB, which is too big for a kernel: name a kernel with --kernel");
}

TEST(DiskBoot, InitrdThatIsTooBigIsRefused) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-1", "x"}, {"/boot/initrd-1", "x"}});
  image.run("debugfs -w -R 'set_inode_field /boot/initrd-1 size 600000000' disk");
  EXPECT_EQ(error_of(image),
            "d.img: /boot/initrd-1 has 572 MiB, which is too big for an initial RAM disk: name a kernel with "
            "--kernel");
}

TEST(DiskBoot, DamagedSuperblockIsSaidToBe) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-1", "x"}}, "-O metadata_csum");
  image.write(1024 + 0x60 + 20, "xxxx");
  const std::string error = error_of(image);
  EXPECT_TRUE(error.starts_with("d.img: on the disk, its ext4 is damaged (")) << error;
}

TEST(DiskBoot, DamagedFolderIsSaidToBe) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-1", "x"}}, "-O metadata_csum");
  image.run("debugfs -w -R 'set_inode_field /boot mode 0100644' disk");
  EXPECT_EQ(error_of(image), "d.img: no kernel is in the ext4 of the disk: name a kernel with --kernel");
  image.run("debugfs -w -R 'set_inode_field / block[0] 7000000' disk");
  const std::string error = error_of(image);
  EXPECT_NE(error.find("is damaged ("), std::string::npos) << error;
}

TEST(DiskBoot, UnknownFeatureIsSaidToBe) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-1", "x"}}, "-O ^metadata_csum");
  image.write(1024 + 0x60, std::string_view("\xFF\xFF\xFF\x7F", 4));
  EXPECT_EQ(error_of(image),
            "d.img: on the disk, its ext4 has features that vert does not know: name a kernel with --kernel");
}

TEST(DiskBoot, TruncatedImageIsDamaged) {
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-1", std::string(3 * kMiB, 'x')}});
  std::filesystem::resize_file(image.path(), kMiB);
  const std::string error = error_of(image);
  EXPECT_NE(error.find("is damaged ("), std::string::npos) << error;
}

TEST(DiskBoot, ErrorOfTheImageIsPassedOn) {
  class Broken : public FileReader {
   public:
    using FileReader::FileReader;
    Status read(u64 offset, std::span<u8> bytes) override {
      if (offset + bytes.size() > 2 * kMiB) return make_error("the backing file is gone");
      return FileReader::read(offset, bytes);
    }
  };
  DiskImage image(8 * kMiB);
  image.format(0, 8 * kMiB, {{"/boot/vmlinuz-1", std::string(5 * kMiB, 'x')}});
  Broken reader(image.path());
  EXPECT_EQ(find_disk_boot(reader, "d.img").error().message,
            "d.img: /boot/vmlinuz-1: the file cannot be read (the backing file is gone): name a kernel with "
            "--kernel");
}

}  // namespace
}  // namespace vert::machine::disk_boot

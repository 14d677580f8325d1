// Linux's own driver finds vert's disks, and what it writes is in the image.
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

/// A sparse file, gone when the test is over.
class DiskFile {
 public:
  explicit DiskFile(off_t size) {
    const base::Fd file(::mkstemp(path_.data()));
    EXPECT_TRUE(file.valid() && ::ftruncate(file.get(), size) == 0);
  }
  ~DiskFile() { ::unlink(path_.c_str()); }
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string text(std::streamoff offset, std::size_t size) const {
    std::ifstream in(path_, std::ios::binary);
    in.seekg(offset);
    std::string bytes(size, '\0');
    in.read(bytes.data(), static_cast<std::streamsize>(size));
    return bytes;
  }

 private:
  std::string path_ = "/tmp/vert-test-disk.XXXXXX";
};

void load_drivers(LinuxGuest& guest, const std::vector<std::string>& modules) {
  for (const std::string& module : modules)
    EXPECT_EQ(guest.shell("insmod /modules/" + module + ".ko"), "") << module;
}

const std::vector<std::string> kModules = {"virtio_ring",           "virtio",     "virtio_pci_modern_dev",
                                           "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"};

TEST(DiskTest, LinuxReadsAndWritesIt) {
  const DiskFile first(64 << 20);
  const DiskFile second(1 << 20);
  auto started = LinuxGuest::start({.cpus = 2,
                                    .disks = {first.path() + ",serial=first", second.path() + ",readonly"},
                                    .modules = kModules});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  load_drivers(guest, kModules);
  EXPECT_EQ(guest.shell("cat /sys/block/vda/size /sys/block/vdb/size"), "131072\n2048\n");
  EXPECT_EQ(guest.shell("cat /sys/block/vda/serial"), "first");
  EXPECT_EQ(guest.shell("cat /sys/block/vda/ro /sys/block/vdb/ro"), "0\n1\n");
  EXPECT_EQ(guest.shell("ls /sys/block/vda/mq | wc -w"), "2\n") << "a queue for each vCPU";
  EXPECT_EQ(
      guest.shell("dd if=/dev/urandom of=/dev/vda bs=1M count=32 2>/dev/null; sync; md5sum </dev/vda >/m1;"
                  "echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vda >/m2; cmp /m1 /m2"),
      "");
  EXPECT_EQ(guest.shell("printf 'written by Linux' | dd of=/dev/vda bs=4k seek=9000 conv=fsync 2>/dev/null"),
            "");
  EXPECT_EQ(first.text(9000 * 4096, 16), "written by Linux");
  EXPECT_EQ(guest.shell("blkdiscard -o 36864000 -l 4096 /dev/vda; echo $?"), "0\n");
  EXPECT_EQ(first.text(9000 * 4096, 4), std::string(4, '\0'));
  EXPECT_EQ(guest.shell("dmesg | grep -E 'BUG|WARNING|I/O error|virtio.*(fail|error)'"), "");
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
}

TEST(DiskTest, ASnapshotLeavesTheImageAsItIs) {
  const DiskFile disk(64 << 20);
  auto started = LinuxGuest::start(
      {.disks = {disk.path()}, .modules = kModules, .load_modules = true, .options = {"--snapshot"}});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  EXPECT_EQ(guest.shell("echo gone >/dev/vda; sync; echo 3 >/proc/sys/vm/drop_caches; head -c 4 /dev/vda"),
            "gone");
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
  EXPECT_EQ(disk.text(0, 4), std::string(4, '\0'));
}

TEST(DiskTest, BootsWhatItsFileSystemHolds) {
  auto started = LinuxGuest::start({.modules = kModules, .from_disk = true});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  EXPECT_EQ(guest.shell("dmesg -n 1"), "");
  EXPECT_NE(guest.process().errors().find("booting /boot/vmlinuz-6.1 with /boot/initrd.img-6.1"),
            std::string::npos)
      << guest.process().errors();
  EXPECT_EQ(guest.shell("cat /proc/cmdline"), "root=LABEL=root ro console=ttyS0\n");
  load_drivers(guest, kModules);
  EXPECT_EQ(guest.shell("cat /sys/block/vda/size"), "524288\n");
  // Again, while the disk is open.
  guest.process().send("reboot -f\r");
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
}

}  // namespace
}  // namespace vert::vm_test

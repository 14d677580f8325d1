// File systems that were not unmounted, with journals that debugfs writes: what is in the journal counts.
#include "machine/disk_boot/ext_journal.hpp"

#include "machine/disk_boot/disk_boot.hpp"
#include "unit/disk_boot/disk_images.hpp"

namespace vert::machine::disk_boot {
namespace {

using test::DiskImage;
using test::FileReader;
using test::kMiB;

/// A file system with a kernel /boot/vmlinuz-1, whose journal gets one script of debugfs each time.
class Journal : public testing::TestWithParam<std::pair<const char*, const char*>> {
 protected:
  Journal() : image_(12 * kMiB) {
    image_.format(0, 12 * kMiB, {{"/boot/vmlinuz-1", "kernel1"}},
                  std::string("-O ^metadata_csum,") + GetParam().first);
    // "folder" is the folder's block with another name in it, "escaped" a file's that looks like the
    // journal's own.
    image_.run("debugfs -R 'blocks /boot' disk | tail -n 1 | tr -d ' ' >folder.number");
    image_.run("debugfs -R 'blocks /boot/vmlinuz-1' disk | tail -n 1 | tr -d ' ' >kernel.number");
    image_.run("dd if=disk bs=1024 count=1 skip=$(cat folder.number) | sed s/vmlinuz-1/vmlinuz-2/ >folder");
    image_.run("printf '\\300\\073\\071\\230123' >escaped && truncate -s 1024 escaped");
  }

  void write_journal(const std::string& lines) {
    image_.run("folder=$(cat folder.number) && kernel=$(cat kernel.number) && printf \"jo " +
               std::string(GetParam().second) + "\\n" + lines +
               "jc\\n\" >script && debugfs -w -f script disk");
  }

  std::string kernel() {
    FileReader reader(image_.path());
    const auto found = find_disk_boot(reader, "d.img");
    if (!found) return found.error().message;
    return found->description.substr(8, 15) + " " + std::string(found->kernel.begin(), found->kernel.end());
  }

  DiskImage image_;
};

TEST_P(Journal, WrittenBlockIsReadFromIt) {
  write_journal("jw -b $folder folder\\n");
  EXPECT_EQ(kernel(), "/boot/vmlinuz-2 kernel1");
}

TEST_P(Journal, LastTransactionCounts) {
  write_journal("jw -b $folder /dev/zero\\njw -b $folder folder\\n");
  EXPECT_EQ(kernel(), "/boot/vmlinuz-2 kernel1");
}

TEST_P(Journal, RevokedBlockIsReadFromItsPlace) {
  write_journal("jw -b $folder folder\\njw -r $folder\\n");
  EXPECT_EQ(kernel(), "/boot/vmlinuz-1 kernel1");
}

TEST_P(Journal, BlockWrittenAfterItsRevocationCounts) {
  write_journal("jw -r $folder\\njw -b $folder folder\\n");
  EXPECT_EQ(kernel(), "/boot/vmlinuz-2 kernel1");
}

TEST_P(Journal, BlockThatBeginsAsTheJournalsOwnIsWhole) {
  write_journal("jw -b $kernel escaped\\n");
  EXPECT_EQ(kernel(),
            "/boot/vmlinuz-1 \xC0\x3B\x39\x98"
            "123");
}

TEST_P(Journal, TransactionWithoutACommitDoesNotCount) {
  write_journal("jw -b $folder folder\\n");
  // The log is descriptor, block, commit; the commit's type is changed.
  image_.run(
      "debugfs -R 'bmap <8> 3' disk >commit.number && printf '\\011' | dd of=disk bs=1 conv=notrunc "
      "seek=$(($(cat commit.number) * 1024 + 7))");
  EXPECT_EQ(kernel(), "/boot/vmlinuz-1 kernel1");
}

TEST_P(Journal, DamagedJournalIsLeftAlone) {
  write_journal("jw -b $folder folder\\n");
  image_.run(
      "debugfs -R 'bmap <8> 0' disk >super.number && printf xxxx | dd of=disk bs=1 conv=notrunc "
      "seek=$(($(cat super.number) * 1024))");
  EXPECT_EQ(kernel(), "/boot/vmlinuz-1 kernel1");
}

INSTANTIATE_TEST_SUITE_P(Formats, Journal,
                         testing::Values(std::pair("^64bit", ""), std::pair("64bit", ""),
                                         std::pair("^64bit", "-c -v 2"), std::pair("64bit", "-c -v 2"),
                                         std::pair("64bit", "-c -v 3")));

}  // namespace
}  // namespace vert::machine::disk_boot

// Images that cannot be used: one line that says what to do, and the image stays as it is.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>

#include "support/image_rig.hpp"
#include "vm/harness/vert_process.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

class DiskErrorsTest : public testing::Test {
 protected:
  struct Ran {
    End end;
    std::string errors;
  };
  static Ran vert(const std::vector<std::string>& words) {
    VertProcess process(words, VertProcess::Console::kPipes);
    process.close_input();
    const End end = process.wait(30s);
    return {end, process.errors()};
  }
  std::string make(const std::string& name, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"image", "create", folder_ / name, "4M"};
    words.insert(words.end(), more.begin(), more.end());
    EXPECT_EQ(vert(words).end.status, 0);
    return folder_ / name;
  }
  static std::vector<std::string> with_disk(const std::string& disk) {
    return {"run", "--memory", "16M", "--kernel", VERT_GUEST_FOLDER "/debug_exit.elf", "--disk", disk};
  }
  /// The line has all of `parts`.
  static void expect_line(const std::vector<std::string>& words, const std::vector<std::string>& parts) {
    const Ran ran = vert(words);
    EXPECT_EQ(ran.end.status, 1) << ran.errors;
    EXPECT_EQ(std::ranges::count(ran.errors, '\n'), 1) << ran.errors;
    for (const std::string& part : parts)
      EXPECT_NE(ran.errors.find(part), std::string::npos) << ran.errors << "lacks: " << part;
  }
  static void expect_refused(const std::string& image, const std::vector<std::string>& parts) {
    const auto before = test::file_bytes(image);
    expect_line(with_disk(image), parts);
    EXPECT_TRUE(test::file_bytes(image) == before) << image << " has changed";
  }

  test::TemporaryFolder folder_;
};

TEST_F(DiskErrorsTest, DamagedImagesAreRefused) {
  const std::string header = make("header.qcow2");
  std::filesystem::resize_file(header, 50);
  expect_refused(header, {"'" + header + "'", "cut short"});
  const std::string tables = make("tables.qcow2");
  std::filesystem::resize_file(tables, 1000);
  expect_refused(tables, {"'" + tables + "'", "was cut short; copy it again"});
  const std::string marked = make("marked.qcow2");
  test::patch_be<u64>(marked, 72, storage::qcow2::kIncompatibleCorrupt);
  expect_refused(marked, {"vert image check --repair all " + marked});
  const std::string l1 = make("l1.qcow2");
  test::patch_be<u64>(l1, 40, u64{1} << 50);
  expect_refused(l1, {"its L1 table lies behind the file's end"});
  const std::string unknown = make("unknown.qcow2");
  test::patch_be<u64>(unknown, 72, u64{1} << 15);
  expect_refused(unknown, {"bit 15", "'qemu-img convert'"});
  const std::string empty = folder_ / "empty.raw";
  test::write_file(empty, {});
  expect_refused(empty, {"'" + empty + "' is empty", "vert image resize"});
}

TEST_F(DiskErrorsTest, BackingFilesThatCannotBeUsedAreNamed) {
  const std::string base = make("base.qcow2");
  const std::string top = make("top.qcow2", {"-b", base});
  std::filesystem::rename(base, folder_ / "moved.qcow2");
  expect_refused(top, {"'" + base + "'", "the backing file of '" + top + "'", "qemu-img rebase"});
  std::filesystem::create_symlink(top, base);
  expect_refused(top, {"the backing files loop", "qemu-img rebase"});
}

TEST_F(DiskErrorsTest, WhatIsNoDiskIsRefusedAtOnce) {
  const std::string fifo = folder_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {fifo, folder_ / "", std::string("/dev/null")}) {
    expect_line(with_disk(path + ",readonly"), {"is neither a file nor a block device"});
    expect_line({"run", path}, {"not a regular file"});
  }
  expect_line(with_disk(folder_ / "none"), {"No such file or directory"});
}

TEST_F(DiskErrorsTest, DisksWithoutAKernelSayHowToNameOne) {
  expect_line({"run", make("blank.qcow2")}, {"no partition table", "--kernel"});
  const std::string raw = make("blank.raw", {"-f", "raw"});
  expect_line({"run", "--disk", raw}, {"no partition table", "--kernel"});
  expect_line({"run", raw}, {"neither a kernel", "nor a disk with a partition table"});
  // What cannot be read is named, for another kernel does not help.
  const std::string damaged = make("damaged.qcow2");
  const u64 l1 = test::read_be<u64>(damaged, 40);
  test::patch_be<u64>(damaged, l1, u64{512} | storage::qcow2::kCopied);
  expect_line({"run", damaged}, {"'" + damaged + "' is corrupt: an L2 table does not start at a cluster"});
}

TEST_F(DiskErrorsTest, AnImageThatAnotherProcessUsesIsRefused) {
  const std::string path = make("disk.qcow2");
  VertProcess user({"run", "--memory", "16M", "--kernel", VERT_GUEST_FOLDER "/halt.elf", "--disk", path},
                   VertProcess::Console::kPipes);
  ASSERT_TRUE(user.expect("kernel up", 30s)) << user.errors();
  expect_refused(path, {"'" + path + "' is in use by another process; stop that"});
  expect_line(with_disk(path + ",readonly"), {"is in use by another process"});
  expect_line({"image", "check", path}, {"is in use by another process"});
}

TEST_F(DiskErrorsTest, AnImageThatMayNotBeWrittenSaysSo) {
  const std::string path = make("disk.qcow2");
  ::chmod(path.c_str(), 0400);
  if (::access(path.c_str(), W_OK) == 0) GTEST_SKIP() << "SKIP: root may write everything";
  expect_line(with_disk(path), {"cannot open '" + path + "' for writing: Permission denied"});
}

}  // namespace
}  // namespace vert::vm_test

// Disks on hosts that fail while the guest runs: no room, files that are cut short, removed or corrupt. And
// disks that grow.
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>
#include <tuple>

#include <gtest/gtest.h>

#include "support/image_rig.hpp"
#include "vm/harness/small_file_system.hpp"
#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

constexpr const char* kName = "disks";

struct Ran {
  int status = -1;
  std::string output;
  std::string errors;
};

Ran vert(const std::vector<std::string>& arguments) {
  VertProcess process(arguments, VertProcess::Console::kPipes);
  process.close_input();
  const End end = process.wait(60s);
  return {end.status.value_or(-1), process.output(), process.errors()};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// A guest with the name kName, in a registry of the test's own.
class DiskHostTest : public testing::Test {
 protected:
  void SetUp() override { ::setenv("XDG_RUNTIME_DIR", (folder_ / "").c_str(), 1); }

  void start(const std::vector<std::string>& disks) {
    // On a busy host, Linux may find that its timer does not work.
    auto started = LinuxGuest::start({.memory = "128M",
                                      .append = "console=ttyS0 quiet no_timer_check",
                                      .disks = disks,
                                      .modules = {"virtio_ring", "virtio", "virtio_pci_modern_dev",
                                                  "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"},
                                      .load_modules = true,
                                      .options = {"--name", kName}});
    if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
    guest_ = std::move(*started);
    ASSERT_TRUE(guest_->wait_for_shell()) << guest_->process().output() << guest_->process().errors();
    ASSERT_EQ(guest_->shell("dmesg -n 1"), "");
  }
  /// A guest's read or write past its cache; "0" if it worked.
  std::string read(const std::string& disk, u64 mebibyte) {
    return status_of(
        fmt::format("dd if=/dev/{} of=/dev/null bs=4k count=1 skip={} iflag=direct", disk, mebibyte * 256));
  }
  std::string write(const std::string& disk, u64 mebibyte) {
    return status_of(
        fmt::format("dd if=/dev/zero of=/dev/{} bs=4k count=1 seek={} oflag=direct", disk, mebibyte * 256));
  }
  static bool is_paused() { return contains(vert({"ls"}).output, "paused"); }

  std::unique_ptr<LinuxGuest> guest_;
  test::TemporaryFolder folder_;

 private:
  std::string status_of(const std::string& command) {
    const std::string text = guest_->shell(command + " 2>/dev/null; echo $?");
    return text.substr(0, text.find('\n'));
  }
};

class FullHostTest : public DiskHostTest, public testing::WithParamInterface<const char*> {};

TEST_P(FullHostTest, PausesTheMachineUntilThereIsRoom) {
  constexpr u64 kMebibyte = 1 << 20;
  const auto host = SmallFileSystem::mount(8 * kMebibyte);
  if (!host) GTEST_SKIP() << "SKIP: " << host.error().message;
  const std::string path = *host / "disk";
  ASSERT_EQ(vert({"image", "create", "-f", GetParam(), path, "64M"}).status, 0);
  ASSERT_NO_FATAL_FAILURE(start({path}));
  if (IsSkipped()) return;
  guest_->process().send(
      "dd if=/dev/zero of=/dev/vda bs=1M count=16 conv=fsync 2>/dev/null; echo status $?\r");
  for (int i = 0; i < 600 && !is_paused(); ++i) std::this_thread::sleep_for(50ms);
  const Ran info = vert({"info", kName});
  EXPECT_TRUE(contains(info.output, "no room on the host")) << info.output << info.errors;
  // Still full: it is paused again.
  EXPECT_EQ(vert({"resume", kName}).status, 0);
  for (int i = 0; i < 600 && !is_paused(); ++i) std::this_thread::sleep_for(50ms);
  ASSERT_TRUE(is_paused());
  ASSERT_TRUE(host->resize(64 * kMebibyte));
  const Ran resumed = vert({"resume", kName});
  EXPECT_EQ(resumed.status, 0) << resumed.errors;
  EXPECT_TRUE(guest_->process().expect("status 0\n", 60s)) << guest_->process().output();
  EXPECT_FALSE(contains(vert({"info", kName}).output, "no room"));
  EXPECT_EQ(guest_->shell("dmesg | grep 'I/O error'"), "");
  EXPECT_EQ(guest_->power_off().status, 0) << guest_->process().output();
  EXPECT_TRUE(contains(guest_->process().errors(), "make room, then 'vert resume' it"))
      << guest_->process().errors();
  if (std::string(GetParam()) == "qcow2") {
    EXPECT_EQ(vert({"image", "check", path}).status, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, FullHostTest, testing::Values("raw", "qcow2"));

TEST_F(DiskHostTest, FailuresOfTheHostAreIoErrorsOfTheGuest) {
  const std::string raw = folder_ / "disk.raw";
  const std::string cut = folder_ / "cut.qcow2";
  const std::string gone = folder_ / "gone.qcow2";
  const std::string limited = folder_ / "limited.raw";
  for (const std::string& path : {raw, cut, gone, limited})
    ASSERT_EQ(vert({"image", "create", path, "64M", "-f", path.ends_with("raw") ? "raw" : "qcow2"}).status,
              0);
  ASSERT_NO_FATAL_FAILURE(start({raw, cut, gone, limited}));
  if (IsSkipped()) return;
  for (const char* const disk : {"vda", "vdb", "vdc"})
    EXPECT_EQ(guest_->shell(std::string("dd if=/dev/zero of=/dev/") + disk +
                            " bs=1M count=16 conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches"),
              "");
  // Cut short: what is left can be read, and what is missing is no zeroes.
  std::filesystem::resize_file(raw, 8 << 20);
  std::filesystem::resize_file(cut, 8 << 20);
  EXPECT_EQ(read("vda", 1), "0");
  EXPECT_EQ(read("vda", 10), "1");
  EXPECT_EQ(read("vdb", 1), "0");
  EXPECT_EQ(read("vdb", 14), "1");
  // Removed: it goes on, for the file is there until vert ends.
  std::filesystem::remove(gone);
  EXPECT_EQ(read("vdc", 10), "0");
  EXPECT_EQ(write("vdc", 40), "0");
  // A limit on the size of files.
  const rlimit limit = {16 << 20, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(guest_->process().pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  EXPECT_EQ(write("vdd", 8), "0");
  EXPECT_EQ(write("vdd", 40), "1");
  EXPECT_EQ(write("vdd", 9), "0");
  EXPECT_EQ(guest_->power_off().status, 0) << guest_->process().output() << guest_->process().errors();
  const std::string& errors = guest_->process().errors();
  EXPECT_TRUE(contains(errors, "'" + raw + "' is cut short: it ends at byte 8388608")) << errors;
  EXPECT_TRUE(contains(errors, "'" + cut + "' is cut short")) << errors;
  EXPECT_TRUE(contains(errors, "cannot write '" + limited + "': File too large; the guest gets an I/O error"))
      << errors;
  EXPECT_EQ(std::ranges::count(errors, '\n'), 3) << errors;
}

TEST_F(DiskHostTest, DisksGrowWhileTheGuestRuns) {
  const std::string raw = folder_ / "disk.raw";
  const std::string qcow2 = folder_ / "disk.qcow2";
  ASSERT_EQ(vert({"image", "create", "-f", "raw", raw, "64M"}).status, 0);
  ASSERT_EQ(vert({"image", "create", qcow2, "64M"}).status, 0);
  ASSERT_NO_FATAL_FAILURE(start({raw, qcow2 + ",serial=second"}));
  if (IsSkipped()) return;
  for (const auto& [disk, size, id] :
       {std::tuple{"vda", "128M", "vda"}, std::tuple{"second", "+64M", "vdb"}}) {
    const Ran grown = vert({"disk", "resize", kName, disk, size});
    EXPECT_EQ(grown.status, 0) << grown.errors;
    // Linux asks for the new size in a work item.
    const std::string sectors = std::string("/sys/block/") + id + "/size";
    EXPECT_EQ(guest_->shell("for i in $(seq 100); do grep -q 262144 " + sectors +
                            " && break; sleep 0.1; done; cat " + sectors),
              "262144\n");
    EXPECT_EQ(write(id, 100), "0");
    EXPECT_EQ(read(id, 127), "0");
  }
  EXPECT_TRUE(contains(vert({"info", kName}).output, "disk.qcow2, 128 MiB"));
  EXPECT_TRUE(contains(vert({"disk", "resize", kName, "vda", "32M"}).errors, "can only grow"));
  EXPECT_TRUE(contains(vert({"disk", "resize", kName, "vdz", "1G"}).errors, "there are: vda ("));
  const Ran in_use = vert({"image", "resize", qcow2, "+1G"});
  EXPECT_EQ(in_use.status, 1);
  EXPECT_TRUE(contains(in_use.errors, "use 'vert disk resize disks vdb +1G'")) << in_use.errors;
  EXPECT_EQ(guest_->power_off().status, 0) << guest_->process().output();
  EXPECT_EQ(guest_->process().errors(), "");
  EXPECT_EQ(std::filesystem::file_size(raw), 128U << 20);
  EXPECT_EQ(vert({"image", "check", qcow2}).status, 0);
}

}  // namespace
}  // namespace vert::vm_test

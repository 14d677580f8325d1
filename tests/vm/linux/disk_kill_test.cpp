// vert is killed at random moments while its guest writes: what the guest had flushed is on the disk, and the
// image is in order (it may have leaks) for vert and for QEMU. The guest itself says what it flushed.
//
// One kill a kind of image; with VERT_TEST_LONG 200 in all, each kind's on the same image.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

#include <gtest/gtest.h>

#include "storage/image.hpp"
#include "support/image_rig.hpp"
#include "support/qemu_tools.hpp"
#include "support/random.hpp"
#include "vm/guest/disk_log.h"
#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

constexpr u64 kSector = 512;
constexpr u64 kDiskSize = u64{DISK_LOG_BLOCKS} * DISK_LOG_DISTANCE;

struct Kind {
  const char* name;
  storage::NewImage image;
  bool has_base = false;
};

/// What a block's sectors may hold: the number of a step, or 0.
struct Block {
  std::set<u32> in_order = {0};  // if all steps so far have taken effect
  std::set<u32> possible = {0};  // whichever have since the last flush
};
using Disk = std::vector<Block>;

void step_forward(Disk& disk, u32 number) {
  const disk_log_step step = disk_log_step_of(number);
  Block& block = disk[step.block];
  const u32 value = step.action == DISK_LOG_WRITE ? number : 0;
  block.possible.insert(value);
  if (step.action == DISK_LOG_DISCARD)
    block.in_order = block.possible;  // writes in Linux's cache are dropped, and the disk need do nothing
  else
    block.in_order = {value};
}

/// The last step that a guest may have taken of which `newest` is the newest trace on the disk: had it gone
/// on, it had flushed another write.
u32 last_possible(u32 newest) {
  constexpr unsigned kWrites = 4;  // each may have been covered by a later step
  unsigned writes = 0;
  u32 number = newest + 1;
  for (;; ++number) {
    const disk_log_step step = disk_log_step_of(number);
    writes += step.action == DISK_LOG_WRITE ? 1 : 0;
    if (step.flush != 0 && writes >= kWrites) return number;
  }
}

class DiskKillTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    auto context = storage::IoContext::create();
    ASSERT_TRUE(context);
    storage::NewImage image = GetParam().image;
    image.size = kDiskSize;
    if (GetParam().has_base) {
      const auto base = storage::NewImage{.format = storage::Format::kRaw, .size = kDiskSize};
      ASSERT_TRUE((*context)->complete(storage::create_image(**context, folder_ / "base", base)));
      image.qcow2.backing_file = folder_ / "base";
      image.qcow2.backing_format = "raw";
    }
    ASSERT_TRUE((*context)->complete(storage::create_image(**context, path_, image)));
  }

  /// Runs the guest from step `first` on until vert is killed, and gives the last step that was flushed for
  /// certain.
  void write_until_killed(u32 first, test::Random& random, u32& flushed) {
    // On a busy host, Linux may find that its timer does not work.
    auto started = LinuxGuest::start({.memory = "128M",
                                      .append = "console=ttyS0 quiet no_timer_check",
                                      .disks = {path_ + ",format=" + format()},
                                      .modules = {"virtio_ring", "virtio", "virtio_pci_modern_dev",
                                                  "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"},
                                      .load_modules = true});
    if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
    VertProcess& vert = (*started)->process();
    ASSERT_TRUE((*started)->wait_for_shell()) << vert.output() << vert.errors();
    vert.send("disk_log /dev/vda " + std::to_string(first) + "\r");
    ASSERT_TRUE(vert.expect("flushed ", 60s)) << vert.output();
    ::usleep(static_cast<useconds_t>(random.below(300'000)));
    vert.kill(SIGKILL);
    ASSERT_EQ(vert.wait(60s).signal, SIGKILL) << vert.output() << vert.errors();
    const std::string& output = vert.output();
    ASSERT_EQ(output.find("failed"), std::string::npos) << output;
    const std::size_t line = output.rfind("flushed ", output.rfind('\n'));
    flushed = static_cast<u32>(std::stoul(output.substr(line + 8)));
    ASSERT_GE(flushed, first);
  }

  void expect_in_order() {
    if (format() == "raw") return;
    auto context = storage::IoContext::create();
    ASSERT_TRUE(context);
    if (GetParam().image.qcow2.lazy_refcounts) {  // counted anew when it is opened next
      auto image = test::open_qcow2(**context, path_);
      ASSERT_TRUE(image) << image.error().message;
      ASSERT_TRUE(image->close());
    }
    VertProcess check({"image", "check", path_}, VertProcess::Console::kPipes);
    const auto status = check.wait(60s).status;
    EXPECT_TRUE(status == 0 || status == 3) << check.output() << check.errors();
    if (test::have_qemu_tools()) {
      EXPECT_EQ(test::qemu_problems(path_, true), "");
    }
  }

  /// What each block's sectors hold.
  void read_all(std::vector<std::set<u32>>& content) {
    auto context = storage::IoContext::create();
    ASSERT_TRUE(context);
    storage::ImageOptions options;
    options.format = GetParam().image.format;
    options.read_only = true;
    const auto image = (*context)->complete(storage::open_image(**context, path_, options));
    ASSERT_TRUE(image) << image.error().message;
    for (u64 number = 0; number < DISK_LOG_BLOCKS; ++number) {
      std::vector<u8> bytes(DISK_LOG_BLOCK);
      const iovec piece = storage::buffer_of(std::span(bytes));
      const Status done =
          (*context)->complete((*image)->read(number * DISK_LOG_DISTANCE, storage::Buffers(&piece, 1)));
      ASSERT_TRUE(done) << done.error().message;
      for (u64 at = 0; at < bytes.size(); at += kSector) {
        u32 value = 0;
        std::memcpy(&value, &bytes[at], sizeof value);
        for (u64 i = 0; i < kSector; i += sizeof value)
          ASSERT_EQ(std::memcmp(&bytes[at + i], &value, sizeof value), 0) << "a sector of two writes";
        content[number].insert(value);
      }
    }
  }

  /// The guest began with step `first`, and `flushed` was on the disk for certain. From now on, the disk
  /// holds what was found, and nothing else.
  void judge(u32 first, u32 flushed, Disk& disk) {
    std::vector<std::set<u32>> content(DISK_LOG_BLOCKS);
    ASSERT_NO_FATAL_FAILURE(read_all(content));
    u32 newest = flushed;
    for (const auto& found : content) newest = std::max(newest, *found.rbegin());
    const u32 last = last_possible(newest);
    for (u32 number = first; number <= last; ++number) {
      step_forward(disk, number);
      if (number != flushed) continue;
      for (Block& block : disk) block.possible = block.in_order;
    }
    for (u64 number = 0; number < DISK_LOG_BLOCKS; ++number) {
      const std::set<u32>& found = content[number];
      ASSERT_TRUE(std::ranges::includes(disk[number].possible, found))
          << "block " << number << " holds " << *found.begin() << ", not " << *disk[number].in_order.rbegin()
          << "; flushed up to " << flushed;
      disk[number] = {found, found};
    }
  }

  [[nodiscard]] static std::string format() {
    return GetParam().image.format == storage::Format::kRaw ? "raw" : "qcow2";
  }

  test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "disk";
};

TEST_P(DiskKillTest, NothingFlushedIsLost) {
  constexpr u32 kStepsOfRound = 1'000'000;
  const u32 rounds = long_tests() ? 40 : 1;
  test::Random random(static_cast<u64>(::getpid()));
  Disk disk(DISK_LOG_BLOCKS);
  for (u32 round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const u32 first = round * kStepsOfRound + 1;
    u32 flushed = 0;
    ASSERT_NO_FATAL_FAILURE(write_until_killed(first, random, flushed));
    if (IsSkipped()) return;
    ASSERT_NO_FATAL_FAILURE(expect_in_order());
    ASSERT_NO_FATAL_FAILURE(judge(first, flushed, disk));
  }
}

storage::NewImage qcow2(u64 cluster_size, bool lazy_refcounts = false) {
  storage::NewImage image;
  image.qcow2.cluster_size = cluster_size;
  image.qcow2.lazy_refcounts = lazy_refcounts;
  return image;
}

INSTANTIATE_TEST_SUITE_P(Images, DiskKillTest,
                         testing::Values(Kind{"Raw", {.format = storage::Format::kRaw}},
                                         Kind{"Usual", qcow2(65536)}, Kind{"Small", qcow2(512)},
                                         Kind{"Lazy", qcow2(4096, true)},
                                         Kind{"Overlay", qcow2(65536), true}),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace vert::vm_test

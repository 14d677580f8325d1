// A process that writes through vert's qcow2 is killed at random moments: what it had flushed is there, and
// the image is in order (it may have leaks) for vert and for QEMU.
//
// Some rounds; with VERT_TEST_LONG 200.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>

#include <gtest/gtest.h>

#include "support/image_rig.hpp"
#include "support/qemu_tools.hpp"
#include "support/random.hpp"

namespace vert::storage::qcow2 {
namespace {

using test::Random;

constexpr u64 kBlock = 4096;
constexpr u64 kBlocks = 1024;
constexpr u64 kSector = 512;
constexpr u64 kSectors = kBlock / kSector;  // of a block

/// What the writer says through the pipe, before it does it and after.
struct Record {
  enum Kind : u32 { kWriting, kFlushed } kind;
  u32 block;
  u32 value;  // 0: zeroes or a discard
};

/// Each block holds one number, over and over.
void fill(std::span<u8> block, u32 value) {
  for (u64 at = 0; at < block.size(); at += sizeof value)
    std::memcpy(block.data() + at, &value, sizeof value);
}

/// Never returns: writes until it is killed.
[[noreturn]] void write_for_ever(const std::string& path, int log, u64 seed) {
  Random random(seed);
  const auto say = [&](Record record) {
    if (::write(log, &record, sizeof record) != sizeof record) ::_exit(1);
  };
  auto context = IoContext::create(IoContext::Kind::kPool);
  if (!context) ::_exit(2);
  auto image = test::open_qcow2(**context, path);
  if (!image) ::_exit(3);
  u32 value = static_cast<u32>(seed << 16);
  while (true) {
    const u64 count = 1 + random.below(20);
    for (u64 i = 0; i < count; ++i) {
      const auto block = static_cast<u32>(random.below(kBlocks));
      const bool zero = random.below(4) == 0;
      say({Record::kWriting, block, zero ? 0 : ++value});
      std::vector<u8> bytes(kBlock);
      fill(bytes, value);
      Status status;
      if (!zero)
        status = image->write(block * kBlock, bytes);
      else
        status = image->write_zeroes(block * kBlock, kBlock);
      if (!status) ::_exit(4);
    }
    if (!image->flush()) ::_exit(5);
    say({Record::kFlushed, 0, 0});
  }
}

struct Shape {
  const char* name;
  u64 cluster_size;
  bool lazy;
};

class Qcow2KillTest : public testing::TestWithParam<Shape> {
 protected:
  /// What each sector may hold: a write that was under way may be there in part.
  using Candidates = std::vector<std::vector<u32>>;

  void run_writer(u64 seed, Candidates& may_hold) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(pipe[0]);
      write_for_ever(path_, pipe[1], seed);
    }
    ::close(pipe[1]);
    Random random(seed + 1'000'000);
    ::usleep(static_cast<useconds_t>(2000 + random.below(120'000)));
    // The pipe is emptied only afterwards: a writer that outruns it waits, and is killed then.
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer failed with " << WEXITSTATUS(status);
    std::vector<Record> since;
    for (Record record{}; ::read(pipe[0], &record, sizeof record) == sizeof record;) {
      if (record.kind == Record::kWriting) {
        since.push_back(record);
        for (u64 i = 0; i < kSectors; ++i) may_hold[record.block * kSectors + i].push_back(record.value);
        continue;
      }
      // Of what was flushed, only the last counts.
      for (const Record& one : since)
        for (u64 i = 0; i < kSectors; ++i) {
          auto& candidates = may_hold[one.block * kSectors + i];
          candidates = {candidates.back()};
        }
      since.clear();
    }
    ::close(pipe[0]);
  }

  test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "disk.qcow2";
};

TEST_P(Qcow2KillTest, NothingFlushedIsLostAndTheImageIsInOrder) {
  const u64 rounds = std::getenv("VERT_TEST_LONG") != nullptr ? 70 : 4;
  const bool judge = test::have_qemu_tools();
  auto context = IoContext::create(IoContext::Kind::kPool);
  ASSERT_TRUE(context);
  NewImage made;
  made.size = kBlocks * kBlock;
  made.qcow2.cluster_size = GetParam().cluster_size;
  made.qcow2.lazy_refcounts = GetParam().lazy;
  ASSERT_TRUE((*context)->complete(create_image(**context, path_, made)));
  Candidates may_hold(kBlocks * kSectors, {0});
  for (u64 round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    // Threads do not survive fork(): this process has none while it forks.
    context->reset();
    ASSERT_NO_FATAL_FAILURE(run_writer(round + 1, may_hold));
    context = IoContext::create(IoContext::Kind::kPool);
    ASSERT_TRUE(context);
    if (judge && !GetParam().lazy) {
      ASSERT_EQ(test::qemu_problems(path_, true), "");
    }
    const auto image = test::open_qcow2(**context, path_);  // repairs lazy refcounts
    ASSERT_TRUE(image) << image.error().message;
    const auto result = image->check();
    ASSERT_TRUE(result);
    ASSERT_EQ(result->corruptions, 0U) << result->problems[0];
    const auto content = image->content();
    for (u64 sector = 0; sector < may_hold.size(); ++sector) {
      const auto here = std::span(content).subspan(sector * kSector, kSector);
      u32 value = 0;
      std::memcpy(&value, here.data(), sizeof value);
      ASSERT_NE(std::ranges::count(may_hold[sector], value), 0)
          << "sector " << sector << " holds " << value << ", not " << may_hold[sector].back();
      std::vector<u8> whole(kSector);
      fill(whole, value);
      ASSERT_TRUE(std::ranges::equal(whole, here)) << sector;
      may_hold[sector] = {value};
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Qcow2KillTest,
                         testing::Values(Shape{"Usual", 65536, false}, Shape{"Small", 512, false},
                                         Shape{"Lazy", 4096, true}),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace vert::storage::qcow2

// GuestMemory's code pages: how watches begin and end, and who is told.
#include <gtest/gtest.h>
#include <algorithm>
#include <random>
#include <thread>

#include "memory/guest_memory.hpp"

namespace vert::test {
namespace {

using memory::Frame;
using memory::GuestMemory;

constexpr Frame kFrames = 2048;
constexpr Frame kFrame = 3;
constexpr int kFreeUnwatches = 16;
constexpr int kWritesInARow = 8;

/// Notes each call, with what was to be seen at that moment.
struct Recorder : memory::CodeWatcher {
  struct Call {
    char kind;
    Frame frame;
    u32 version;
    u8 first_byte;
    bool marked;
  };

  explicit Recorder(GuestMemory& guest_memory) : memory(guest_memory) {}
  void code_written(Frame frame) override { note('c', frame); }
  void drop_writable(Frame frame) override { note('w', frame); }
  void drop_all_writable() override { note('a', 0); }
  void note(char kind, Frame frame) {
    calls.push_back({kind, frame, memory.code_version(frame), *memory.host(Gpa(u64{frame} << kPageShift), 1),
                     memory.marks()[frame] != 0});
  }
  [[nodiscard]] long count(char kind) const { return std::ranges::count(calls, kind, &Call::kind); }

  GuestMemory& memory;
  std::vector<Call> calls;
};

class CodeWatchTest : public ::testing::Test {
 protected:
  void SetUp() override { memory_->add_code_watcher(recorder_); }
  void write(u8 value, Frame frame = kFrame) {
    ASSERT_TRUE(memory_->write(Gpa(u64{frame} << kPageShift), std::vector<u8>{value}));
  }

  std::unique_ptr<GuestMemory> memory_ = GuestMemory::create({{Gpa(0), kFrames* kPageSize}}).value();
  Recorder recorder_{*memory_};
};

TEST_F(CodeWatchTest, WritersAreSlowedBeforeTheWatcherReads) {
  memory_->watch_code(kFrame);
  ASSERT_EQ(recorder_.calls.size(), 1U);
  EXPECT_EQ(recorder_.calls[0].kind, 'w');
  EXPECT_EQ(recorder_.calls[0].frame, kFrame);
  EXPECT_TRUE(recorder_.calls[0].marked);
  memory_->watch_code(kFrame);
  EXPECT_EQ(recorder_.calls.size(), 1U);
}

TEST_F(CodeWatchTest, AWriteIsToldOnceThenThePageIsFree) {
  const u32 version = memory_->watch_code(kFrame);
  EXPECT_EQ(version, memory_->code_version(kFrame));
  write(7);
  ASSERT_EQ(recorder_.count('c'), 1);
  EXPECT_EQ(recorder_.calls[1].frame, kFrame);
  EXPECT_EQ(recorder_.calls[1].version, version + 1);
  EXPECT_EQ(recorder_.calls[1].first_byte, 7);
  EXPECT_TRUE(recorder_.calls[1].marked);
  EXPECT_EQ(memory_->marks()[kFrame], 0);
  write(8);
  EXPECT_EQ(recorder_.count('c'), 1);
  EXPECT_EQ(memory_->code_version(kFrame), version + 1);
  EXPECT_EQ(memory_->watch_code(kFrame), version + 1);
  EXPECT_EQ(recorder_.count('w'), 2);
}

TEST_F(CodeWatchTest, PagesThatMixCodeAndDataStayWatched) {
  for (int i = 0; i < kFreeUnwatches; ++i) {
    memory_->watch_code(kFrame);
    write(1);
    ASSERT_EQ(memory_->marks()[kFrame], 0);
  }
  constexpr int kRounds = 100;
  for (int round = 0; round < kRounds; ++round) {
    const u32 version = memory_->watch_code(kFrame);
    for (int i = 1; i < kWritesInARow; ++i) {
      write(1);
      ASSERT_NE(memory_->marks()[kFrame], 0);
      ASSERT_EQ(memory_->code_version(kFrame), version + static_cast<u32>(i));
    }
  }
  EXPECT_EQ(recorder_.count('w'), kFreeUnwatches + 1);
  EXPECT_EQ(recorder_.count('c'), kFreeUnwatches + kRounds * (kWritesInARow - 1));
  // Nobody asks any more: it is fast again.
  write(1);
  EXPECT_EQ(memory_->marks()[kFrame], 0);
  memory_->watch_code(kFrame);
  write(1);
  EXPECT_NE(memory_->marks()[kFrame], 0);
  write(1, kFrame + 1);
  memory_->watch_code(kFrame + 1);
  write(1, kFrame + 1);
  EXPECT_EQ(memory_->marks()[kFrame + 1], 0);
}

TEST_F(CodeWatchTest, TheDirtyLogStopsFastWrites) {
  memory_->set_dirty_log(true);
  EXPECT_EQ(recorder_.count('a'), 1);
  EXPECT_TRUE(recorder_.calls.back().marked);
  EXPECT_TRUE(memory_->take_dirty().empty());
  EXPECT_EQ(recorder_.count('a'), 1);
  write(1, 0);
  EXPECT_EQ(memory_->marks()[0], 0);
  EXPECT_EQ(memory_->take_dirty(), std::vector<Frame>{0});
  EXPECT_EQ(recorder_.count('a'), 2);
  EXPECT_TRUE(recorder_.calls.back().marked);
  memory_->set_dirty_log(false);
  EXPECT_EQ(recorder_.count('a'), 2);
  EXPECT_EQ(memory_->marks()[0], 0);
}

TEST_F(CodeWatchTest, RemovedWatchersHearNothing) {
  Recorder other(*memory_);
  memory_->add_code_watcher(other);
  memory_->watch_code(kFrame);
  memory_->remove_code_watcher(recorder_);
  write(1);
  EXPECT_EQ(recorder_.count('c'), 0);
  EXPECT_EQ(other.count('c'), 1);
}

TEST_F(CodeWatchTest, NoCompletedWriteIsHiddenByAnEqualVersion) {
  // Readers keep a copy of each page's first word, as a decoder would, and watch and copy anew where it is
  // stale. Once a write has completed, no copy without it may pass for valid. Every page is written so often
  // that its watches end and begin all the time.
  memory_->remove_code_watcher(recorder_);
  constexpr u64 kWritesOfPage = 2 * kFreeUnwatches;
  std::atomic<u64> completed = 0;
  std::atomic<u64> failures = 0;
  const auto word = [&](Frame frame) {
    return std::atomic_ref(
        *reinterpret_cast<u64*>(memory_->host(Gpa(u64{frame} << kPageShift), sizeof(u64))));
  };
  const auto reader = [&] {
    std::vector<std::pair<u64, u32>> copies(kFrames, {0, ~u32{0}});
    for (u64 now = 0; now + 1 < kFrames * kWritesOfPage;) {
      now = completed.load(std::memory_order_acquire);
      const auto frame = static_cast<Frame>(now / kWritesOfPage);
      auto& [value, version] = copies[frame];
      if (memory_->code_version(frame) != version) {
        version = memory_->watch_code(frame);
        value = word(frame).load(std::memory_order_relaxed);
      } else if (value < now) {
        ++failures;
      }
    }
  };
  std::thread first(reader);
  std::thread second(reader);
  std::mt19937 random{5};
  for (u64 now = 1; now < kFrames * kWritesOfPage; ++now) {
    const auto frame = static_cast<Frame>(now / kWritesOfPage);
    word(frame).store(now, std::memory_order_relaxed);
    memory_->written_frame(frame);
    completed.store(now, std::memory_order_release);
    for (u64 pause = random() % 1024; pause != 0; --pause)
      std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  first.join();
  second.join();
  EXPECT_EQ(failures, 0U);
}

}  // namespace
}  // namespace vert::test

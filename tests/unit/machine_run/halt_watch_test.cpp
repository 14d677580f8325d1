// When no vCPU can ever run again, and when one still can.
#include "machine/halt_watch.hpp"

#include <gtest/gtest.h>

#include <thread>

namespace vert::machine {
namespace {

using cpu::VcpuEvents;

constexpr u32 kAlways = VcpuEvents::kKick | VcpuEvents::kInit | VcpuEvents::kSipi;
constexpr u32 kDead = kAlways | VcpuEvents::kNmi;

struct HaltWatchTest : testing::Test {
  std::deque<VcpuEvents> events = std::deque<VcpuEvents>(2);
  HaltWatch watch{events};
};

TEST_F(HaltWatchTest, AllMustSleep) {
  EXPECT_FALSE(watch.sleeps(0, kDead));
  EXPECT_TRUE(watch.sleeps(1, kAlways));
}

TEST_F(HaltWatchTest, OneThatTakesInterruptsIsEnoughToGoOn) {
  EXPECT_FALSE(watch.sleeps(0, kDead | VcpuEvents::kInterrupt));
  EXPECT_FALSE(watch.sleeps(1, kDead));
}

TEST_F(HaltWatchTest, OneThatWokeIsEnoughToGoOn) {
  EXPECT_FALSE(watch.sleeps(0, kDead));
  watch.wakes(0);
  EXPECT_FALSE(watch.sleeps(1, kDead));
}

TEST_F(HaltWatchTest, APendingEventCountsForThoseThatItWakes) {
  events[0].request(VcpuEvents::kNmi);
  EXPECT_FALSE(watch.sleeps(0, kAlways)) << "the other one is awake";
  EXPECT_TRUE(watch.sleeps(1, kDead)) << "NMIs are blocked there";
  EXPECT_FALSE(watch.sleeps(0, kDead));
}

// Two vCPUs pass one event to and fro: one of them always has it or is awake.
TEST_F(HaltWatchTest, NoticesNothingWhileAnEventIsUnderWay) {
  std::atomic<int> deaths = 0;
  const auto play = [&](unsigned me) {
    for (int turn = 0; turn < 500; ++turn) {
      if (watch.sleeps(me, kDead)) ++deaths;
      while ((events[me].pending() & VcpuEvents::kNmi) == 0) std::this_thread::yield();
      watch.wakes(me);
      static_cast<void>(events[me].take(VcpuEvents::kNmi));
      events[1 - me].request(VcpuEvents::kNmi);
    }
  };
  events[0].request(VcpuEvents::kNmi);
  std::thread other(play, 1);
  play(0);
  other.join();
  EXPECT_EQ(deaths, 0);
}

}  // namespace
}  // namespace vert::machine

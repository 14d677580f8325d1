// The event loop in real time, with waits as short as they can be.
#include "base/event_loop.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <thread>

#include "base/fd.hpp"
#include "base/host_tsc.hpp"

namespace vert::base {
namespace {

using namespace std::chrono_literals;

constexpr u64 kMillisecond = 1'000'000;
constexpr auto kLong = 10s;  // a failure, not a wait

class EventLoopTest : public testing::Test {
 protected:
  /// Runs on the loop's thread and waits: what was posted before is done then.
  void sync() {
    std::promise<void> done;
    loop->post([&] { done.set_value(); });
    ASSERT_EQ(done.get_future().wait_for(kLong), std::future_status::ready);
  }
  static bool eventually(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(100us);
    }
    return true;
  }

  std::unique_ptr<EventLoop> loop = EventLoop::create().value();
};

TEST_F(EventLoopTest, ClockRunsWithTheHosts) {
  const auto host_before = std::chrono::steady_clock::now();
  const u64 before = loop->now_ns();
  std::this_thread::sleep_for(2ms);
  const u64 after = loop->now_ns();
  const auto host = std::chrono::steady_clock::now() - host_before;
  EXPECT_GE(after - before, 2 * kMillisecond);
  EXPECT_LE(after - before, static_cast<u64>(std::chrono::nanoseconds(host).count()));
}

TEST_F(EventLoopTest, TimersFireOnceInOrderAndNotEarly) {
  std::promise<void> done;
  std::vector<int> order;
  u64 first_at = 0;
  const auto late = loop->make_timer([&] {
    order.push_back(2);
    done.set_value();
  });
  const auto early = loop->make_timer([&] {
    order.push_back(1);
    first_at = loop->now_ns();
  });
  const u64 now = loop->now_ns();
  late->arm(now + 4 * kMillisecond);
  early->arm(now + 2 * kMillisecond);
  ASSERT_EQ(done.get_future().wait_for(kLong), std::future_status::ready);
  EXPECT_EQ(order, (std::vector{1, 2}));
  EXPECT_GE(first_at, now + 2 * kMillisecond);
}

TEST_F(EventLoopTest, ArmReplacesAndCancelEnds) {
  std::atomic<int> fired = 0;
  const auto timer = loop->make_timer([&] { ++fired; });
  timer->arm(~u64{0});  // centuries away, no overflow
  timer->arm(u64{1} << 63);
  timer->arm(loop->now_ns() + 100 * kMillisecond);
  timer->arm(0);  // passed already
  ASSERT_TRUE(eventually([&] { return fired == 1; }));
  timer->arm(loop->now_ns() + kMillisecond);
  timer->cancel();
  std::this_thread::sleep_for(3ms);
  sync();
  EXPECT_EQ(fired, 1);
}

TEST_F(EventLoopTest, CallbackMayArmItself) {
  std::atomic<int> fired = 0;
  std::unique_ptr<Timer> timer = loop->make_timer([&] {
    if (++fired < 1000) timer->arm(0);
  });
  timer->arm(0);
  sync();  // an endless chain of timers would still let this through
  ASSERT_TRUE(eventually([&] { return fired == 1000; }));
}

TEST_F(EventLoopTest, DestructorWaitsForTheCallback) {
  std::promise<void> entered;
  std::atomic<bool> left = false;
  auto timer = loop->make_timer([&] {
    entered.set_value();
    std::this_thread::sleep_for(5ms);
    left = true;
  });
  timer->arm(0);
  entered.get_future().wait();
  timer.reset();
  EXPECT_TRUE(left);
}

TEST_F(EventLoopTest, TimersOfManyThreads) {
  constexpr int kThreads = 4;
  constexpr int kEach = 200;
  std::atomic<int> fired = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < kEach; ++j) {
        std::promise<void> done;
        const auto timer = loop->make_timer([&] {
          ++fired;
          done.set_value();
        });
        timer->arm(loop->now_ns() + 1000);
        done.get_future().wait();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(fired, kThreads * kEach);
}

TEST_F(EventLoopTest, PauseStopsClockAndTimers) {
  std::atomic<int> fired = 0;
  const auto timer = loop->make_timer([&] { ++fired; });
  timer->arm(loop->now_ns() + 2 * kMillisecond);
  loop->pause();
  const u64 stopped = loop->now_ns();
  const auto overdue = loop->make_timer([&] { ++fired; });
  overdue->arm(0);
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(loop->now_ns(), stopped);
  const int while_paused = fired;
  loop->resume();
  EXPECT_LE(loop->now_ns() - stopped, 4 * kMillisecond) << "paused time counts";
  EXPECT_EQ(while_paused, 0);
  EXPECT_TRUE(eventually([&] { return fired == 2; }));
}

TEST_F(EventLoopTest, ResumesFromAMomentThatHasPassed) {
  loop->pause();
  const u64 stopped = loop->now_ns();
  const u64 moment = host_moment().ns;
  std::this_thread::sleep_for(5ms);
  loop->resume_at(moment);
  EXPECT_EQ(loop->host_ns(stopped), moment);
  EXPECT_GE(loop->now_ns(), stopped + 5 * kMillisecond);
}

TEST_F(EventLoopTest, PauseWaitsForTheCallback) {
  std::promise<void> entered;
  std::atomic<bool> left = false;
  const auto timer = loop->make_timer([&] {
    entered.set_value();
    std::this_thread::sleep_for(5ms);
    left = true;
  });
  timer->arm(0);
  entered.get_future().wait();
  loop->pause();
  EXPECT_TRUE(left);
}

class Pipe {
 public:
  Pipe() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    read = Fd(ends[0]);
    write = Fd(ends[1]);
  }
  void put(char c) const { EXPECT_EQ(::write(write.get(), &c, 1), 1); }

  Fd read;
  Fd write;
};

TEST_F(EventLoopTest, WatchIsOneShotAndLevel) {
  const Pipe pipe;
  std::atomic<int> called = 0;
  const auto watch = loop->watch(pipe.read.get(), [&] { ++called; }).value();
  pipe.put('a');
  sync();
  EXPECT_EQ(called, 0) << "not armed yet";
  watch->arm();
  ASSERT_TRUE(eventually([&] { return called == 1; }));
  pipe.put('b');
  std::this_thread::sleep_for(1ms);
  sync();
  EXPECT_EQ(called, 1);
  watch->arm();  // nothing was read: readable still
  ASSERT_TRUE(eventually([&] { return called == 2; }));
}

TEST_F(EventLoopTest, WatchSeesTheEnd) {
  Pipe pipe;
  std::atomic<int> called = 0;
  const auto watch = loop->watch(pipe.read.get(), [&] { ++called; }).value();
  watch->arm();
  pipe.write.reset();
  EXPECT_TRUE(eventually([&] { return called == 1; }));
}

TEST_F(EventLoopTest, WatchLeavesTheDescriptorBlockingAndOpen) {
  const Pipe pipe;
  auto watch = loop->watch(pipe.read.get(), [] {}).value();
  watch->arm();
  sync();
  EXPECT_EQ(::fcntl(pipe.read.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_FALSE(loop->watch(pipe.read.get(), [] {})) << "watched already";
  watch.reset();
  EXPECT_EQ(::fcntl(pipe.read.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_TRUE(loop->watch(pipe.read.get(), [] {}));
}

TEST_F(EventLoopTest, FilesThatCannotBePolledAreAlwaysReadable) {
  const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::atomic<int> called = 0;
  const auto watch = loop->watch(null.get(), [&] { ++called; }).value();
  watch->arm();
  EXPECT_TRUE(eventually([&] { return called == 1; }));
  EXPECT_FALSE(loop->watch(-1, [] {}));
}

TEST_F(EventLoopTest, WatchGoesWhileArmed) {
  const Pipe pipe;
  std::atomic<int> called = 0;
  auto watch = loop->watch(pipe.read.get(), [&] { ++called; }).value();
  watch->arm();
  sync();
  watch.reset();
  pipe.put('x');
  sync();
  EXPECT_EQ(called, 0);
}

}  // namespace
}  // namespace vert::base

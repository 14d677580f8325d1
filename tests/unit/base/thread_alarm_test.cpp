// A signal to one thread at a given moment.
#include "base/thread_alarm.hpp"

#include <gtest/gtest.h>
#include <unistd.h>
#include <ctime>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/time.hpp"

namespace vert::test {
namespace {

using base::ThreadAlarm;
using namespace std::chrono_literals;

u64 host_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * base::kNanosecondsPerSecond + static_cast<u64>(now.tv_nsec);
}

struct Bell {
  std::atomic<int> rings = 0;
  std::atomic<int> thread = 0;
};

void ring(void* context) {
  auto& bell = *static_cast<Bell*>(context);
  bell.thread = ::gettid();
  ++bell.rings;
}

bool rings(const Bell& bell, int times) {
  const auto limit = std::chrono::steady_clock::now() + 10s;
  while (bell.rings < times && std::chrono::steady_clock::now() < limit) {
  }
  return bell.rings == times;
}

TEST(ThreadAlarm, RingsOnTheThreadThatMadeItOnceForEachTime) {
  Bell bell;
  const auto alarm = ThreadAlarm::create(ring, &bell);
  ASSERT_NE(alarm, nullptr);
  std::thread other([&] { EXPECT_TRUE(alarm->set(host_ns() + 2'000'000)); });
  EXPECT_TRUE(rings(bell, 1));
  other.join();
  EXPECT_EQ(bell.thread, ::gettid());
  EXPECT_TRUE(alarm->set(0)) << "a time that has passed rings at once";
  EXPECT_TRUE(rings(bell, 2));
}

TEST(ThreadAlarm, IsSilentOnceGone) {
  Bell bell;
  auto alarm = ThreadAlarm::create(ring, &bell);
  ASSERT_NE(alarm, nullptr);
  EXPECT_TRUE(alarm->set(host_ns() + 20'000'000));
  alarm.reset();
  std::this_thread::sleep_for(40ms);
  EXPECT_EQ(bell.rings, 0);
}

}  // namespace
}  // namespace vert::test

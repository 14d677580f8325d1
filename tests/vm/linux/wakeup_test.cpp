// No wake-up of a real guest gets lost: timers, interrupts between processors, and processors that come and
// go.
//
// A lost one shows as seconds, for it waits until something else happens by; what a busy host adds does not.
// With VERT_TEST_LONG the tests take minutes, and say more.
#include <cstdlib>

#include <gtest/gtest.h>

#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

constexpr const char* kComplaints =
    "dmesg | grep -E 'Oops|BUG:|WARNING:|Call Trace|soft lockup|rcu.*stall|clocksource.*unstable'";

class WakeupTest : public testing::TestWithParam<unsigned> {
 protected:
  void SetUp() override {
    auto started = LinuxGuest::start({.cpus = GetParam()});
    if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
    guest_ = std::move(*started);
    ASSERT_TRUE(guest_->wait_for_shell()) << guest_->process().output() << guest_->process().errors();
  }
  void TearDown() override {
    if (IsSkipped() || HasFatalFailure()) return;
    EXPECT_EQ(guest_->shell(kComplaints), "");
    EXPECT_EQ(guest_->power_off().status, 0) << guest_->process().output();
  }

  /// Runs a program whose last line ends in "NUMBER ms", which is to be less than `limit`.
  void expect_prompt(const std::string& command, std::chrono::milliseconds limit = 2000ms) {
    const std::string answer = guest_->shell(command, 900s);
    RecordProperty("answer", answer);
    const auto number = answer.find_last_of(' ', answer.rfind(" ms\n") - 1);
    ASSERT_TRUE(answer.ends_with(" ms\n") && number != std::string::npos) << command << ": " << answer;
    EXPECT_LT(std::strtol(answer.c_str() + number, nullptr, 10), limit.count()) << answer;
  }
  [[nodiscard]] LinuxGuest& guest() { return *guest_; }

 private:
  std::unique_ptr<LinuxGuest> guest_;
};

TEST_P(WakeupTest, TimersEndEndlessLoops) {
  expect_prompt("busy_timer " + std::to_string(long_tests() ? 1000 : 40));
}

TEST_P(WakeupTest, TimersWakeSleepersInTime) {
  expect_prompt("timer_latency " + std::to_string(long_tests() ? 600 : 6));
}

TEST_P(WakeupTest, ProcessorsWakeEachOther) {
  expect_prompt("ping_pong " + std::to_string(long_tests() ? 1'000'000 : 20'000));
}

/// The other processes of the guest get their turns, and it can be paused, as the end of each test shows by
/// stopping it.
TEST_P(WakeupTest, UsersLoopsHoldNobodyUp) {
  // One for each processor; without the wait at the end the shell may take a job's end for that of its input.
  const std::string loops = guest().shell("for i in $(seq " + std::to_string(GetParam()) +
                                              "); do user_loop & done; sleep 1; pidof user_loop | wc -w",
                                          120s);
  EXPECT_EQ(loops, std::to_string(GetParam()) + "\n");
  expect_prompt("timer_latency 2");
  EXPECT_EQ(guest().shell("killall -9 user_loop; wait 2> /dev/null; pidof user_loop | wc -w", 120s), "0\n");
}

TEST_P(WakeupTest, ProcessorsComeAndGoUnderLoad) {
  if (GetParam() == 1) GTEST_SKIP() << "SKIP: the boot processor stays";
  const std::string times = std::to_string(long_tests() ? 200 : 10);
  const std::string last = "/sys/devices/system/cpu/cpu" + std::to_string(GetParam() - 1) + "/online";
  // Without the wait busybox's shell may take the end of its job for the end of its input, and leave. It says
  // there how the job ended, or later at its prompt.
  EXPECT_EQ(guest().shell("while true; do ls / | cat; done > /dev/null 2>&1 & load=$!; for i in $(seq " +
                              times + "); do echo 0 > " + last + " && echo 1 > " + last +
                              " || break; done; { kill $load; wait $load; } 2> /dev/null; echo $i",
                          900s),
            times + "\n");
}

INSTANTIATE_TEST_SUITE_P(Cpus, WakeupTest, testing::Values(1, 2, 4),
                         [](const auto& parameter) { return "Smp" + std::to_string(parameter.param); });

}  // namespace
}  // namespace vert::vm_test

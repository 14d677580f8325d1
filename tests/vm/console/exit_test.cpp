// How `vert run` ends, and in what state it leaves the terminal: guests are the kernels of guest/multiboot.S.
#include <signal.h>

#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

#include "vm/harness/vert_process.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;
using Console = VertProcess::Console;

std::vector<std::string> run_kernel(const std::string& action, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {"run", VERT_GUEST_FOLDER "/" + action + ".elf", "--memory", "64M"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

bool same_mode(const termios& a, const termios& b) {
  return a.c_iflag == b.c_iflag && a.c_oflag == b.c_oflag && a.c_cflag == b.c_cflag &&
         a.c_lflag == b.c_lflag && std::memcmp(a.c_cc, b.c_cc, sizeof a.c_cc) == 0;
}

TEST(Exit, DebugExitGivesItsStatus) {
  VertProcess vert(run_kernel("debug_exit", {"--device", "isa-debug-exit"}), Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, (0x2a << 1) | 1);
  EXPECT_EQ(vert.output(), "kernel up\n");
}

TEST(Exit, OwnErrorsAreNoStatusOfAPassedTest) {
  // 1 is what a guest reports that writes 0.
  VertProcess vert({"run", "--kernel", "/nonexistent", "--device", "isa-debug-exit"}, Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, 125);
}

TEST(Exit, ImageBehindADeviceIsTheImage) {
  VertProcess vert(
      {"run", "--memory", "64M", "--device", "isa-debug-exit", VERT_GUEST_FOLDER "/debug_exit.elf"},
      Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, (0x2a << 1) | 1);
}

TEST(Exit, TripleFaultIsStatusTwoWithTheStateThatLedToIt) {
  VertProcess vert(run_kernel("triple_fault"), Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, 2);
  EXPECT_NE(vert.errors().find("triple fault"), std::string::npos);
  std::string upper = vert.errors();
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return std::toupper(c); });
  EXPECT_NE(upper.find("RIP"), std::string::npos) << vert.errors();
  EXPECT_NE(upper.find("CR3"), std::string::npos) << vert.errors();
}

TEST(Exit, ResetEndsTheMachineWithNoReboot) {
  VertProcess vert(run_kernel("reset", {"--no-reboot"}), Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, 0);
}

TEST(Exit, ResetRunsTheKernelAgain) {
  VertProcess vert(run_kernel("reset"), Console::kPipes);
  EXPECT_TRUE(vert.expect("kernel up", 30s));
  EXPECT_TRUE(vert.expect("kernel up", 30s));
}

TEST(Exit, HaltThatNothingCanEndIsSaidAndStatusZero) {
  for (const char* const cpus : {"1", "3"}) {
    VertProcess vert(run_kernel("dead_halt", {"--cpus", cpus}), Console::kPipes);
    EXPECT_EQ(vert.wait(30s).status, 0) << cpus;
    EXPECT_NE(vert.errors().find("halted all its vCPUs"), std::string::npos) << vert.errors();
  }
}

TEST(Exit, KernelLearnsTheNumberOfProcessorsFromFwCfg) {
  VertProcess vert(run_kernel("cpu_count", {"--cpus", "3", "--device", "isa-debug-exit"}), Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, (3 << 1) | 1);
}

TEST(Exit, TimerTicksInRealModeAsFirmwareLeftIt) {
  VertProcess vert(run_kernel("timer_tick", {"--device", "isa-debug-exit"}), Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, (1 << 1) | 1) << vert.errors();
}

TEST(Exit, ResetVectorLeadsToAReset) {
  VertProcess vert(run_kernel("reset_vector", {"--no-reboot"}), Console::kPipes);
  EXPECT_EQ(vert.wait(30s).status, 0) << vert.errors();
  EXPECT_NE(vert.errors().find("reset"), std::string::npos) << vert.errors();
}

TEST(Exit, GuestRunsOnWithoutInput) {
  VertProcess vert(run_kernel("halt"), Console::kPipes);
  vert.close_input();
  EXPECT_TRUE(vert.expect("kernel up", 30s));
  EXPECT_EQ(vert.wait(1s).status, std::nullopt);
  vert.kill(SIGTERM);
  EXPECT_EQ(vert.wait(10s).status, 1);
  EXPECT_NE(vert.errors().find("SIGTERM"), std::string::npos);
}

TEST(Exit, ConsumerThatGoesAwayEndsIt) {
  VertProcess vert(run_kernel("flood"), Console::kTerminal);
  EXPECT_TRUE(vert.expect("kernel up", 30s));
  vert.hang_up();
  EXPECT_EQ(vert.wait(10s).status, 1);
}

TEST(Exit, FloodThatNobodyReadsCanBeStopped) {
  VertProcess vert(run_kernel("flood", {"--serial", "pty"}), Console::kPipes);
  // The pseudo-terminal has no reader; its buffer and vert's own fill up.
  EXPECT_EQ(vert.wait(2s).status, std::nullopt);
  vert.kill(SIGTERM);
  EXPECT_EQ(vert.wait(10s).status, 1);
}

TEST(Exit, SerialFileHoldsTheOutput) {
  const std::string log = testing::TempDir() + "/vert-serial-" + std::to_string(getpid()) + ".log";
  {
    VertProcess vert(run_kernel("debug_exit", {"--device", "isa-debug-exit", "--serial", "file=" + log}),
                     Console::kPipes);
    EXPECT_EQ(vert.wait(30s).status, 85);
    EXPECT_EQ(vert.output(), "");
  }
  const auto content = base::read_file(log);
  ASSERT_TRUE(content.has_value());
  EXPECT_EQ(std::string(content->begin(), content->end()), "kernel up\r\n");
  unlink(log.c_str());
}

struct TerminalEnd {
  const char* name;
  const char* typed;  // or null:
  int signal_number;
  int status;
};

class TerminalTest : public testing::TestWithParam<TerminalEnd> {};

TEST_P(TerminalTest, ModeIsRestored) {
  VertProcess vert(run_kernel("halt"), Console::kTerminal);
  const termios before = vert.terminal_mode();
  ASSERT_TRUE(vert.expect("kernel up", 30s)) << vert.output();
  EXPECT_TRUE(vert.terminal_is_raw());
  if (GetParam().typed != nullptr) {
    vert.send(GetParam().typed);
  } else {
    vert.kill(GetParam().signal_number);
  }
  const End end = vert.wait(10s);
  if (GetParam().status >= 0) {
    EXPECT_EQ(end.status, GetParam().status);
  } else {
    EXPECT_EQ(end.signal, GetParam().signal_number);
  }
  EXPECT_TRUE(same_mode(vert.terminal_mode(), before));
}

INSTANTIATE_TEST_SUITE_P(Ends, TerminalTest,
                         testing::Values(TerminalEnd{"QuitKey", "\x01x", 0, 0},
                                         TerminalEnd{"QuitKeyAfterOtherInput", "ls\x03\r\x01\x01\x01x", 0, 0},
                                         TerminalEnd{"Interrupt", nullptr, SIGINT, 1},
                                         TerminalEnd{"Terminate", nullptr, SIGTERM, 1},
                                         TerminalEnd{"HangUp", nullptr, SIGHUP, 1},
                                         TerminalEnd{"Quit", nullptr, SIGQUIT, 1},
                                         TerminalEnd{"Abort", nullptr, SIGABRT, -1}),
                         [](const auto& parameter) { return std::string(parameter.param.name); });

TEST(Terminal, TripleFaultRestoresIt) {
  VertProcess vert(run_kernel("triple_fault"), Console::kTerminal);
  const termios before = vert.terminal_mode();
  EXPECT_EQ(vert.wait(30s).status, 2);
  EXPECT_TRUE(same_mode(vert.terminal_mode(), before));
}

TEST(Terminal, IsNotRawWhileStopped) {
  VertProcess vert(run_kernel("halt"), Console::kTerminal);
  ASSERT_TRUE(vert.expect("kernel up", 30s));
  vert.kill(SIGTSTP);
  for (int i = 0; i < 1000 && vert.terminal_is_raw(); ++i) usleep(10000);
  EXPECT_FALSE(vert.terminal_is_raw());
  vert.kill(SIGCONT);
  for (int i = 0; i < 1000 && !vert.terminal_is_raw(); ++i) usleep(10000);
  EXPECT_TRUE(vert.terminal_is_raw());
  vert.send("\x01x");
  EXPECT_EQ(vert.wait(10s).status, 0);
}

}  // namespace
}  // namespace vert::vm_test

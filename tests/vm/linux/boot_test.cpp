// Debian's kernels boot to a shell that answers, and power off.
#include <gtest/gtest.h>

#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

class BootTest : public testing::TestWithParam<std::string> {};

TEST_P(BootTest, ShellAnswersAndPowerOffIsStatusZero) {
  auto started = LinuxGuest::start({.kernel = GetParam()});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  EXPECT_EQ(guest.shell("echo $((6 * 7))"), "42\n");
  EXPECT_EQ(guest.shell("uname -m"), "x86_64\n");
  EXPECT_EQ(guest.shell("grep -c ^processor /proc/cpuinfo"), "1\n");
  // Firmware tables must not make the kernel complain about them.
  EXPECT_EQ(guest.shell("dmesg -r | grep '^<[0-4]>' | grep -iE 'acpi|pci|firmware|bios|mce'"), "");
  EXPECT_EQ(guest.shell("dmesg | grep -E 'Oops|BUG:|WARNING:|Call Trace'"), "");
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
  EXPECT_EQ(guest.process().errors(), "");
}

INSTANTIATE_TEST_SUITE_P(Debian, BootTest,
                         testing::Values("6.1-cloud", "6.1-generic", "6.12-cloud", "6.12-generic"),
                         [](const auto& parameter) {
                           std::string name;
                           for (const char c : parameter.param)
                             name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

class SmpTest : public testing::TestWithParam<unsigned> {};

TEST_P(SmpTest, ThreadsShareAtomicsAndFutexes) {
  const unsigned cpus = GetParam();
  auto started = LinuxGuest::start({.cpus = cpus});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  EXPECT_EQ(guest.shell("grep -c ^processor /proc/cpuinfo"), std::to_string(cpus) + "\n");
  const unsigned turns = long_tests() ? 200000 : 5000;
  for (const unsigned threads : {cpus, 2 * cpus + 1}) {
    const std::string answer =
        guest.shell("atomics_futex " + std::to_string(threads) + " " + std::to_string(turns), 300s);
    EXPECT_TRUE(answer.starts_with("atomics-futex ok")) << answer;
  }
  EXPECT_EQ(guest.shell("dmesg | grep -E 'Oops|BUG:|WARNING:|Call Trace|soft lockup|rcu.*stall'"), "");
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
}

INSTANTIATE_TEST_SUITE_P(Cpus, SmpTest, testing::Values(1, 2, 4),
                         [](const auto& parameter) { return "Smp" + std::to_string(parameter.param); });

}  // namespace
}  // namespace vert::vm_test

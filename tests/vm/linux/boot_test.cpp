// Debian's kernels boot to a shell that answers, and power off.
#include <algorithm>
#include <tuple>

#include <gtest/gtest.h>

#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

struct Boot {
  std::string kernel;
  std::string engine;
  unsigned cpus = 1;
  std::string machine = "x86_64";  // as uname says
};

class BootTest : public testing::TestWithParam<Boot> {};

TEST_P(BootTest, ShellAnswersAndPowerOffIsStatusZero) {
  const auto& [kernel, engine, cpus, machine] = GetParam();
  auto started = LinuxGuest::start({.kernel = kernel,
                                    .cpus = cpus,
                                    .engine = engine,
                                    .user_space = machine == "i686" ? UserSpace::k32Bit : UserSpace::k64Bit});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  EXPECT_EQ(guest.shell("echo $((6 * 7))"), "42\n");
  EXPECT_EQ(guest.shell("uname -m"), machine + "\n");
  EXPECT_EQ(guest.shell("grep -c ^processor /proc/cpuinfo"), std::to_string(cpus) + "\n");
  EXPECT_NE(guest.shell("cat /proc/ioports").find("0510-051b : QEMU0002:00"), std::string::npos);
  // Firmware tables must not make the kernel complain about them. That AMD's processors have no CPPC in a
  // guest, Linux 6.12 lays to the BIOS.
  EXPECT_EQ(guest.shell("dmesg -r | grep '^<[0-4]>' | grep -vE 'amd_pstate|CPPC' | "
                        "grep -iE 'acpi|pci|firmware|bios|mce'"),
            "");
  EXPECT_EQ(guest.shell("dmesg | grep 'unchecked MSR access'"), "");
  EXPECT_EQ(guest.shell("dmesg | grep -E 'Oops|BUG:|WARNING:|Call Trace'"), "");
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
  EXPECT_EQ(guest.process().errors(), "");
}

std::string boot_name(const testing::TestParamInfo<Boot>& info) {
  std::string name = info.param.engine + "_" + info.param.kernel + "_" + std::to_string(info.param.cpus);
  std::ranges::replace_if(
      name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

std::vector<Boot> boots() {
  std::vector<Boot> all;
  for (const char* kernel : {"6.1-cloud", "6.1-generic", "6.12-cloud", "6.12-generic"}) {
    for (const unsigned cpus : {1U, 2U, 4U}) all.push_back({kernel, "bt", cpus});
    all.push_back({kernel, "interp", 1});
  }
  return all;
}

std::vector<Boot> boots_i386() {
  return {{"6.1-686-pae", "bt", 1, "i686"},
          {"6.1-686-pae", "bt", 2, "i686"},
          {"6.1-686-pae", "interp", 1, "i686"},
          {"6.1-rt-686-pae", "bt", 2, "i686"}};
}

INSTANTIATE_TEST_SUITE_P(DebianI386, BootTest, testing::ValuesIn(boots_i386()), boot_name);
INSTANTIATE_TEST_SUITE_P(Debian, BootTest, testing::ValuesIn(boots()), boot_name);

// Without ACPI, Linux halts all processors where it would power off.
TEST(PowerOff, EndsTheMachineWithoutAcpi) {
  auto started = LinuxGuest::start({.append = "console=ttyS0 quiet acpi=off"});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
  EXPECT_NE(guest.process().errors().find("halted all its vCPUs"), std::string::npos)
      << guest.process().errors();
}

class SmpTest : public testing::TestWithParam<std::tuple<const char*, unsigned>> {};

TEST_P(SmpTest, ThreadsShareAtomicsAndFutexes) {
  const auto& [engine, cpus] = GetParam();
  auto started = LinuxGuest::start({.cpus = cpus, .engine = engine});
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

INSTANTIATE_TEST_SUITE_P(Cpus, SmpTest,
                         testing::Combine(testing::Values("bt", "interp"), testing::Values(1, 2, 4)),
                         [](const auto& parameter) {
                           return std::string(std::get<0>(parameter.param)) + "_Smp" +
                                  std::to_string(std::get<1>(parameter.param));
                         });

}  // namespace
}  // namespace vert::vm_test

// What Linux makes of CPU model "host": whose processor it finds, how many cores, and no need of mitigations.
#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <sstream>
#include <tuple>

#include <gtest/gtest.h>

#include "vm/linux/linux_guest.hpp"
#include "x86/cpu_identity.hpp"

namespace vert::vm_test {
namespace {

constexpr std::array<std::string_view, 4> kIdentity = {"vendor_id", "cpu family", "model\t", "stepping"};

/// The first processor's lines of /proc/cpuinfo that say who it is.
std::string identity_in(const std::string& cpuinfo) {
  std::istringstream stream(cpuinfo);
  std::string found;
  for (std::string line; std::getline(stream, line) && !line.empty();) {
    const auto begins = [&line](std::string_view name) { return line.starts_with(name); };
    if (std::ranges::any_of(kIdentity, begins)) found += line + "\n";
  }
  return found;
}

std::string expected_identity() {
  if (x86::host_vendor() != x86::Vendor::kAmd)
    return "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nstepping\t: 8\n";
  std::ifstream cpuinfo("/proc/cpuinfo");
  return identity_in({std::istreambuf_iterator<char>(cpuinfo), {}});
}

class HostModelTest : public testing::TestWithParam<std::tuple<std::string, std::string, unsigned>> {
 protected:
  void SetUp() override {
    const auto& [engine, kernel, cpus] = GetParam();
    auto started = LinuxGuest::start({.kernel = kernel, .cpus = cpus, .engine = engine});
    if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
    guest_ = std::move(*started);
    ASSERT_TRUE(guest_->wait_for_shell()) << guest_->process().output() << guest_->process().errors();
  }
  std::string shell(const std::string& command) { return guest_->shell(command); }

  std::unique_ptr<LinuxGuest> guest_;
};

TEST_P(HostModelTest, LinuxFindsTheProcessorAndNeedsNoMitigations) {
  const unsigned cpus = std::get<2>(GetParam());
  EXPECT_EQ(identity_in(shell("cat /proc/cpuinfo")), expected_identity());
  EXPECT_EQ(shell("grep -rhE 'Vulnerable|PTI|Retpolines|Clear CPU' /sys/devices/system/cpu/vulnerabilities"),
            "");
  EXPECT_EQ(shell("dmesg | grep 'unchecked MSR access'"), "");

  const std::string all = cpus == 1 ? "0\n" : "0-" + std::to_string(cpus - 1) + "\n";
  const std::string last = "/sys/devices/system/cpu/cpu" + std::to_string(cpus - 1);
  EXPECT_EQ(shell("cat " + last + "/topology/core_id"), std::to_string(cpus - 1) + "\n");
  EXPECT_EQ(shell("cat " + last + "/topology/core_siblings_list"), all);
  EXPECT_EQ(shell("cat " + last + "/topology/thread_siblings_list"), std::to_string(cpus - 1) + "\n");
  EXPECT_EQ(shell("cat " + last + "/cache/index3/shared_cpu_list"), all);
  EXPECT_EQ(shell("cat " + last + "/cache/index2/shared_cpu_list"), std::to_string(cpus - 1) + "\n");

  const bool amd = x86::host_vendor() == x86::Vendor::kAmd;
  EXPECT_EQ(shell("fast_calls32"), amd ? "syscall \n" : "sysenter\n");
}

INSTANTIATE_TEST_SUITE_P(Kernels, HostModelTest,
                         testing::Values(std::tuple{"bt", "6.1-cloud", 1}, std::tuple{"bt", "6.12-cloud", 2},
                                         std::tuple{"bt", "6.1-cloud", 4}),
                         [](const auto& parameter) {
                           std::string name = std::get<0>(parameter.param) + "_" +
                                              std::get<1>(parameter.param) + "_" +
                                              std::to_string(std::get<2>(parameter.param));
                           std::ranges::replace_if(
                               name, [](char c) { return c == '.' || c == '-'; }, '_');
                           return name;
                         });

}  // namespace
}  // namespace vert::vm_test

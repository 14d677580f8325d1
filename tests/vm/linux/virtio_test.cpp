// Linux's own drivers find vert's virtio devices and use them, with MSI-X and by the interrupt pin.
#include <unistd.h>

#include <gtest/gtest.h>

#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

class VirtioTest : public testing::TestWithParam<bool> {};

TEST_P(VirtioTest, LinuxReadsRandomBytes) {
  const bool msi = GetParam();
  const std::vector<std::string> modules = {"virtio_ring",           "virtio",     "virtio_pci_modern_dev",
                                            "virtio_pci_legacy_dev", "virtio_pci", "virtio-rng"};
  auto started = LinuxGuest::start({.cpus = 2,
                                    .append = std::string("console=ttyS0 quiet") + (msi ? "" : " pci=nomsi"),
                                    .devices = {"virtio-rng"},
                                    .modules = modules});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  for (const std::string& module : modules)
    EXPECT_EQ(guest.shell("insmod /modules/" + module + ".ko"), "") << module;
  EXPECT_EQ(guest.shell("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0\n");
  EXPECT_EQ(guest.shell("dd if=/dev/hwrng bs=4096 count=64 2>/dev/null | wc -c"), "262144\n");
  const std::string bytes = guest.shell("head -c 16 /dev/hwrng | od -An -tx1");
  EXPECT_NE(guest.shell("head -c 16 /dev/hwrng | od -An -tx1"), bytes);
  EXPECT_EQ(guest.shell("grep -c 'MSI.*virtio0-input' /proc/interrupts"), msi ? "1\n" : "0\n");
  // Linux resets the function, and starts anew.
  const std::string function = "/sys/bus/pci/devices/0000:00:01.0";
  EXPECT_EQ(guest.shell("cat " + function + "/reset_method"), "af_flr\n");
  EXPECT_EQ(guest.shell("echo 0000:00:01.0 > /sys/bus/pci/drivers/virtio-pci/unbind; echo 1 > " + function +
                        "/reset; echo 0000:00:01.0 > /sys/bus/pci/drivers/virtio-pci/bind"),
            "");
  EXPECT_EQ(guest.shell("head -c 4096 /dev/hwrng | wc -c"), "4096\n");
  EXPECT_EQ(guest.shell("dmesg | grep -E 'BUG|WARNING|virtio.*(fail|error)'"), "");
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
}

/// The guest's size comes from a work item of its driver, a moment after the terminal's.
bool sees_size(LinuxGuest& guest, const std::string& size) {
  for (int i = 0; i < 100; ++i) {
    if (guest.shell("stty size") == size + "\n") return true;
    usleep(100'000);
  }
  return false;
}

TEST(VirtioConsoleTest, LinuxHasItsConsoleOnHvc0) {
  const std::string name = "hvc-" + std::to_string(getpid());
  auto started = LinuxGuest::start({.cpus = 2,
                                    .append = "console=hvc0 quiet",
                                    .devices = {"virtio-console"},
                                    .modules = {"virtio_ring", "virtio", "virtio_pci_modern_dev",
                                                "virtio_pci_legacy_dev", "virtio_pci", "virtio_console"},
                                    .load_modules = true,
                                    .options = {"--name", name},
                                    .console = VertProcess::Console::kTerminal});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  guest.process().resize_terminal(100, 30);
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output();
  EXPECT_EQ(guest.shell("tty"), "/dev/hvc0\n");
  EXPECT_TRUE(sees_size(guest, "30 100"));
  guest.process().resize_terminal(132, 43);
  EXPECT_TRUE(sees_size(guest, "43 132"));

  std::string numbers;
  for (int i = 1; i <= 5000; ++i) numbers += std::to_string(i) + "\n";
  EXPECT_EQ(guest.shell("seq 5000"), numbers);

  VertProcess attached({"console", name}, VertProcess::Console::kTerminal);
  attached.resize_terminal(90, 20);
  EXPECT_TRUE(sees_size(guest, "20 90"));
  EXPECT_EQ(guest.shell("dmesg | grep -E 'BUG|WARNING|virtio.*(fail|error)'"), "");
  EXPECT_EQ(guest.power_off().status, 0) << guest.process().output();
}

INSTANTIATE_TEST_SUITE_P(Interrupts, VirtioTest, testing::Values(true, false),
                         [](const auto& parameter) { return parameter.param ? "msix" : "pin"; });

}  // namespace
}  // namespace vert::vm_test

// A Debian from its packages: `vert image build`, then what a user does with its image. Takes minutes and
// needs a mirror: in the long form only. Packages come from the cache, where they are.
#include <stdlib.h>

#include <array>
#include <filesystem>
#include <optional>

#include <gtest/gtest.h>

#include "vm/harness/vert_process.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;
using Console = VertProcess::Console;

/// A folder with the image and the running VMs, gone with the test.
class DebianTest : public testing::Test {
 protected:
  DebianTest() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    ::setenv("XDG_RUNTIME_DIR", folder_.c_str(), 1);
  }
  ~DebianTest() override { std::filesystem::remove_all(folder_); }
  DebianTest(const DebianTest&) = delete;
  DebianTest& operator=(const DebianTest&) = delete;

  [[nodiscard]] std::string image() const { return folder_ + "/debian.qcow2"; }
  /// Nothing, or why there is no image.
  [[nodiscard]] std::optional<std::string> build() const {
    VertProcess process({"image", "build", "debian", "-o", image()}, Console::kPipes);
    process.close_input();
    const End end = process.wait(600s);
    if (end.status == 0) return std::nullopt;
    return process.errors();
  }
  static void log_in(VertProcess& vm) {
    ASSERT_TRUE(vm.expect("debian login: ", 300s)) << vm.output();
    vm.send("root\r");
    ASSERT_TRUE(vm.expect("# ", 60s)) << vm.output();
  }
  /// Answers are written apart from what is typed, which the terminal echoes.
  static void expect_answer(VertProcess& vm, const std::string& command, const std::string& answer) {
    vm.send("echo 'answer='\"$(" + command + ")\"\r");
    ASSERT_TRUE(vm.expect("answer=" + answer, 60s)) << command << "\n" << vm.output();
    ASSERT_TRUE(vm.expect("# ", 60s));
  }

  std::string folder_ = "/tmp/vert-test-debian.XXXXXX";
};

bool is_about_the_host(const std::string& error) {
  constexpr std::array kReasons = {"apt install",       "Could not resolve", "Could not connect",
                                   "Unable to connect", "Failed to fetch",   "user namespaces"};
  for (const char* reason : kReasons)
    if (error.find(reason) != std::string::npos) return true;
  return false;
}

TEST_F(DebianTest, LogsInWritesFilesStopsAndFindsThemAgain) {
  if (!long_tests()) GTEST_SKIP() << "SKIP: takes minutes and packages; ./dev test --long";
  if (const auto error = build()) {
    if (is_about_the_host(*error)) GTEST_SKIP() << "SKIP: no image of a Debian: " << *error;
    FAIL() << *error;
  }
  {
    VertProcess vm({"run", image(), "--name", "debian", "--cpus", "2"}, Console::kTerminal);
    log_in(vm);
    expect_answer(vm, "nproc", "2");
    expect_answer(vm, "tput colors", "256");
    vm.send("sleep 1000\r");
    ASSERT_TRUE(vm.expect("sleep 1000\n", 30s)) << vm.output();
    vm.send("\x03");
    ASSERT_TRUE(vm.expect("# ", 30s)) << "Ctrl-C ends a program: " << vm.output();
    expect_answer(vm, "echo kept >kept && sync && cat kept", "kept");
    VertProcess stop({"stop", "debian", "--timeout", "180"}, Console::kPipes);
    EXPECT_EQ(stop.wait(200s).status, 0) << "the power button: " << stop.errors();
    EXPECT_EQ(vm.wait(30s).status, 0) << vm.output();
  }
  VertProcess vm({"run", image()}, Console::kTerminal);
  log_in(vm);
  expect_answer(vm, "cat kept", "kept");
  vm.send("poweroff\r");
  EXPECT_EQ(vm.wait(180s).status, 0) << vm.output();
}

}  // namespace
}  // namespace vert::vm_test

// Programs that print what a processor does: natively, then in a guest, which must print the same.
#include <array>
#include <cstdio>
#include <memory>
#include <sstream>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "base/fd.hpp"
#include "vm/linux/linux_guest.hpp"

namespace vert::vm_test {
namespace {

using namespace std::chrono_literals;

/// What the program prints on this host; nothing if it does not end well.
std::optional<std::string> run_natively(const std::string& program) {
  std::FILE* pipe = popen((std::string(VERT_GUEST_FOLDER "/") + program).c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string output;
  std::array<char, 4096> buffer{};
  for (std::size_t size = 0; (size = fread(buffer.data(), 1, buffer.size(), pipe)) != 0;)
    output.append(buffer.data(), size);
  return pclose(pipe) == 0 ? std::optional(output) : std::nullopt;
}

bool host_has_umip() {
  const auto info = base::read_file("/proc/cpuinfo");
  return info && std::string(info->begin(), info->end()).contains(" umip");
}

/// Lines that can be compared: not what the host's kernel refuses, or emulates only for its own processor.
std::vector<std::string> comparable(const std::string& output, const std::string& native) {
  const bool no_perf = native.contains("perf: errno");
  const bool no_umip = !host_has_umip();
  std::vector<std::string> lines;
  std::istringstream stream(output);
  for (std::string line; std::getline(stream, line);) {
    if (no_perf && line.starts_with("perf")) continue;
    if (no_umip && line.starts_with("umip")) continue;
    lines.push_back(line);
  }
  return lines;
}

class ProgramsTest : public testing::TestWithParam<std::string> {};

TEST_P(ProgramsTest, PrintInTheGuestWhatTheyPrintOnTheHost) {
  auto started = LinuxGuest::start({.engine = GetParam()});
  if (!started) GTEST_SKIP() << "SKIP: " << started.error().message;
  LinuxGuest& guest = **started;
  ASSERT_TRUE(guest.wait_for_shell()) << guest.process().output() << guest.process().errors();
  for (const std::string program :
       {"x87_environment", "xsave_layout", "control_bits", "fetch_faults", "breakpoints"}) {
    SCOPED_TRACE(program);
    const auto native = run_natively(program);
    if (!native) {
      fmt::print("SKIP: {} does not run on this host (are ptrace and signals allowed?)\n", program);
      continue;
    }
    const auto expected = comparable(*native, *native);
    const auto found = comparable(guest.shell(program, 300s), *native);
    EXPECT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i)
      EXPECT_EQ(found[i], expected[i]) << "line " << i + 1;
  }
  EXPECT_EQ(guest.power_off().status, 0);
}

INSTANTIATE_TEST_SUITE_P(Engines, ProgramsTest, testing::Values("bt", "interp"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace vert::vm_test

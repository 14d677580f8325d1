// Self-checking user programs: natively, which proves the program, then on each engine.
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>

#include <sstream>

#include "base/fd.hpp"
#include "support/engines.hpp"
#include "support/user_program.hpp"

namespace vert::test {
namespace {

constexpr int kSkipped = 77;  // the processor lacks what the program is about
constexpr u64 kBudget = 200'000'000;

std::vector<std::string> programs() {
  std::vector<std::string> names;
  std::istringstream list(VERT_INSN_PROGRAMS);
  for (std::string name; std::getline(list, name, ',');) names.push_back(name);
  return names;
}

std::string path_of(const std::string& program) {
  return std::string(VERT_INSN_PROGRAM_DIR) + "/insn_" + program;
}

int run_natively(const std::string& path) {
  std::string name = path;
  char* arguments[] = {name.data(), nullptr};
  char* environment[] = {nullptr};
  pid_t child = 0;
  if (posix_spawn(&child, path.c_str(), nullptr, nullptr, arguments, environment) != 0) return -1;
  int status = 0;
  if (waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

class NativeTest : public testing::TestWithParam<std::string> {};

TEST_P(NativeTest, PassesItsOwnChecks) {
  const int status = run_natively(path_of(GetParam()));
  if (status == kSkipped) GTEST_SKIP() << "this processor lacks what the program is about";
  EXPECT_EQ(status, 0) << "the number of the check that failed, or of the signal, negative";
}

INSTANTIATE_TEST_SUITE_P(Programs, NativeTest, testing::ValuesIn(programs()),
                         [](const auto& parameter) { return parameter.param; });

class GuestTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(GuestTest, PassesItsOwnChecks) {
  const auto& [engine, program] = GetParam();
  const auto file = base::read_file(path_of(program));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  GuestRig rig(engine);
  const Status loaded = load_program(rig, *file);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  const ProgramEnd end = run_program(rig, kBudget);
  ASSERT_TRUE(end.exited) << end.description;
  if (end.status == kSkipped) GTEST_SKIP() << "the CPU model lacks what the program is about";
  EXPECT_EQ(end.status, 0U) << "the number of the check that failed";
}

INSTANTIATE_TEST_SUITE_P(Programs, GuestTest,
                         testing::Combine(testing::ValuesIn(engine_names()), testing::ValuesIn(programs())),
                         [](const auto& parameter) {
                           return std::get<0>(parameter.param) + "_" + std::get<1>(parameter.param);
                         });

}  // namespace
}  // namespace vert::test

// The options of all commands, as CLI11 is set up to read them.
#include <algorithm>

#include <gtest/gtest.h>

#include "cli/commands.hpp"

namespace vert::cli {
namespace {

/// One command line, read but not run.
struct Parsed {
  CLI::App app{"", "vert"};
  std::vector<std::unique_ptr<Command>> commands = make_commands(app);

  explicit Parsed(std::vector<std::string> words) {
    app.allow_extras();
    std::ranges::reverse(words);  // as CLI11 wants them
    app.parse(words);
  }
};

struct NamedOption {
  std::string command;
  std::string option;
};

std::vector<NamedOption> options_with_a_value() {
  CLI::App app("", "vert");
  std::vector<NamedOption> found;
  for (const auto& command : make_commands(app))
    for (const CLI::Option* option : command->app().get_options())
      if (!option->get_positional() && option->get_items_expected_max() > 0)
        found.push_back({command->app().get_name(), option->get_name()});
  return found;
}

class OptionTest : public testing::TestWithParam<NamedOption> {
 protected:
  static CLI::Option* option(Parsed& parsed) {
    return parsed.app.get_subcommand(GetParam().command)->get_option(GetParam().option);
  }
};

TEST_P(OptionTest, TakesItsValueAndNothingMore) {
  Parsed parsed({GetParam().command, GetParam().option, "value", "next"});
  EXPECT_EQ(option(parsed)->results(), std::vector<std::string>{"value"});
}

TEST_P(OptionTest, TakesNothingMoreWhenRepeated) {
  Parsed parsed({GetParam().command, GetParam().option, "one", GetParam().option, "two", "next"});
  const auto results = option(parsed)->results();
  EXPECT_EQ(std::ranges::count(results, "next"), 0);
  ASSERT_FALSE(results.empty());
  EXPECT_EQ(results.back(), "two");
}

INSTANTIATE_TEST_SUITE_P(AllCommands, OptionTest, testing::ValuesIn(options_with_a_value()),
                         [](const auto& parameter) {
                           std::string name = parameter.param.command + parameter.param.option;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

int failure_status_of(std::vector<const char*> words) {
  return failure_status(static_cast<int>(words.size()), words.data());
}

TEST(FailureStatus, IsNoneThatTheGuestReportsWhereItCanReport) {
  EXPECT_EQ(failure_status_of({"vert", "run", "k", "--device", "isa-debug-exit"}), 125);
  EXPECT_EQ(failure_status_of({"vert", "run", "--device=isa-debug-exit", "--nonsense"}), 125);
}

TEST(FailureStatus, IsOneElsewhere) {
  EXPECT_EQ(failure_status_of({"vert"}), 1);
  EXPECT_EQ(failure_status_of({"vert", "run", "isa-debug-exit"}), 1);
  EXPECT_EQ(failure_status_of({"vert", "run", "k", "--device", "pc-testdev"}), 1);
  EXPECT_EQ(failure_status_of({"vert", "ls", "--device", "isa-debug-exit"}), 1);
}

}  // namespace
}  // namespace vert::cli

#include "cli/child_process.hpp"

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

constexpr std::chrono::seconds kLong{60};

TEST(ChildProcess, ReadsWhatIsTyped) {
  auto child = ChildProcess::start({"cat"}, {.typed = true});
  ASSERT_TRUE(child);
  ASSERT_TRUE(child->type("one\ntwo\n"));
  EXPECT_EQ(child->read_line(kLong).value()->text, "one");
  EXPECT_EQ(child->read_line(kLong).value()->text, "two");
}

TEST(ChildProcess, WaitsForTextThatIsNoLineAndGoesOnBehindIt) {
  auto child = ChildProcess::start({"sh", "-c", "printf 'hello\\nlogin: '; read name; echo welcome $name"},
                                   {.typed = true});
  ASSERT_TRUE(child);
  ASSERT_TRUE(child->wait_for("login: ", kLong));
  ASSERT_TRUE(child->type("root\n"));
  EXPECT_EQ(child->read_line(kLong).value()->text, "welcome root");
}

TEST(ChildProcess, SaysWhatCameInsteadIfTheOutputEnds) {
  auto child = ChildProcess::start({"echo", "kernel panic"});
  ASSERT_TRUE(child);
  const auto found = child->wait_for("login: ", kLong);
  ASSERT_FALSE(found);
  EXPECT_NE(found.error().message.find("kernel panic"), std::string::npos);
}

TEST(ChildProcess, TypingToOneThatHasEndedIsAnError) {
  auto child = ChildProcess::start({"true"}, {.typed = true});
  ASSERT_TRUE(child);
  EXPECT_FALSE(child->read_line(kLong).value());
  EXPECT_EQ(child->wait(), 0);
  EXPECT_FALSE(child->type("hello\n"));
}

}  // namespace
}  // namespace vert::cli

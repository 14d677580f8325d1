#include "cli/escape.hpp"

#include <string_view>

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

using Command = EscapeFilter::Command;

class EscapeTest : public testing::Test {
 protected:
  Command type(std::string_view text) {
    return filter_.feed({reinterpret_cast<const u8*>(text.data()), text.size()}, out_);
  }
  std::string sent() const { return {out_.begin(), out_.end()}; }

  EscapeFilter filter_;
  std::vector<u8> out_;
};

TEST_F(EscapeTest, OrdinaryBytesPass) {
  EXPECT_EQ(type("ls\r\x03\x1a\xff"), Command::kNone);
  EXPECT_EQ(sent(), "ls\r\x03\x1a\xff");
}

TEST_F(EscapeTest, QuitDropsTheRest) {
  EXPECT_EQ(type("a\x01xrm\r"), Command::kQuit);
  EXPECT_EQ(sent(), "a");
}

TEST_F(EscapeTest, QuitInTwoPieces) {
  EXPECT_EQ(type("\x01"), Command::kNone);
  EXPECT_EQ(type("x"), Command::kQuit);
}

TEST_F(EscapeTest, DoubledEscapeSendsOneAndEndsTheSequence) {
  EXPECT_EQ(type("\x01\x01x"), Command::kNone);
  EXPECT_EQ(sent(), "\x01x");
}

TEST_F(EscapeTest, DetachDropsTheRest) {
  EXPECT_EQ(type("a\x01"
                 "drm\r"),
            Command::kDetach);
  EXPECT_EQ(sent(), "a");
}

TEST_F(EscapeTest, UnknownKeyIsSwallowed) {
  EXPECT_EQ(type("\x01zy"), Command::kNone);
  EXPECT_EQ(sent(), "y");
  EXPECT_EQ(type("\x01h"), Command::kHelp);
}

}  // namespace
}  // namespace vert::cli

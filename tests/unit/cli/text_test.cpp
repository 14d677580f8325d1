#include "cli/text.hpp"

#include <array>

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

TEST(ParseSize, TakesUnitsWithAndWithoutTheirTail) {
  EXPECT_EQ(parse_size("512M").value(), u64{512} << 20);
  EXPECT_EQ(parse_size("2G").value(), u64{2} << 30);
  EXPECT_EQ(parse_size("2g").value(), u64{2} << 30);
  EXPECT_EQ(parse_size("4KiB").value(), u64{4096});
  EXPECT_EQ(parse_size("1TB").value(), u64{1} << 40);
  EXPECT_EQ(parse_size("0M").value(), u64{0});
}

TEST(ParseSize, RefusesWhatIsNoSize) {
  for (const char* text : {"", "M", "-1M", "512", "512Q", "512MM", "1.5G", "0x10M", " 1M", "1M ", "1 M"}) {
    EXPECT_FALSE(parse_size(text).has_value()) << "'" << text << "'";
  }
}

TEST(ParseSize, RefusesWhatDoesNotFit) {
  EXPECT_EQ(parse_size("16777215T").value(), u64{16777215} << 40);
  EXPECT_FALSE(parse_size("16777216T").has_value());
  EXPECT_FALSE(parse_size("99999999999999999999999M").has_value());
}

TEST(FormatSize, IsWholeOrHasOneDecimal) {
  EXPECT_EQ(format_size(0), "0 bytes");
  EXPECT_EQ(format_size(u64{512} << 20), "512 MiB");
  EXPECT_EQ(format_size((u64{3} << 30) / 2), "1.5 GiB");
}

TEST(ClosestMatch, FindsSlipsAndNothingElse) {
  const std::array<std::string, 3> words = {"auto", "interp", "kvm"};
  EXPECT_EQ(closest_match("intrep", words), "interp");
  EXPECT_EQ(closest_match("kvn", words), "kvm");
  EXPECT_EQ(closest_match("interpreter", words), std::nullopt);
  EXPECT_EQ(closest_match("x", words), std::nullopt);
  EXPECT_EQ(closest_match("", words), std::nullopt);
}

TEST(JoinAlternatives, ReadsAsASentence) {
  const std::array<std::string, 3> words = {"a", "b", "c"};
  EXPECT_EQ(join_alternatives(words), "a, b or c");
  EXPECT_EQ(join_alternatives(std::span(words).first(1)), "a");
}

TEST(TableRow, PadsAllButTheLastCell) {
  const std::array<std::string, 3> cells = {"a", "bb", "c"};
  const std::array<std::size_t, 3> widths = {3, 3, 3};
  EXPECT_EQ(table_row(cells, widths), "a    bb   c");
}

}  // namespace
}  // namespace vert::cli

#include "cli/debug_options.hpp"

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

TEST(DebugOptions, TakesCountersWithAndWithoutFile) {
  const auto none = parse_debug_options({});
  ASSERT_TRUE(none);
  EXPECT_FALSE(none->counters.wanted || none->samples.wanted || none->perf_map);

  const std::vector<std::string> plain = {"engine"};
  ASSERT_TRUE(parse_debug_options(plain));
  EXPECT_TRUE(parse_debug_options(plain)->counters.wanted);
  EXPECT_EQ(parse_debug_options(plain)->counters.file, "");

  const std::vector<std::string> with_file = {"engine=a=b.txt"};
  ASSERT_TRUE(parse_debug_options(with_file));
  EXPECT_EQ(parse_debug_options(with_file)->counters.file, "a=b.txt");
}

TEST(DebugOptions, TakesSeveral) {
  const std::vector<std::string> words = {"perf-map", "hot-blocks=hot.txt"};
  const auto options = parse_debug_options(words);
  ASSERT_TRUE(options);
  EXPECT_TRUE(options->perf_map);
  EXPECT_TRUE(options->samples.wanted);
  EXPECT_EQ(options->samples.file, "hot.txt");
  EXPECT_FALSE(options->counters.wanted);
}

TEST(DebugOptions, RefusesWhatItDoesNotKnow) {
  const std::vector<std::string> slip = {"engine", "engien"};
  ASSERT_FALSE(parse_debug_options(slip));
  EXPECT_NE(parse_debug_options(slip).error().message.find("did you mean 'engine'?"), std::string::npos);
  const std::vector<std::string> no_file = {"engine="};
  EXPECT_FALSE(parse_debug_options(no_file));
  const std::vector<std::string> file_of_none = {"perf-map=x"};
  EXPECT_FALSE(parse_debug_options(file_of_none));
  const std::vector<std::string> empty = {""};
  EXPECT_FALSE(parse_debug_options(empty));
}

TEST(CounterTables, AlignsAndGivesSharesOfWholesOnly) {
  const std::vector<std::vector<cpu::CounterGroup>> vcpus = {
      {{"work", false, {{"blocks", 12}, {"a longer name", 3}}}, {"exits", true, {{"link", 3}, {"other", 1}}}},
      {}};
  EXPECT_EQ(counter_tables(vcpus),
            "vcpu 0\n"
            "  work\n"
            "    blocks                     12\n"
            "    a longer name               3\n"
            "  exits: 4\n"
            "    link                        3   75.0 %\n"
            "    other                       1   25.0 %\n"
            "vcpu 1\n"
            "  this engine counts nothing\n");
}

TEST(SampleTables, HaveTheListingBehindTheTables) {
  const std::vector<cpu::SampleReport> vcpus = {{{{"places", true, {{"code", 2}}}}, "listing\n"}, {}};
  EXPECT_EQ(sample_tables(vcpus),
            "vcpu 0\n"
            "  places: 2\n"
            "    code               2  100.0 %\n"
            "\n"
            "listing\n"
            "vcpu 1\n"
            "  this engine takes no samples\n");
}

TEST(CounterTables, SharesOfNothingAreZero) {
  const std::vector<std::vector<cpu::CounterGroup>> vcpus = {{{"exits", true, {{"link", 0}}}}};
  EXPECT_NE(counter_tables(vcpus).find("0.0 %"), std::string::npos);
}

}  // namespace
}  // namespace vert::cli

#include "cli/bench_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

namespace vert::cli {
namespace {

std::vector<std::string> names_of(const std::vector<const BenchProgram*>& programs) {
  std::vector<std::string> names;
  for (const BenchProgram* const program : programs) names.emplace_back(program->name);
  return names;
}

TEST(BenchProgramsTest, HaveNamesOfTheirOwnAndAreTold) {
  std::set<std::string_view> names;
  for (const BenchProgram& program : bench_programs()) {
    EXPECT_TRUE(names.insert(program.name).second) << program.name;
    EXPECT_FALSE(program.unit.empty()) << program.name;
    EXPECT_FALSE(program.about.empty()) << program.name;
    EXPECT_GT(program.count, 0U) << program.name;
  }
}

TEST(BenchProgramsTest, TheSixteenAreThoseOfTheNamedMean) {
  const std::vector<std::string> expected = {
      "sum",   "getppid", "gettimeofday", "forkwait", "forkexec", "pipe",     "pagefault", "memsweep",
      "chase", "dgemm",   "libm",         "calls",    "indirect", "bytehash", "qsort",     "filecopy"};
  auto names = names_of(choose_programs(BenchScale::suite, "").value());
  EXPECT_GT(names.size(), kCorePrograms);
  names.resize(kCorePrograms);
  EXPECT_EQ(names, expected);
}

TEST(ChooseProgramsTest, TheLectureHasFour) {
  const std::vector<std::string> four = {"sum", "getppid", "gettimeofday", "forkwait"};
  EXPECT_EQ(names_of(choose_programs(BenchScale::lecture, "").value()), four);
  EXPECT_EQ(names_of(choose_programs(BenchScale::lecture_full, "").value()), four);
}

TEST(ChooseProgramsTest, OnlyTakesEachOnceInTheOrderOfTheTable) {
  const std::vector<std::string> expected = {"sum", "qsort"};
  EXPECT_EQ(names_of(choose_programs(BenchScale::suite, "qsort,sum,qsort").value()), expected);
}

TEST(ChooseProgramsTest, ASlipGetsAHint) {
  const auto chosen = choose_programs(BenchScale::suite, "sum,qsrot");
  ASSERT_FALSE(chosen);
  EXPECT_NE(chosen.error().message.find("did you mean 'qsort'"), std::string::npos);
  EXPECT_FALSE(choose_programs(BenchScale::suite, ","));
}

TEST(BenchTasksTest, TheLectureIsScaledToTheEngine) {
  const auto programs = choose_programs(BenchScale::lecture, "").value();
  const auto full = bench_tasks(programs, "interp", BenchScale::lecture_full);
  EXPECT_EQ(full[0].count, 5'000'000'000U);
  EXPECT_EQ(full[3].count, 10'000U);
  const auto slow = bench_tasks(programs, "interp", BenchScale::lecture);
  const auto fast = bench_tasks(programs, "bare", BenchScale::lecture);
  const auto unknown = bench_tasks(programs, "nonesuch", BenchScale::lecture);
  for (std::size_t i = 0; i < programs.size(); ++i) {
    EXPECT_LT(slow[i].count, fast[i].count);
    EXPECT_EQ(slow[i].count, unknown[i].count);
  }
}

TEST(BenchTasksTest, TheSuiteHasTheSameCountsButForTheReferenceInterpreter) {
  const auto programs = choose_programs(BenchScale::suite, "").value();
  const auto bare = bench_tasks(programs, "bare", BenchScale::suite);
  const auto bt = bench_tasks(programs, "bt", BenchScale::suite);
  const auto interp = bench_tasks(programs, "interp", BenchScale::suite);
  for (std::size_t i = 0; i < programs.size(); ++i) {
    EXPECT_EQ(bare[i].count, bt[i].count);
    EXPECT_LT(interp[i].count, bare[i].count);
    EXPECT_GE(interp[i].count, 1U);
  }
}

TEST(BenchOutputTest, IsSecondsAndAChecksum) {
  const auto output = parse_bench_output("0.250000000 00c0ffee");
  ASSERT_TRUE(output);
  EXPECT_DOUBLE_EQ(output->seconds, 0.25);
  EXPECT_EQ(output->checksum, "00c0ffee");
}

TEST(BenchOutputTest, AnythingElseIsRefused) {
  for (const char* line : {"", "0.25", "0.25 ", "x 1", "0.25x 1", "0 1", "-1 1", "nan 1", "0.25 1 2"}) {
    EXPECT_FALSE(parse_bench_output(line)) << line;
  }
}

TEST(GeometricMeanTest, IsTheRootOfTheProduct) {
  EXPECT_FALSE(geometric_mean({}));
  EXPECT_NEAR(geometric_mean(std::array{2.0, 8.0}).value(), 4.0, 1e-12);
  EXPECT_NEAR(geometric_mean(std::array{3.0}).value(), 3.0, 1e-12);
  EXPECT_NEAR(geometric_mean(std::array{0.5, 2.0, 1.0}).value(), 1.0, 1e-12);
}

class BenchStatisticsTest : public testing::Test {
 protected:
  BenchStatisticsTest() {
    const auto programs = choose_programs(BenchScale::suite, "sum,getppid").value();
    bare_.tasks = {{programs[0], 1000}, {programs[1], 10}};
    bare_.seconds = {{1, 1}, {3, 1}, {2, 1}};
    guest_.tasks = {{programs[0], 100}, {programs[1], 1}};
    guest_.seconds = {{4, 0.05}, {5, 0.05}, {8, 0.05}};
    guest_.host_seconds = {{8, 0.1}, {10, 0.1}, {16, 0.1}};
  }

  BenchResult bare_;
  BenchResult guest_;
};

TEST_F(BenchStatisticsTest, RatiosAreOfTheTimeForOneTurn) {
  EXPECT_DOUBLE_EQ(bare_.median(0), 2.0);
  EXPECT_DOUBLE_EQ(bare_.best(0), 1.0);
  EXPECT_DOUBLE_EQ(bench_ratio(guest_, bare_, 0, &BenchResult::median), 25.0);
  EXPECT_DOUBLE_EQ(bench_ratio(guest_, bare_, 0, &BenchResult::best), 40.0);
  EXPECT_DOUBLE_EQ(bench_ratio(guest_, bare_, 1, &BenchResult::median), 0.5);
  EXPECT_DOUBLE_EQ(guest_.clock_ratio(), 2.0);
}

TEST_F(BenchStatisticsTest, TheClockIsNotMisledByWhatAProgramPrepares) {
  const auto programs = choose_programs(BenchScale::suite, "sum,getppid,chase").value();
  guest_.tasks = {{programs[0], 1}, {programs[1], 1}, {programs[2], 1}};
  guest_.seconds = {{1, 1, 1}, {1, 1, 1}};
  guest_.host_seconds = {{1.01, 1, 9}, {1.01, 1, 9}};
  EXPECT_DOUBLE_EQ(guest_.clock_ratio(), 1.01);
}

TEST_F(BenchStatisticsTest, MedianOfAnEvenNumberIsBetweenTheMiddleTwo) {
  bare_.seconds.push_back({10, 1});
  EXPECT_DOUBLE_EQ(bare_.median(0), 2.5);
}

TEST_F(BenchStatisticsTest, MeansAreOfTheRatios) {
  const BenchMeans means = bench_means(guest_, bare_, &BenchResult::best);
  EXPECT_FALSE(means.core);
  EXPECT_NEAR(means.all.value(), std::sqrt(40.0 * 0.5), 1e-12);
}

}  // namespace
}  // namespace vert::cli

#include "cli/bench_report.hpp"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace vert::cli {
namespace {

std::size_t count_bars(const std::string& svg) {
  std::size_t bars = 0;
  for (auto at = svg.find("rx=\"2\""); at != std::string::npos; at = svg.find("rx=\"2\"", at + 1)) ++bars;
  return bars;
}

std::vector<BenchTask> tasks_of(std::span<const BenchProgram* const> programs, std::vector<u64> counts) {
  std::vector<BenchTask> tasks;
  for (std::size_t i = 0; i < programs.size(); ++i) tasks.push_back({programs[i], counts[i % counts.size()]});
  return tasks;
}

class BenchReportTest : public testing::Test {
 protected:
  BenchReportTest() {
    results_[0].engine = "bare";
    results_[0].tasks = tasks_of(programs_, {1000, 1000, 1000, 10});
    results_[0].seconds = {{1, 1, 1, 1}, {3, 1, 1, 1}, {2, 1, 1, 1}};
    results_[0].host_seconds = results_[0].seconds;
    results_[1].engine = "interp";
    results_[1].tasks = tasks_of(programs_, {100, 100, 100, 1});
    results_[1].seconds = {{4, 2, 0.5, 0.05}, {4, 2, 0.5, 0.05}, {8, 2, 0.5, 0.05}};
    results_[1].host_seconds = {{8, 4, 1, 0.1}, {8, 4, 1, 0.1}, {16, 4, 1, 0.1}};
    results_[2].engine = "qemu";
    results_[2].failure = "not installed";
    results_[2].skipped = true;
  }
  [[nodiscard]] BenchReport report() const {
    return {.processor = "CPU",
            .host_kernel = "6.1",
            .guest_kernel = "vmlinuz",
            .guest_append = "quiet",
            .programs = programs_,
            .results = results_};
  }

  std::vector<const BenchProgram*> programs_ = choose_programs(BenchScale::lecture, "").value();
  std::array<BenchResult, 3> results_;
};

TEST_F(BenchReportTest, RowsAreAsTheLectureHasThem) {
  EXPECT_EQ(bench_rows(results_[0]),
            "bare, seconds for 1000 turns, 1000 calls, 1000 calls, 10 forks\n"
            "sum;getppid;gettimeofday;forkwait\n"
            "1.000;1.000;1.000;1.000\n3.000;1.000;1.000;1.000\n2.000;1.000;1.000;1.000\n");
}

TEST_F(BenchReportTest, TableHasARatioForEachEngineThatRan) {
  const std::string table = bench_table(report());
  EXPECT_NE(table.find("median"), std::string::npos);
  EXPECT_NE(table.find("/bare"), std::string::npos);
  EXPECT_NE(table.find("20.00x"), std::string::npos);
  EXPECT_EQ(table.find("qemu"), std::string::npos);
  EXPECT_EQ(table.find("geometric"), std::string::npos);
}

TEST_F(BenchReportTest, TableSaysWhichVersionOfAPeer) {
  results_[1].version = "10.0.2";
  const std::string table = bench_table(report());
  EXPECT_NE(table.substr(0, table.find('\n')).find("interp 10.0.2"), std::string::npos);
}

TEST_F(BenchReportTest, JsonTellsAllAndWhyNot) {
  results_[2].version = "10.0.2";
  const auto json = nlohmann::json::parse(bench_json(report()));
  ASSERT_EQ(json["engines"].size(), 3U);
  const auto& sum = json["engines"][1]["programs"][0];
  EXPECT_EQ(sum["count"], 100);
  EXPECT_EQ(sum["seconds"].size(), 3U);
  EXPECT_DOUBLE_EQ(sum["ratio_to_bare"].get<double>(), 20.0);
  EXPECT_EQ(json["suite"], false);
  EXPECT_FALSE(json["engines"][1].contains("geometric_mean"));
  EXPECT_FALSE(json["engines"][1].contains("version"));
  EXPECT_EQ(json["engines"][2]["why"], "not installed");
  EXPECT_EQ(json["engines"][2]["version"], "10.0.2");
}

TEST_F(BenchReportTest, ChartHasABarForEachRatio) {
  EXPECT_EQ(count_bars(bench_svg(report())), kLecturePrograms);
  BenchReport nothing = report();
  nothing.results = {};
  EXPECT_EQ(count_bars(bench_svg(nothing)), 0U);
}

/// Bare metal takes 1 s or more for all; the guest twice that for the sixteen, eight times for the others.
class SuiteReportTest : public testing::Test {
 protected:
  SuiteReportTest() : programs_(choose_programs(BenchScale::suite, "").value()) { fill(); }

  void fill() {
    results_ = {};
    results_[0].engine = "bare";
    results_[1].engine = "bt";
    for (BenchResult& result : results_) {
      result.tasks = tasks_of(programs_, {10});
      result.seconds.assign(2, BenchRow(programs_.size(), 1));
    }
    for (std::size_t task = 0; task < programs_.size(); ++task) {
      const bool core = is_core(programs_[task]);
      results_[0].seconds[1][task] = 100;  // a disturbed run
      results_[1].seconds[1][task] = core ? 2 : 8;
      results_[1].seconds[0][task] = 300;
    }
    for (BenchResult& result : results_) result.host_seconds = result.seconds;
  }
  [[nodiscard]] BenchReport report() const {
    return {.processor = "CPU",
            .host_kernel = "6.1",
            .guest_kernel = "vmlinuz",
            .guest_append = "quiet",
            .programs = programs_,
            .suite = true,
            .results = results_};
  }

  std::vector<const BenchProgram*> programs_;
  std::array<BenchResult, 2> results_;
};

TEST_F(SuiteReportTest, TableHasTheBestAndTheMeans) {
  const std::string table = bench_table(report());
  EXPECT_EQ(table.find("median"), std::string::npos);
  EXPECT_EQ(table.find("300"), std::string::npos);
  const auto core = table.find("mean of 16 ");
  const auto all = table.find(fmt::format("mean of all {}", programs_.size()));
  ASSERT_NE(core, std::string::npos);
  ASSERT_NE(all, std::string::npos);
  EXPECT_NE(table.substr(core, table.find('\n', core) - core).find("2.00x"), std::string::npos);
  const double others = static_cast<double>(programs_.size() - kCorePrograms);
  const double expected = 2 * std::pow(4.0, others / static_cast<double>(programs_.size()));
  EXPECT_NE(table.substr(all, table.find('\n', all) - all).find(fmt::format("{:.2f}x", expected)),
            std::string::npos);
}

TEST_F(SuiteReportTest, JsonHasTheMeansOfTheBest) {
  const auto json = nlohmann::json::parse(bench_json(report()));
  EXPECT_EQ(json["ratio_of"], "best");
  EXPECT_NEAR(json["engines"][1]["geometric_mean"]["core"].get<double>(), 2.0, 1e-12);
  EXPECT_DOUBLE_EQ(json["engines"][1]["programs"][programs_.size() - 1]["ratio_to_bare"].get<double>(), 8.0);
}

TEST_F(SuiteReportTest, WithoutAllSixteenThereIsNoMeanOfThem) {
  programs_ = choose_programs(BenchScale::suite, "qsort,jit").value();
  fill();
  const auto json = nlohmann::json::parse(bench_json(report()));
  EXPECT_FALSE(json["engines"][1]["geometric_mean"].contains("core"));
  EXPECT_NEAR(json["engines"][1]["geometric_mean"]["all"].get<double>(), 4.0, 1e-12);
  EXPECT_EQ(bench_table(report()).find("mean of 16"), std::string::npos);
  // Two programs and the mean of all.
  EXPECT_EQ(count_bars(bench_svg(report())), 3U);
}

TEST_F(SuiteReportTest, WithoutBareMetalThereAreTimesOnly) {
  BenchReport guest_only = report();
  guest_only.results = std::span(results_).subspan(1);
  EXPECT_EQ(bench_table(guest_only).find("/bare"), std::string::npos);
  EXPECT_FALSE(nlohmann::json::parse(bench_json(guest_only))["engines"][0].contains("geometric_mean"));
  EXPECT_EQ(count_bars(bench_svg(guest_only)), 0U);
}

TEST(BenchListTest, HasALineForEachProgram) {
  const std::string list = bench_list();
  EXPECT_EQ(static_cast<std::size_t>(std::ranges::count(list, '\n')), bench_programs().size());
  EXPECT_TRUE(list.starts_with("sum "));
}

}  // namespace
}  // namespace vert::cli

#include "cli/bench_report.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace vert::cli {
namespace {

class BenchReportTest : public testing::Test {
 protected:
  BenchReportTest() {
    results_[0].engine = "bare";
    results_[0].counts = {1000, 1000, 1000, 10};
    results_[0].seconds = {{1, 1, 1, 1}, {3, 1, 1, 1}, {2, 1, 1, 1}};
    results_[0].host_seconds = results_[0].seconds;
    results_[1].engine = "interp";
    results_[1].counts = {100, 100, 100, 1};
    results_[1].seconds = {{4, 2, 0.5, 0.05}, {4, 2, 0.5, 0.05}, {8, 2, 0.5, 0.05}};
    results_[1].host_seconds = {{8, 4, 1, 0.1}, {8, 4, 1, 0.1}, {16, 4, 1, 0.1}};
    results_[2].engine = "qemu";
    results_[2].failure = "not installed";
    results_[2].skipped = true;
  }
  BenchReport report() const { return {"CPU", "6.1", "vmlinuz", "quiet", results_}; }

  std::array<BenchResult, 3> results_;
};

TEST_F(BenchReportTest, RatiosAreOfTheTimeForOneTurn) {
  EXPECT_DOUBLE_EQ(results_[0].median(0), 2.0);
  EXPECT_DOUBLE_EQ(results_[0].best(0), 1.0);
  EXPECT_DOUBLE_EQ(results_[1].ratio_to(results_[0], 0), 20.0);
  EXPECT_DOUBLE_EQ(results_[1].ratio_to(results_[0], 3), 0.5);
  EXPECT_DOUBLE_EQ(results_[1].clock_ratio(), 2.0);
}

TEST_F(BenchReportTest, MedianOfAnEvenNumberIsBetweenTheMiddleTwo) {
  results_[0].seconds.push_back({10, 1, 1, 1});
  EXPECT_DOUBLE_EQ(results_[0].median(0), 2.5);
}

TEST_F(BenchReportTest, RowsAreAsTheLectureHasThem) {
  EXPECT_EQ(bench_rows(results_[0]),
            "bare, seconds for 1000 turns, 1000 calls, 1000 calls, 10 forks\n"
            "sum;getppid;gettimeofday;forkwait\n"
            "1.000;1.000;1.000;1.000\n3.000;1.000;1.000;1.000\n2.000;1.000;1.000;1.000\n");
}

TEST_F(BenchReportTest, TableHasARatioForEachEngineThatRan) {
  const std::string table = bench_table(report());
  EXPECT_NE(table.find("/bare"), std::string::npos);
  EXPECT_NE(table.find("20.00x"), std::string::npos);
  EXPECT_EQ(table.find("qemu"), std::string::npos);
}

TEST_F(BenchReportTest, JsonTellsAllAndWhyNot) {
  const auto json = nlohmann::json::parse(bench_json(report()));
  ASSERT_EQ(json["engines"].size(), 3U);
  const auto& sum = json["engines"][1]["programs"][0];
  EXPECT_EQ(sum["count"], 100);
  EXPECT_EQ(sum["seconds"].size(), 3U);
  EXPECT_DOUBLE_EQ(sum["ratio_to_bare"].get<double>(), 20.0);
  EXPECT_EQ(json["engines"][2]["why"], "not installed");
}

TEST_F(BenchReportTest, ChartHasABarForEachRatio) {
  const std::string svg = bench_svg(report());
  std::size_t bars = 0;
  for (auto at = svg.find("rx=\"2\""); at != std::string::npos; at = svg.find("rx=\"2\"", at + 1)) ++bars;
  EXPECT_EQ(bars, kBenchPrograms);
  EXPECT_EQ(bench_svg({"CPU", "6.1", "", "", {}}).find("rx=\"2\""), std::string::npos);
}

}  // namespace
}  // namespace vert::cli

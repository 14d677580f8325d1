#include "cli/disk_bench_report.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace vert::cli {
namespace {

using storage::Format;

constexpr double kMebibyte = 1 << 20;

class DiskBenchReportTest : public testing::Test {
 protected:
  [[nodiscard]] DiskReport report() const {
    return {.processor = "CPU",
            .host_kernel = "6.1",
            .guest_append = "quiet",
            .jobs = jobs_,
            .results = results_};
  }

  const std::vector<DiskJob> jobs_ = {{.depth = 32}, {.random = true, .write = true, .depth = 1}};
  std::vector<DiskResult> results_ = {
      {.engine = "bare", .rates = {{800 * kMebibyte, 4096e4}}},
      {.engine = "bt", .format = Format::kRaw, .boot_seconds = {5}, .rates = {{400 * kMebibyte, 4096e3}}},
      {.engine = "bt", .format = Format::kQcow2, .boot_seconds = {5}, .rates = {{200 * kMebibyte, 4096e3}}},
      {.engine = "qemu",
       .format = Format::kRaw,
       .version = "10.0.2",
       .boot_seconds = {20},
       .rates = {{100 * kMebibyte, 2048e3}}},
      {.engine = "qemu", .format = Format::kQcow2, .failure = "not installed", .skipped = true}};
};

TEST_F(DiskBenchReportTest, TableHasThroughputWithRatiosToBareMetalAndQemu) {
  const std::string table = disk_table(report());
  const std::string job =
      table.substr(table.find("seqread-32"), table.find("randwrite-1") - table.find("seqread-32"));
  EXPECT_NE(job.find("800 MiB/s"), std::string::npos);
  EXPECT_NE(job.find("400 MiB/s  2.00x   4.00x"), std::string::npos) << table;
  EXPECT_NE(table.find("10.0 k/s"), std::string::npos);
  EXPECT_NE(table.find("qemu raw 10.0.2"), std::string::npos);
}

TEST_F(DiskBenchReportTest, TableComparesBootsWithQemu) {
  const std::string table = disk_table(report());
  const std::string boot = table.substr(table.find("\nboot "));
  EXPECT_NE(boot.find("5.0 s"), std::string::npos);
  EXPECT_NE(boot.find("4.00x"), std::string::npos);
}

TEST_F(DiskBenchReportTest, WhatWasNotMeasuredIsNotInTheTable) {
  EXPECT_EQ(disk_table(report()).find("qemu qcow2"), std::string::npos);
}

TEST_F(DiskBenchReportTest, ThereIsNoRatioToWhatWasNotMeasured) {
  results_.erase(results_.begin());
  const std::string table = disk_table(report());
  EXPECT_EQ(table.substr(0, table.find('\n')).find("/bare"), std::string::npos);
}

TEST_F(DiskBenchReportTest, JsonTellsAllAndWhyNot) {
  const auto json = nlohmann::json::parse(disk_json(report()));
  ASSERT_EQ(json["results"].size(), 5U);
  const auto& raw = json["results"][1];
  EXPECT_EQ(raw["name"], "bt raw");
  EXPECT_EQ(raw["boot_speed_over_qemu"], 4);
  EXPECT_EQ(raw["jobs"][0]["time_over_bare"], 2);
  EXPECT_EQ(raw["jobs"][0]["speed_over_qemu"], 4);
  EXPECT_EQ(raw["jobs"][0]["bytes_per_second"].size(), 1U);
  EXPECT_FALSE(json["results"][2]["jobs"][0].contains("speed_over_qemu"));
  EXPECT_EQ(json["results"][4]["why"], "not installed");
}

TEST_F(DiskBenchReportTest, TheChartHasABarForEachJobOfEachGuest) {
  const std::string svg = disk_svg(report());
  std::size_t bars = 0;
  for (auto at = svg.find("rx=\"2\""); at != std::string::npos; at = svg.find("rx=\"2\"", at + 1)) ++bars;
  EXPECT_EQ(bars, 6U);
  EXPECT_NE(svg.find("bt qcow2 4.00x"), std::string::npos);
}

TEST_F(DiskBenchReportTest, TheChartIsEmptyWithoutBareMetal) {
  results_.erase(results_.begin());
  EXPECT_EQ(disk_svg(report()).find("rx=\"2\""), std::string::npos);
}

}  // namespace
}  // namespace vert::cli

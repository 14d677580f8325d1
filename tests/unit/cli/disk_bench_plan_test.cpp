#include "cli/disk_bench_plan.hpp"

#include <set>

#include <gtest/gtest.h>

namespace vert::cli {
namespace {

using storage::Format;

TEST(DiskBenchPlan, HasEachPatternAtBothDepthsAndWritesWithAndWithoutSync) {
  const auto jobs = all_disk_jobs();
  std::set<std::string> names;
  for (const DiskJob& job : jobs) names.insert(job.name());
  EXPECT_EQ(jobs.size(), 12U);
  EXPECT_EQ(names,
            (std::set<std::string>{"seqread-1", "seqread-32", "randread-1", "randread-32", "seqwrite-1",
                                   "seqwrite-32", "randwrite-1", "randwrite-32", "seqwrite-1-sync",
                                   "seqwrite-32-sync", "randwrite-1-sync", "randwrite-32-sync"}));
}

TEST(DiskBenchPlan, WritesWithoutSyncComeLastForWhatTheyLeaveInTheCache) {
  bool unsynced = false;
  for (const DiskJob& job : all_disk_jobs()) {
    EXPECT_FALSE(unsynced && (!job.write || job.synced)) << job.name();
    unsynced = unsynced || (job.write && !job.synced);
  }
  EXPECT_TRUE(unsynced);
}

TEST(DiskBenchPlan, ChoosesJobsByNameInTheirUsualOrder) {
  const auto jobs = choose_disk_jobs("randwrite-1,seqread-32");
  ASSERT_TRUE(jobs);
  ASSERT_EQ(jobs->size(), 2U);
  EXPECT_EQ((*jobs)[0].name(), "seqread-32");
  EXPECT_EQ((*jobs)[1].name(), "randwrite-1");
  EXPECT_EQ(choose_disk_jobs("")->size(), all_disk_jobs().size());
}

TEST(DiskBenchPlan, RefusesAnUnknownJobWithTheNearest) {
  const auto jobs = choose_disk_jobs("randread-2");
  ASSERT_FALSE(jobs);
  EXPECT_NE(jobs.error().message.find("randread-"), std::string::npos);
}

TEST(DiskBenchPlan, TheScriptHasALineForEachJob) {
  const std::vector<DiskJob> jobs = {{.random = true, .depth = 32},
                                     {.write = true, .depth = 1, .synced = true}};
  const std::string script = disk_script(jobs, "/dev/vdb", true);
  EXPECT_NE(script.find("\njob randread-32 --rw=randread --bs=4096 --iodepth=32\n"), std::string::npos);
  EXPECT_NE(script.find("\njob seqwrite-1-sync --rw=write --bs=1048576 --iodepth=1 --fdatasync=1\n"),
            std::string::npos);
  EXPECT_NE(script.find("--filename='/dev/vdb'"), std::string::npos);
  EXPECT_NE(script.find("--direct=1"), std::string::npos);
  for (const char* left : {"@FILE@", "@SIZE@", "@DIRECT@", "@SECONDS@", "@FIELDS@"})
    EXPECT_EQ(script.find(left), std::string::npos) << left;
  EXPECT_TRUE(script.ends_with("say done\n"));
  EXPECT_NE(disk_script(jobs, "/data", false).find("--direct=0"), std::string::npos);
}

TEST(DiskBenchPlan, ReadsWhatFioMovedInWhatTime) {
  EXPECT_DOUBLE_EQ(parse_disk_output("2048;2000;0;0").value(), 1 << 20);
  EXPECT_DOUBLE_EQ(parse_disk_output("0;0;1024;500").value(), 2 << 20);
}

TEST(DiskBenchPlan, RefusesWhatIsNoResult) {
  for (const char* text : {"", "1;2;3", "1;2;3;4;5", "a;b;c;d", "0;0;0;0", "1;2;3;4x", "0;5;0;0", "5;0;0;0"})
    EXPECT_FALSE(parse_disk_output(text)) << text;
}

TEST(DiskBenchPlan, MeasuresBareMetalOnceAndEachEngineWithEachFormat) {
  const std::vector<std::string> engines = {"bare", "bt", "qemu"};
  std::vector<std::string> names;
  for (const DiskResult& setup : disk_setups(engines)) names.push_back(setup.name());
  EXPECT_EQ(names, (std::vector<std::string>{"bare", "bt raw", "bt qcow2", "qemu raw", "qemu qcow2"}));
}

TEST(DiskBenchPlan, TakesTheMedianOfTheRounds) {
  const DiskResult result = {.engine = "bt",
                             .format = Format::kRaw,
                             .boot_seconds = {9, 5, 6},
                             .rates = {{1, 10}, {3, 20}, {2, 60}}};
  EXPECT_DOUBLE_EQ(result.boot(), 6);
  EXPECT_DOUBLE_EQ(result.rate(0), 2);
  EXPECT_DOUBLE_EQ(result.rate(1), 20);
}

}  // namespace
}  // namespace vert::cli

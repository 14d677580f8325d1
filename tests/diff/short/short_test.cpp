// The differential test in short, for every change: each engine against the host processor.
// VERT_DIFF_INSTRUCTIONS sets how much.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "diff/harness/campaign.hpp"
#include "diff/harness/guest.hpp"
#include "diff/harness/native.hpp"
#include "support/engines.hpp"

namespace vert::diff {
namespace {

constexpr u64 kDefaultInstructions = 300'000;
constexpr const char* kClasses[] = {"int", "x87,int", "mmx,sse,int", "avx,int", "avx512,int", "int,bytes"};

u64 instructions_to_run() {
  // Tests are single-threaded here, so that nobody changes the environment meanwhile.
  const char* text = std::getenv("VERT_DIFF_INSTRUCTIONS");  // NOLINT(concurrency-mt-unsafe)
  return text != nullptr ? std::strtoull(text, nullptr, 0) : kDefaultInstructions;
}

class DiffTest : public testing::TestWithParam<std::tuple<std::string, const char*>> {
 protected:
  static void SetUpTestSuite() {
    auto made = NativeExecutor::create();
    if (!made) {
      why_not = made.error().message;
      return;
    }
    oracle = std::move(*made);
    table = std::make_unique<TemplateTable>(*oracle);
  }
  static void TearDownTestSuite() {
    table.reset();
    oracle.reset();
  }

  static std::unique_ptr<NativeExecutor> oracle;
  static std::unique_ptr<TemplateTable> table;
  static std::string why_not;
};

std::unique_ptr<NativeExecutor> DiffTest::oracle;
std::unique_ptr<TemplateTable> DiffTest::table;
std::string DiffTest::why_not;

TEST_P(DiffTest, MatchesTheHostProcessor) {
  if (oracle == nullptr) GTEST_SKIP() << why_not;
  const auto& [engine, classes] = GetParam();
  GuestExecutor guest(engine);
  CampaignOptions options;
  options.instructions = instructions_to_run() / std::size(kClasses);
  options.mix = parse_classes(classes).value();
  options.tolerance = tolerance_of(engine);
  const CampaignResult result = Campaign(*oracle, guest, *table, options).run(nullptr);
  for (const Failure& failure : result.failures) ADD_FAILURE() << failure.report;
  EXPECT_EQ(result.failed_cases, 0U);
  EXPECT_GE(result.instructions, options.instructions);
}

/// Each engine, and all of them taking turns.
std::vector<std::string> engines() {
  std::vector<std::string> names = test::engine_names();
  if (names.size() < 2) return names;
  std::string all = names.back();
  for (std::size_t i = 0; i + 1 < names.size(); ++i) all += "," + names[i];
  names.push_back(all);
  return names;
}

std::string test_name(const testing::TestParamInfo<DiffTest::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param);
  std::ranges::replace(name, ',', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Engines, DiffTest,
                         testing::Combine(testing::ValuesIn(engines()), testing::ValuesIn(kClasses)),
                         test_name);

}  // namespace
}  // namespace vert::diff

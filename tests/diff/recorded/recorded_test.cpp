// The engines against what processors of both vendors left behind (diff/harness/recorded.hpp), on either's
// hosts.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

#include "diff/harness/guest.hpp"
#include "diff/harness/recorded.hpp"
#include "support/engines.hpp"

namespace vert::diff {
namespace {

std::vector<std::string> recordings() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(VERT_RECORDED_FOLDER))
    if (entry.path().extension() == ".results") names.push_back(entry.path().stem());
  std::ranges::sort(names);
  return names;
}

/// This host's features, as a processor of that vendor would have them.
Result<x86::CpuModel> model_of(const Recording& recording) {
  x86::CpuIdentity identity = x86::CpuIdentity::intel("recorded");
  identity.vendor = recording.vendor;
  return x86::CpuModel::make("host" + recording.features, identity);
}

/// Why what is recorded says nothing of this engine here; null if it does.
const char* why_not(const RecordedCase& recorded, const Recording& recording, const std::string& engine,
                    const x86::CpuModel& model) {
  const bool translates = engine != "interp";
  const auto needs = [&](u32 need) { return (recorded.needs & need) != 0; };
  if (!has_needs(recorded, model)) return "the host lacks an instruction";
  if (needs(needs::kLayout) && layout_text(model) != recording.layout)
    return "XSAVE's standard format is this host's";
  if (needs(needs::kMxcsrMask) && model.mxcsr_mask() != recording.mxcsr_mask)
    return "MXCSR's mask is this host's";
  if (translates && needs(needs::kInterp)) return "a difference that is known";
  if (translates && needs(needs::kHostUnit) && recording.vendor != x86::host_vendor())
    return "it runs on the host's own unit";
  return nullptr;
}

class RecordedTest : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(RecordedTest, MatchesTheProcessor) {
  const auto& [engine, name] = GetParam();
  std::ifstream file(fmt::format("{}/{}.results", VERT_RECORDED_FOLDER, name));
  const auto recording = read({std::istreambuf_iterator<char>(file), {}});
  ASSERT_TRUE(recording.has_value()) << recording.error().message;
  const auto model = model_of(*recording);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  GuestExecutor guest(engine, *model);
  std::map<std::string, unsigned> left_out;
  unsigned compared = 0;
  for (const RecordedCase& recorded : recorded_cases()) {
    const auto wanted = recording->results.find(recorded.name);
    if (wanted == recording->results.end()) continue;  // the processor had not what it needs
    if (const char* reason = why_not(recorded, *recording, engine, *model)) {
      ++left_out[reason];
      continue;
    }
    ++compared;
    EXPECT_EQ(result_of(recorded, guest.run_one(input_of(recorded))), wanted->second) << recorded.name;
  }
  for (const auto& [reason, count] : left_out) fmt::print("SKIP: {} cases: {}\n", count, reason);
  EXPECT_GT(compared, recorded_cases().size() / 2);
}

INSTANTIATE_TEST_SUITE_P(Engines, RecordedTest,
                         testing::Combine(testing::ValuesIn(test::engine_names()),
                                          testing::ValuesIn(recordings())),
                         [](const auto& parameter) {
                           return std::get<0>(parameter.param) + "_" + std::get<1>(parameter.param);
                         });

}  // namespace
}  // namespace vert::diff

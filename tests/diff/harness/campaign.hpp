// A run of the differential test: many cases through the oracle and the engine under test, and a report of
// what differs, narrowed down to one instruction.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "diff/harness/generator.hpp"
#include "diff/harness/waivers.hpp"

namespace vert::diff {

struct CampaignOptions {
  u64 instructions = 300'000;
  u64 seed = 1;
  Mix mix;
  Tolerance tolerance = {};
  unsigned max_failures = 10;
};

/// "int,x87,mmx,sse,avx,avx512,bytes" in any choice, each of the same weight (bytes: a fifth of all cases).
[[nodiscard]] Result<Mix> parse_classes(std::string_view text);

struct Failure {
  u64 seed = 0;
  std::string instruction;  // mnemonic, to count by
  std::string report;
};

struct CampaignResult {
  u64 instructions = 0;  // executed by the host
  u64 cases = 0;
  u64 timeouts = 0;  // cases that do not end on the host: not compared
  u64 failed_cases = 0;
  std::map<u32, u64> endings;     // by vector
  std::vector<Failure> failures;  // the first few, one an instruction as far as there are enough
  std::map<std::string, u64> failures_by_instruction;
};

class Campaign {
 public:
  Campaign(Executor& oracle, Executor& guest, const TemplateTable& table, const CampaignOptions& options)
      : oracle_(oracle), guest_(guest), options_(options), generator_(table, options.mix) {}

  /// Called now and then with what there is so far.
  using Progress = std::function<void(const CampaignResult&)>;
  [[nodiscard]] CampaignResult run(const Progress& progress);
  /// One case by its seed, with a report if it differs.
  [[nodiscard]] CampaignResult replay(u64 seed);

 private:
  void run_batch(u64 first_seed, std::size_t count);
  void examine(const Sequence& sequence, const Input& input, const Output& native, const Output& guest);
  void report(const Sequence& sequence, const Input& input, const std::vector<std::string>& whole);
  [[nodiscard]] std::vector<std::string> unexplained(const Input& input, const Output& native,
                                                     const Output& guest, u64 undefined) const;
  [[nodiscard]] std::vector<std::string> compare(const Input& input, u64 undefined_any,
                                                 const Sequence& sequence, Output& native);

  Executor& oracle_;
  Executor& guest_;
  const CampaignOptions options_;
  Generator generator_;
  CampaignResult result_;
};

}  // namespace vert::diff

// The differential test as a program, for long campaigns:
//   diff_runner [--engine NAME[,NAME]|native] [--instructions N] [--seed S] [--classes LIST] [--replay SEED]
//   [--failures N]
// and the recorder of what this host's processor does, for tests/diff/recorded:
//   diff_runner --record FILE
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "diff/harness/campaign.hpp"
#include "diff/harness/exclusions.hpp"
#include "diff/harness/guest.hpp"
#include "diff/harness/native.hpp"
#include "diff/harness/recorded.hpp"

namespace {

using namespace vert;
using namespace vert::diff;

constexpr std::string_view kUsage =
    "usage: diff_runner [--engine NAME[,NAME]|native] [--instructions N] [--seed S] [--replay SEED] "
    "[--failures N]\n"
    "                   [--classes int,x87,mmx,sse,avx,avx512,bytes] [--exclusions yes]\n"
    "       diff_runner --record FILE\n";

std::unique_ptr<Executor> make_guest(const std::string& engine) {
  if (engine != "native") return std::make_unique<GuestExecutor>(engine);
  auto native = NativeExecutor::create();
  return native ? std::move(*native) : nullptr;
}

void print_exclusions() {
  for (const Exclusion& exclusion : exclusions())
    fmt::print("{:14} {}\n", ZydisMnemonicGetString(exclusion.mnemonic), exclusion.reason);
}

/// Those that have not been printed yet.
void print_failures(const CampaignResult& result) {
  static std::size_t printed = 0;
  for (; printed < result.failures.size(); ++printed) fmt::print("\n{}", result.failures[printed].report);
  std::fflush(stdout);
}

void print_result(const CampaignResult& result) {
  print_failures(result);
  for (const auto& [mnemonic, count] : result.failures_by_instruction)
    fmt::print("{:8} x {}\n", count, mnemonic);
  fmt::print("ended with");
  for (const auto& [vector, count] : result.endings) fmt::print(" #{}:{}", vector, count);
  fmt::print("\n{} instructions in {} cases, {} differ, {} without end\n", result.instructions, result.cases,
             result.failed_cases, result.timeouts);
}

int record_to(const std::string& path) {
  const auto recording = record();
  if (!recording) return fmt::print(stderr, "{}\n", recording.error().message), 1;
  std::ofstream file(path);
  file << write(*recording) << std::flush;
  if (!file) return fmt::print(stderr, "cannot write {}\n", path), 1;
  fmt::print("{} cases\n", recording->results.size());
  return 0;
}

int run(std::map<std::string, std::string>& options) {
  const auto mix = parse_classes(options["--classes"]);
  if (!mix) return fmt::print(stderr, "{}\n", mix.error().message), 1;
  auto oracle = NativeExecutor::create();
  if (!oracle) return fmt::print(stderr, "{}\n", oracle.error().message), 1;
  const std::unique_ptr<Executor> guest = make_guest(options["--engine"]);
  const TemplateTable table(**oracle);
  CampaignOptions campaign_options{
      .instructions = std::strtoull(options["--instructions"].c_str(), nullptr, 0),
      .seed = std::strtoull(options["--seed"].c_str(), nullptr, 0),
      .mix = *mix,
      .tolerance = tolerance_of(options["--engine"]),
      .max_failures = static_cast<unsigned>(std::stoul(options["--failures"]))};
  for (std::size_t i = 0; i < kInsnClassCount; ++i)
    fmt::print("{} {}  ", name_of(static_cast<InsnClass>(i)), table.mnemonics(static_cast<InsnClass>(i)));
  fmt::print("mnemonics, {} forms that this host refuses\n", table.refused());
  Campaign campaign(**oracle, *guest, table, campaign_options);
  if (const std::string& seed = options["--replay"]; !seed.empty()) {
    print_result(campaign.replay(std::strtoull(seed.c_str(), nullptr, 0)));
    return 0;
  }
  const auto start = std::chrono::steady_clock::now();
  const CampaignResult result = campaign.run([&](const CampaignResult& so_far) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    fmt::print(stderr, "\r{:>12} instructions  {:>8.0f} cases/s  {} differ ", so_far.instructions,
               static_cast<double>(so_far.cases) / elapsed.count(), so_far.failed_cases);
    print_failures(so_far);
  });
  fmt::print(stderr, "\n");
  print_result(result);
  return result.failed_cases == 0 ? 0 : 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> options = {
      {"--engine", "interp"}, {"--instructions", "1000000"}, {"--seed", "1"},      {"--classes", "int"},
      {"--replay", ""},       {"--failures", "10"},          {"--exclusions", ""}, {"--record", ""},
  };
  for (int i = 1; i < argc; i += 2) {
    if (!options.contains(argv[i]) || i + 1 >= argc) return fmt::print(stderr, "{}", kUsage), 1;
    options[argv[i]] = argv[i + 1];
  }
  if (!options["--exclusions"].empty()) return print_exclusions(), 0;
  if (const std::string& path = options["--record"]; !path.empty()) return record_to(path);
  return run(options);
}

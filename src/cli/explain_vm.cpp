#include "cli/explain_vm.hpp"

#include <charconv>
#include <chrono>

#include <nlohmann/json.hpp>

#include "cli/debug_options.hpp"
#include "cli/explain_plan.hpp"
#include "cli/machine_choice.hpp"
#include "control/api.hpp"
#include "control/client.hpp"

namespace vert::cli {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kPatience{30};  // beyond the time that samples are taken

Result<u64> parse_number(const char* option, const std::string& text, u64 otherwise, u64 least, u64 most) {
  if (text.empty()) return otherwise;
  u64 number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || rest != end || number < least || number > most)
    return make_error("{} {}: must be a number from {} to {}", option, text, least, most);
  return number;
}

Result<std::string> explain_range(const control::LivingMachine& machine, const ExplainVmRequest& request) {
  const std::size_t dots = request.range.find("..");
  VERT_ASSIGN(const u64 begin, parse_address(request.range.substr(0, dots)));
  VERT_ASSIGN(const u64 vcpu, parse_number("--vcpu", request.vcpu, 0, 0, 255));
  json arguments = {{"begin", fmt::format("{:#x}", begin)}, {"vcpu", vcpu}};
  if (dots != std::string::npos) {
    VERT_ASSIGN(const u64 end, parse_address(request.range.substr(dots + 2)));
    if (end <= begin)
      return make_error("--range {} is empty: the second address must be greater than the first",
                        request.range);
    arguments["end"] = fmt::format("{:#x}", end);
  }
  if (!request.mode.empty()) {
    VERT_TRY(parse_code_kind(request.mode));
    arguments["mode"] = request.mode;
  }
  VERT_ASSIGN(const json answer,
              control::call(machine.socket_path(), "PUT", "vm.explain", arguments, kPatience));
  return text_at(answer, "/listing");
}

Result<std::string> explain_hottest(const control::LivingMachine& machine, const ExplainVmRequest& request) {
  VERT_ASSIGN(const u64 hottest,
              parse_number("--hottest", request.hottest, cpu::kUsualHottest, 1, control::kMostHotBlocks));
  VERT_ASSIGN(const u64 seconds,
              parse_number("--seconds", request.seconds, 3, 1, control::kMostSampledSeconds));
  VERT_ASSIGN(const json answer, control::call(machine.socket_path(), "PUT", "vm.hot-blocks",
                                               {{"hottest", hottest}, {"milliseconds", seconds * 1000}},
                                               std::chrono::seconds(seconds) + kPatience));
  std::vector<cpu::SampleReport> reports;
  const auto vcpus = answer.find("vcpus");
  if (vcpus == answer.end() || !vcpus->is_array()) return make_error("the VM reported no samples");
  for (const json& vcpu : *vcpus) {
    VERT_ASSIGN(auto groups,
                control::groups_from_json(vcpu.is_object() ? vcpu.value("groups", json()) : json()));
    reports.push_back({std::move(groups), text_at(vcpu, "/listing")});
  }
  return sample_tables(reports);
}

}  // namespace

Result<std::string> explain_vm(const ExplainVmRequest& request) {
  if (!request.range.empty() && (!request.hottest.empty() || !request.seconds.empty()))
    return make_error("--range cannot be combined with --hottest or --seconds");
  if (request.range.empty() && !(request.vcpu + request.mode).empty())
    return make_error("--vcpu and --mode need --range");
  VERT_ASSIGN(const auto machine, find_machine(request.name));
  return request.range.empty() ? explain_hottest(machine, request) : explain_range(machine, request);
}

}  // namespace vert::cli

#include "cli/debug_options.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "cli/commands.hpp"
#include "cli/text.hpp"

namespace vert::cli {
namespace {

const std::vector<std::string> kDebugWords = {"engine", "hot-blocks", "perf-map"};

std::size_t widest_name(const cpu::CounterGroup& group) {
  std::size_t width = 0;
  for (const cpu::Counter& counter : group.counters) width = std::max(width, counter.name.size());
  return width;
}

void add_group(const cpu::CounterGroup& group, std::size_t width, std::string& text) {
  u64 whole = 0;
  for (const cpu::Counter& counter : group.counters) whole += counter.value;
  text += fmt::format("  {}{}\n", group.name, group.parts ? fmt::format(": {}", whole) : "");
  for (const cpu::Counter& counter : group.counters) {
    text += fmt::format("    {:<{}}  {:>14}", counter.name, width, counter.value);
    const double share =
        whole != 0 ? 100.0 * static_cast<double>(counter.value) / static_cast<double>(whole) : 0;
    text += group.parts ? fmt::format("  {:5.1f} %\n", share) : "\n";
  }
}

void add_vcpu(std::size_t vcpu, std::span<const cpu::CounterGroup> groups, std::string_view if_none,
              std::string& text) {
  text += fmt::format("vcpu {}\n", vcpu);
  if (groups.empty()) text += fmt::format("  {}\n", if_none);
  std::size_t width = 0;
  for (const cpu::CounterGroup& group : groups) width = std::max(width, widest_name(group));
  for (const cpu::CounterGroup& group : groups) add_group(group, width, text);
}

}  // namespace

Result<DebugOptions> parse_debug_options(std::span<const std::string> words) {
  DebugOptions options;
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    const std::string what = word.substr(0, equals);
    const std::string file = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (equals != std::string::npos && file.empty())
      return make_error("--debug {}: add a file name after '=', or leave out the '='", word);
    if (what == "engine") {
      options.counters = {true, file};
    } else if (what == "hot-blocks") {
      options.samples = {true, file};
    } else if (what == "perf-map") {
      if (!file.empty()) return make_error("--debug perf-map takes no file: perf expects it in /tmp");
      options.perf_map = true;
    } else if (const auto hint = closest_match(what, kDebugWords)) {
      return make_error("unknown --debug '{}'; did you mean '{}'?", what, *hint);
    } else {
      return make_error("unknown --debug '{}'; choose {}", what, join_alternatives(kDebugWords));
    }
  }
  return options;
}

std::string counter_tables(std::span<const std::vector<cpu::CounterGroup>> vcpus) {
  std::string text;
  for (std::size_t vcpu = 0; vcpu < vcpus.size(); ++vcpu)
    add_vcpu(vcpu, vcpus[vcpu], "this engine counts nothing", text);
  return text;
}

std::string sample_tables(std::span<const cpu::SampleReport> vcpus) {
  std::string text;
  for (std::size_t vcpu = 0; vcpu < vcpus.size(); ++vcpu) {
    add_vcpu(vcpu, vcpus[vcpu].groups, "this engine takes no samples", text);
    if (!vcpus[vcpu].listing.empty()) text += "\n" + vcpus[vcpu].listing;
  }
  return text;
}

Status write_report(const DebugReport& report, std::string_view text) {
  if (!report.file.empty()) return write_file(report.file, text);
  print_error(text);
  return {};
}

}  // namespace vert::cli

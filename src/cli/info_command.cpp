// `vert info`: shows a VM's configuration, state and engine counters.
#include <time.h>

#include <algorithm>
#include <string>

#include "cli/commands.hpp"
#include "cli/debug_options.hpp"
#include "cli/machine_choice.hpp"
#include "cli/text.hpp"
#include "control/api.hpp"
#include "control/client.hpp"

namespace vert::cli {
namespace {

using nlohmann::json;

constexpr const char* kExamples = R"(Examples:
  vert info                        the only running VM
  vert info web                    configuration, state and engine counters of 'web'
  vert info web --json             the same as JSON

Engine bt counts translated blocks, code cache usage, exits from translated code by reason, soft TLB misses and
faults. Reading the counters stops the vCPUs for a few microseconds.)";

std::string row(std::string_view what, std::string_view value) {
  return fmt::format("  {:<18}{}\n", what, value);
}

std::string optional_row(const json& info, std::string_view what, const std::string& path) {
  const std::string value = text_at(info, path);
  return value == "?" || value.empty() ? "" : row(what, value);
}

std::string disk_rows(const json& info) {
  std::string rows;
  for (std::size_t i = 0; info.contains(json::json_pointer(fmt::format("/vert/disks/{}", i))); ++i)
    rows += row("disk " + text_at(info, fmt::format("/vert/disks/{}/id", i)),
                fmt::format("{}, {}", text_at(info, fmt::format("/config/disks/{}/path", i)),
                            format_size(number_at(info, fmt::format("/vert/disks/{}/size", i)))));
  return rows;
}

std::string describe(const std::string& name, const json& info) {
  const u64 started = number_at(info, "/vert/started");
  const auto now = static_cast<u64>(::time(nullptr));
  std::string state = text_at(info, "/state");
  std::ranges::transform(state, state.begin(), [](unsigned char c) { return std::tolower(c); });
  return name + "\n" + row("state", state) + optional_row(info, "because", "/vert/pause_reason") +
         row("up since", fmt::format("{} ({})", format_time(started),
                                     format_duration(now > started ? now - started : 0))) +
         row("engine", text_at(info, "/vert/engine")) +
         row("vCPUs", fmt::format("{}, model {}", text_at(info, "/config/cpus/boot_vcpus"),
                                  text_at(info, "/config/vert/cpu_model"))) +
         row("memory", format_size(number_at(info, "/config/memory/size"))) +
         optional_row(info, "kernel", "/config/payload/kernel") +
         optional_row(info, "initial RAM disk", "/config/payload/initramfs") +
         optional_row(info, "command line", "/config/payload/cmdline") + disk_rows(info) +
         row("serial console", text_at(info, "/config/serial/mode")) +
         row("process",
             fmt::format("{}, vert {}", text_at(info, "/vert/pid"), text_at(info, "/vert/version")));
}

Result<std::string> describe_counters(const json& answer) {
  std::vector<std::vector<cpu::CounterGroup>> vcpus;
  const auto list = answer.find("vcpus");
  if (list == answer.end() || !list->is_array()) return make_error("the VM reported no counters");
  for (const json& vcpu : *list) {
    VERT_ASSIGN(auto groups,
                control::groups_from_json(vcpu.is_object() ? vcpu.value("groups", json()) : json()));
    vcpus.push_back(std::move(groups));
  }
  return "\n" + counter_tables(vcpus);
}

class InfoCommand final : public Command {
 public:
  explicit InfoCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("info", "Show a VM's configuration, state and counters")) {
    add_machine_name(app_, name_);
    app_.add_flag("--json", json_, "Print JSON");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto machine, find_machine(name_));
    VERT_ASSIGN(const json info, control::call(machine.socket_path(), "GET", "vm.info"));
    VERT_ASSIGN(const json counters, control::call(machine.socket_path(), "GET", "vm.engine-counters"));
    if (json_) {
      print_out(json({{"name", machine.name}, {"info", info}, {"engine_counters", counters}}).dump(2) + "\n");
      return kExitOk;
    }
    VERT_ASSIGN(const std::string tables, describe_counters(counters));
    print_out(describe(machine.name, info) + tables);
    return kExitOk;
  }

 private:
  CLI::App& app_;
  std::string name_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_info_command(CLI::App& parent) { return std::make_unique<InfoCommand>(parent); }

}  // namespace vert::cli

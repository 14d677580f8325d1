// `vert ls`: lists this user's running VMs.
#include <time.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/machine_choice.hpp"
#include "cli/text.hpp"
#include "control/client.hpp"

namespace vert::cli {
namespace {

using nlohmann::json;

constexpr const char* kExamples = R"(Examples:
  vert ls                          list running VMs, in the foreground and in the background
  vert ls -q                       names only, one per line
  vert ls --json                   everything, as JSON
  for vm in $(vert ls -q); do vert stop $vm; done)";

constexpr std::chrono::seconds kPatience{2};

std::string state_of(const Result<json>& info) {
  if (!info) return "not answering";
  std::string state = text_at(*info, "/state");
  if (state == "Created") return "starting";
  std::ranges::transform(state, state.begin(), [](unsigned char c) { return std::tolower(c); });
  const std::string reason = text_at(*info, "/vert/pause_reason");
  return reason.empty() || reason == "?" ? state : state + " (see 'vert info')";
}

std::vector<std::string> row_of(const std::string& name, const Result<json>& info) {
  if (!info) return {name, state_of(info), "", "", "", ""};
  return {name,
          state_of(info),
          text_at(*info, "/vert/engine"),
          text_at(*info, "/config/cpus/boot_vcpus"),
          format_size(number_at(*info, "/config/memory/size")),
          format_time(number_at(*info, "/vert/started"))};
}

class LsCommand final : public Command {
 public:
  explicit LsCommand(CLI::App& parent) : app_(*parent.add_subcommand("ls", "List running VMs")) {
    app_.add_flag("-q,--quiet", quiet_, "Print names only");
    app_.add_flag("--json", json_, "Print JSON");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto machines, control::living_machines());
    std::vector<std::vector<std::string>> rows = {{"NAME", "STATE", "ENGINE", "CPUS", "MEMORY", "UP SINCE"}};
    json all = json::array();
    for (const control::LivingMachine& machine : machines) {
      if (quiet_) {
        print_out(machine.name + "\n");
        continue;
      }
      const auto info = control::call(machine.socket_path(), "GET", "vm.info", {}, kPatience);
      if (!info && !control::lives(machine)) continue;  // it ended meanwhile
      rows.push_back(row_of(machine.name, info));
      all.push_back({{"name", machine.name}, {"pid", machine.pid}, {"info", info.value_or(json())}});
    }
    if (quiet_) return kExitOk;
    if (json_) {
      print_out(all.dump(2) + "\n");
    } else {
      print_out(format_table(rows));
    }
    return kExitOk;
  }

 private:
  CLI::App& app_;
  bool quiet_ = false;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_ls_command(CLI::App& parent) { return std::make_unique<LsCommand>(parent); }

}  // namespace vert::cli

// `vert pause` and `vert resume`: stop and restart a VM's vCPUs, timers and clocks.
#include <string>

#include "cli/commands.hpp"
#include "cli/machine_choice.hpp"
#include "control/client.hpp"

namespace vert::cli {
namespace {

constexpr const char* kPauseExamples = R"(Examples:
  vert pause web                   stop the VM's vCPUs, timers and clocks
  vert resume web                  continue as if no time had passed

The guest does not notice, except that clocks outside it are ahead afterwards.)";

constexpr const char* kResumeExamples = R"(Examples:
  vert resume web                  continue a VM that 'vert pause web' stopped)";

/// A command that is one call without arguments.
class CallCommand final : public Command {
 public:
  CallCommand(CLI::App& app, const char* endpoint, const char* examples) : app_(app), endpoint_(endpoint) {
    add_machine_name(app_, name_);
    app_.footer(examples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto machine, find_machine(name_));
    const auto done = control::call(machine.socket_path(), "PUT", endpoint_);
    if (!done) return make_error("{}: {}", machine.name, done.error().message);
    return kExitOk;
  }

 private:
  CLI::App& app_;
  const char* endpoint_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Command> make_pause_command(CLI::App& parent) {
  return std::make_unique<CallCommand>(*parent.add_subcommand("pause", "Pause a VM"), "vm.pause",
                                       kPauseExamples);
}

std::unique_ptr<Command> make_resume_command(CLI::App& parent) {
  return std::make_unique<CallCommand>(*parent.add_subcommand("resume", "Resume a paused VM"), "vm.resume",
                                       kResumeExamples);
}

}  // namespace vert::cli

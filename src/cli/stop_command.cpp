// `vert stop` and `vert kill`: shut a VM down cleanly, or at once.
#include <time.h>
#include <charconv>
#include <chrono>
#include <string>

#include "cli/commands.hpp"
#include "cli/machine_choice.hpp"
#include "cli/progress_line.hpp"
#include "control/client.hpp"

namespace vert::cli {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

constexpr const char* kStopExamples = R"(Examples:
  vert stop web                    press the ACPI power button and wait for the guest to shut down
  vert stop web --timeout 300      wait up to five minutes (default 60 seconds)
  vert stop web --force            kill the VM if it has not shut down by then

The guest must handle the power button: distributions do, a bare shell does not.)";

constexpr const char* kKillExamples = R"(Examples:
  vert kill web                    end the VM at once, like pulling the plug)";

constexpr std::chrono::milliseconds kLook{50};

void sleep_for(std::chrono::milliseconds time) {
  const timespec duration = {time.count() / 1000, static_cast<long>(time.count() % 1000) * 1'000'000};
  ::nanosleep(&duration, nullptr);
}

/// Waits until the machine has ended; false if that takes longer than `limit`. `each` is called between
/// looks.
template <typename Each>
bool wait_for_end(const control::LivingMachine& machine, std::chrono::milliseconds limit, Each each) {
  const auto deadline = Clock::now() + limit;
  while (control::lives(machine)) {
    if (Clock::now() >= deadline) return false;
    each();
    sleep_for(kLook);
  }
  return true;
}

/// By its own end of the control interface, so that it can tidy up (a terminal's mode); else by force.
Status end_at_once(const control::LivingMachine& machine) {
  static constexpr seconds kAnswerLimit{2};
  static constexpr seconds kEndLimit{5};
  if (control::call(machine.socket_path(), "PUT", "vmm.shutdown", {}, kAnswerLimit) &&
      wait_for_end(machine, kEndLimit, [] {}))
    return {};
  return control::kill_machine(machine);
}

class StopCommand final : public Command {
 public:
  explicit StopCommand(CLI::App& parent) : app_(*parent.add_subcommand("stop", "Shut down a VM cleanly")) {
    add_machine_name(app_, name_);
    app_.add_option("--timeout", timeout_, "Seconds to wait (default 60)")->type_name("SECONDS");
    app_.add_flag("--force", force_, "Kill the VM if it has not shut down in time");
    app_.footer(kStopExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const seconds limit, parse_timeout());
    VERT_ASSIGN(const auto machine, find_machine(name_));
    const Status pressed = press(machine);
    if (!pressed && !force_) return make_error("{}: {}", machine.name, pressed.error().message);
    if (pressed && wait(machine, limit)) return kExitOk;
    if (force_) {
      VERT_TRY(end_at_once(machine));
      print_error(fmt::format("vert: '{}' did not shut down within {} s and was killed\n", machine.name,
                              pressed ? limit.count() : 0));
      return kExitOk;
    }
    return make_error(
        "'{}' did not shut down within {} s; look at 'vert console {}', wait longer with --timeout, or use "
        "'vert kill {}'",
        machine.name, limit.count(), machine.name, machine.name);
  }

 private:
  Result<seconds> parse_timeout() const {
    constexpr u64 kMost = 7 * 24 * 3600;
    u64 number = 0;
    const char* const end = timeout_.data() + timeout_.size();
    const auto [rest, error] = std::from_chars(timeout_.data(), end, number);
    if (error != std::errc{} || rest != end || number > kMost)
      return make_error("--timeout {}: must be a number of seconds, such as 60", timeout_);
    return seconds(number);
  }

  static Status press(const control::LivingMachine& machine) {
    const auto pressed = control::call(machine.socket_path(), "PUT", "vm.power-button");
    if (!pressed && control::lives(machine)) return std::unexpected(pressed.error());
    return {};
  }

  /// A guest that is still booting may miss the first press.
  static bool wait(const control::LivingMachine& machine, seconds limit) {
    static constexpr seconds kAgain{10};
    ProgressLine progress;
    const auto begin = Clock::now();
    auto next_press = begin + kAgain;
    return wait_for_end(machine, limit, [&] {
      const auto now = Clock::now();
      progress.show(fmt::format("'{}' is shutting down: {} s of {} s", machine.name,
                                std::chrono::duration_cast<seconds>(now - begin).count(), limit.count()));
      if (now < next_press) return;
      next_press = now + kAgain;
      static_cast<void>(press(machine));
    });
  }

  CLI::App& app_;
  std::string name_;
  std::string timeout_ = "60";
  bool force_ = false;
};

class KillCommand final : public Command {
 public:
  explicit KillCommand(CLI::App& parent) : app_(*parent.add_subcommand("kill", "End a VM at once")) {
    add_machine_name(app_, name_);
    app_.footer(kKillExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const auto machine, find_machine(name_));
    VERT_TRY(end_at_once(machine));
    return kExitOk;
  }

 private:
  CLI::App& app_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Command> make_stop_command(CLI::App& parent) { return std::make_unique<StopCommand>(parent); }
std::unique_ptr<Command> make_kill_command(CLI::App& parent) { return std::make_unique<KillCommand>(parent); }

}  // namespace vert::cli

#include "cli/run_session.hpp"

#include <signal.h>
#include <string.h>
#include <time.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>

#include "cli/commands.hpp"
#include "cli/console.hpp"
#include "cli/serial_port.hpp"
#include "cli/terminal.hpp"
#include "control/console_hub.hpp"
#include "control/machine_vm.hpp"
#include "control/registry.hpp"
#include "control/server.hpp"

namespace vert::cli {
namespace {

/// Tells how the machine ended, and gives the exit status. The terminal is in its own mode again.
Result<int> exit_status(const machine::Outcome& outcome) {
  using Reason = machine::Outcome::Reason;
  switch (outcome.reason) {
    case Reason::kPowerOff: return kExitOk;
    case Reason::kReset: print_error("vert: the guest reset (--no-reboot is set)\n"); return kExitOk;
    case Reason::kHalted:
      print_error("vert: the guest halted all its vCPUs with interrupts off\n");
      return kExitOk;
    case Reason::kDebugExit: return outcome.debug_exit_status;
    case Reason::kTripleFault:
      print_error(fmt::format("vert: the guest crashed (triple fault)\n{}\n", outcome.description));
      return kExitGuestCrashed;
    case Reason::kStopped: return make_error("the VM was shut down through the control API");
    case Reason::kInternalError: break;
  }
  return make_error("the VM failed: {}", outcome.description);
}

/// Clients of the control API may run in another directory.
machine::MachineConfig with_absolute_paths(machine::MachineConfig config) {
  const auto make_absolute = [](std::string& path) {
    std::error_code error;
    const auto absolute = std::filesystem::absolute(path, error);
    // A list of multiboot modules is no path.
    if (!path.empty() && !error && std::filesystem::exists(absolute, error))
      path = absolute.lexically_normal().string();
  };
  make_absolute(config.kernel);
  make_absolute(config.initrd);
  for (machine::DiskConfig& disk : config.disks) make_absolute(disk.path);
  return config;
}

/// Members are made in this order and go in the opposite one: the console leaves the machine alone before
/// that goes, the output outlives both, and the state folder is the last to go.
class Session {
 public:
  explicit Session(const RunPlan& plan) : plan_(plan) {}

  Result<int> run(const std::function<Status(RunStart)>& background) {
    VERT_TRY(claim_folder(background != nullptr));
    VERT_TRY(open_serial());
    machine::MachineConfig config = plan_.config;
    config.serial = &*hub_;
    config.notice = [](const std::string& line) { print_error(fmt::format("vert: {}\n", line)); };
    VERT_ASSIGN(machine_, machine::Machine::create(config));
    VERT_TRY(serve());
    VERT_ASSIGN(console_, Console::start(*machine_, output_.get(),
                                         Console::Input{port_.input.get(), port_.is_terminal}));
    set_live_console(console_.get());
    machine_->set_console_ready_callback([this] {
      console_->serial_ready();
      if (server_) server_->serial_ready();
    });
    VERT_TRY(announce(background));
    const machine::Outcome outcome = machine_->run();
    if (!outcome.unanswered.empty()) give_up(outcome);
    Result<int> status = finish(outcome);
    if (plan_.debug.counters.wanted) VERT_TRY(report_counters());
    if (plan_.debug.samples.wanted) VERT_TRY(report_samples());
    return status;
  }

 private:
  /// An unnamed VM in the foreground runs without a folder if the host has no place for one.
  Status claim_folder(bool background) {
    Status claimed = claim_folder();
    if (claimed || background || !plan_.name.empty()) return claimed;
    folder_.reset();
    print_error(fmt::format("vert: this VM will not show up in 'vert ls': {}\n", claimed.error().message));
    return {};
  }

  Status claim_folder() {
    VERT_ASSIGN(auto folder, control::StateFolder::claim(plan_.name));
    folder_.emplace(std::move(folder));
    VERT_ASSIGN(listener_, folder_->listen());
    return {};
  }

  Status open_serial() {
    VERT_ASSIGN(port_, open_serial_port(plan_.serial));
    if (port_.output.valid()) {
      VERT_ASSIGN(output_, SerialOutput::start(std::move(port_.output), SerialOutput::Limits{}, [this](int) {
                    const std::lock_guard lock(lost_mutex_);
                    output_lost_ = true;
                    if (live_console_ != nullptr) live_console_->output_lost();
                  }));
    }
    hub_.emplace(output_.get());
    return {};
  }

  Status serve() {
    std::vector<base::Fd> listeners;
    if (folder_) listeners.push_back(std::move(listener_));
    if (!plan_.api_socket.empty()) {
      VERT_ASSIGN(auto socket, control::SocketFile::listen(plan_.api_socket));
      listeners.push_back(socket.take());
      api_socket_.emplace(std::move(socket));
    }
    if (listeners.empty()) return {};
    vm_.emplace(*machine_, control::VmDescription{.name = folder_ ? folder_->name() : "",
                                                  .config = with_absolute_paths(plan_.config),
                                                  .engine = std::string(machine_->engine_name()),
                                                  .serial = plan_.serial,
                                                  .started_seconds = ::time(nullptr)});
    VERT_ASSIGN(server_, control::Server::start(std::move(listeners), *vm_, *hub_));
    return {};
  }

  Status announce(const std::function<Status(RunStart)>& background) {
    if (background) {
      VERT_ASSIGN(base::Fd log, folder_->open_log());
      return background({folder_->name(), port_.notice, std::move(log)});
    }
    if (!port_.notice.empty()) print_error(fmt::format("vert: {}\n", port_.notice));
    return {};
  }

  /// The console that a lost output stops; also if it was lost before.
  void set_live_console(Console* console) {
    const std::lock_guard lock(lost_mutex_);
    live_console_ = console;
    if (output_lost_ && console != nullptr) console->output_lost();
  }

  Status report_counters() {
    VERT_ASSIGN(const auto counters, machine_->engine_counters());
    return write_report(plan_.debug.counters, counter_tables(counters));
  }
  Status report_samples() {
    VERT_ASSIGN(const auto samples, machine_->engine_samples(cpu::kUsualHottest));
    return write_report(plan_.debug.samples, sample_tables(samples));
  }

  /// A vCPU's thread still runs and may hold any lock: nothing but this thread can be relied on.
  [[noreturn]] void give_up(const machine::Outcome& outcome) {
    restore_terminal();
    print_error(fmt::format("vert: {}; ended all the same\n", outcome.unanswered));
    folder_.reset();
    api_socket_.reset();
    std::_Exit(kExitFailure);
  }

  Result<int> finish(const machine::Outcome& outcome) {
    static constexpr std::chrono::seconds kDrainPatience{5};
    static constexpr std::chrono::milliseconds kWatcherPatience{500};
    hub_->drain(kWatcherPatience);
    machine_->set_console_ready_callback({});
    server_.reset();
    if (output_ && console_->ended() == Console::Ended::kNo) output_->drain(kDrainPatience);
    if (output_) output_->abandon();
    const Console::Ended ended = console_->ended();
    const int signal_number = console_->signal_number();
    const int error_number = console_->error_number();
    set_live_console(nullptr);
    console_.reset();
    if (outcome.reason != machine::Outcome::Reason::kStopped) return exit_status(outcome);
    if (ended == Console::Ended::kQuit) return kExitOk;
    if (ended == Console::Ended::kSignal) return make_error("stopped by SIG{}", sigabbrev_np(signal_number));
    if (ended == Console::Ended::kTerminalGone)
      return make_error("the serial console's terminal or pipe was closed");
    if (ended == Console::Ended::kFailed)
      return make_system_error(error_number, "cannot wait for input (poll)");
    return exit_status(outcome);
  }

  const RunPlan& plan_;
  std::optional<control::StateFolder> folder_;
  base::Fd listener_;  // the folder's
  std::optional<control::SocketFile> api_socket_;
  SerialPort port_;
  std::mutex lost_mutex_;
  bool output_lost_ = false;
  Console* live_console_ = nullptr;
  std::unique_ptr<SerialOutput> output_;
  std::optional<control::ConsoleHub> hub_;
  std::unique_ptr<machine::Machine> machine_;
  std::optional<control::MachineVm> vm_;
  std::unique_ptr<control::Server> server_;
  std::unique_ptr<Console> console_;
};

}  // namespace

Result<int> run_machine(const RunPlan& plan, const std::function<Status(RunStart)>& background) {
  VERT_TRY(Console::block_signals());
  install_crash_handlers();
  Session session(plan);
  return session.run(background);
}

}  // namespace vert::cli

// `vert run`: one machine in the foreground, its serial console where the user wants it.
#include <signal.h>
#include <string.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "cli/console.hpp"
#include "cli/debug_options.hpp"
#include "cli/host.hpp"
#include "cli/serial_port.hpp"
#include "cli/text.hpp"
#include "machine/machine.hpp"
#include "x86/cpu_model.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  A Linux kernel with its initial RAM disk, console on this terminal:
    vert run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0'
  Two processors and 512 MiB, with the reference engine:
    vert run --engine interp --cpus 2 --memory 512M --kernel vmlinuz --append 'console=ttyS0 quiet'
  A test kernel (ELF or multiboot) whose write to port 0xf4 becomes the exit status:
    vert run test.elf --serial file=test.log --device isa-debug-exit
  What the engine did, and why it was slow where it was, on standard error when the machine ends:
    vert run --debug engine --kernel vmlinuz --append 'console=ttyS0'
  Where the time went: the hottest pieces of guest code, beside their translation, in a file:
    vert run --debug hot-blocks=hot.txt --kernel vmlinuz --append 'console=ttyS0'
  Translated code with names in perf:
    perf record vert run --debug perf-map --kernel vmlinuz --append 'console=ttyS0' && perf report

Keys on a terminal: Ctrl-A x quits, Ctrl-A Ctrl-A sends one Ctrl-A.

Exit status: 0 the guest powered off, or you quit; 1 a wrong call or input; 2 the guest crashed;
with isa-debug-exit, (value << 1) | 1.)";

/// As typed, before any check.
struct RunOptions {
  std::string image;
  std::string kernel;
  std::string initrd;
  std::string append;
  std::string memory = "2G";
  std::string cpus = "1";
  std::string engine = "auto";
  std::string cpu = "host";
  std::string serial = "stdio";
  std::vector<std::string> devices;
  std::vector<std::string> debug;
  bool no_reboot = false;
};

constexpr unsigned kMaxCpus = 64;
constexpr u64 kMinMemory = u64{1} << 20;
const std::vector<std::string> kDevices = {"isa-debug-exit", "pc-testdev"};

/// Refuses a name that is not among `known`, with the nearest that is.
Status check_name(std::string_view what, const std::string& name, const std::vector<std::string>& known) {
  if (std::ranges::find(known, name) != known.end()) return {};
  if (const auto hint = closest_match(name, known)) {
    return make_error("unknown {} '{}'; did you mean '{}'?", what, name, *hint);
  }
  return make_error("unknown {} '{}'; it can be {}", what, name, join_alternatives(known));
}

Status check_engine(const std::string& name) {
  std::vector<std::string> known = {"auto"};
  for (const machine::EngineInfo& engine : machine::engines()) {
    known.emplace_back(engine.name);
    if (engine.name == name && !engine.available) {
      return make_error("the engine '{}' cannot run here: {}", name, engine.why);
    }
  }
  return check_name("engine", name, known);
}

Result<u64> parse_memory(const std::string& text) {
  const auto bytes = parse_size(text);
  if (!bytes) return make_error("--memory: {}", bytes.error().message);
  if (*bytes < kMinMemory) return make_error("--memory {}: a machine needs at least 1M", text);
  const HostMemory host = host_memory();
  if (*bytes > host.total + host.swap_total) {
    return make_error("--memory {}: this host has {}; choose less", text,
                      format_size(host.total + host.swap_total));
  }
  return *bytes;
}

Result<unsigned> parse_cpus(const std::string& text) {
  unsigned cpus = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, cpus);
  if (error != std::errc{} || rest != end || cpus < 1 || cpus > kMaxCpus) {
    return make_error("--cpus {}: choose a number from 1 to {}", text, kMaxCpus);
  }
  return cpus;
}

Result<machine::MachineConfig> make_config(const RunOptions& options) {
  machine::MachineConfig config;
  if (!options.image.empty() && !options.kernel.empty()) {
    return make_error("both an image ('{}') and --kernel are given; give one", options.image);
  }
  config.kernel = options.kernel.empty() ? options.image : options.kernel;
  if (config.kernel.empty()) return make_error("nothing to boot; give --kernel FILE (see 'vert run --help')");
  VERT_ASSIGN(config.memory_bytes, parse_memory(options.memory));
  VERT_ASSIGN(config.cpus, parse_cpus(options.cpus));
  VERT_TRY(check_engine(options.engine));
  const auto models = x86::CpuModel::names();
  VERT_TRY(check_name("CPU model", options.cpu, {models.begin(), models.end()}));
  for (const std::string& device : options.devices) VERT_TRY(check_name("device", device, kDevices));
  config.engine = options.engine;
  config.cpu_model = options.cpu;
  config.initrd = options.initrd;
  config.append = options.append;
  config.devices = options.devices;
  config.no_reboot = options.no_reboot;
  return config;
}

/// Tells how the machine ended, and gives the exit status. The terminal is in its own mode again.
Result<int> exit_status(const machine::Outcome& outcome) {
  using Reason = machine::Outcome::Reason;
  switch (outcome.reason) {
    case Reason::kPowerOff: return kExitOk;
    case Reason::kReset:
      print_error("vert: the guest asked for a reset, which ends it (--no-reboot)\n");
      return kExitOk;
    case Reason::kDebugExit: return outcome.debug_exit_status;
    case Reason::kTripleFault:
      print_error(fmt::format("vert: the guest crashed (triple fault)\n{}\n", outcome.description));
      return kExitGuestCrashed;
    case Reason::kStopped: return make_error("the machine was stopped");
    case Reason::kInternalError: break;
  }
  return make_error("the machine failed: {}", outcome.description);
}

/// One run of a machine with its console. Members are made in this order and go in the opposite one: the
/// console leaves the machine alone before that goes, and the output outlives both.
class Session {
 public:
  Result<int> run(machine::MachineConfig config, const std::string& serial, const DebugOptions& debug) {
    VERT_ASSIGN(port_, open_serial_port(serial));
    if (!port_.notice.empty()) print_error(fmt::format("vert: {}\n", port_.notice));
    if (port_.output.valid()) {
      output_.emplace(std::move(port_.output), SerialOutput::Limits{}, [this](int) {
        const std::lock_guard lock(lost_mutex_);
        output_lost_ = true;
        if (live_console_ != nullptr) live_console_->output_lost();
      });
      config.serial = &*output_;
    }
    VERT_ASSIGN(machine_, machine::Machine::create(config));
    console_.emplace(*machine_, output_ ? &*output_ : nullptr,
                     Console::Input{port_.input.get(), port_.is_terminal});
    set_live_console(&*console_);
    const machine::Outcome outcome = machine_->run();
    Result<int> status = finish(outcome);
    if (debug.counters.wanted)
      VERT_TRY(write_report(debug.counters, counter_tables(machine_->engine_counters())));
    if (debug.samples.wanted)
      VERT_TRY(write_report(debug.samples, sample_tables(machine_->engine_samples())));
    return status;
  }

 private:
  /// The console that a lost output stops; also if it was lost before.
  void set_live_console(Console* console) {
    const std::lock_guard lock(lost_mutex_);
    live_console_ = console;
    if (output_lost_ && console != nullptr) console->output_lost();
  }

  Result<int> finish(const machine::Outcome& outcome) {
    static constexpr std::chrono::seconds kDrainPatience{5};
    if (output_ && console_->ended() == Console::Ended::kNo) output_->drain(kDrainPatience);
    if (output_) output_->abandon();
    const Console::Ended ended = console_->ended();
    const int signal_number = console_->signal_number();
    set_live_console(nullptr);
    console_.reset();
    if (outcome.reason != machine::Outcome::Reason::kStopped) return exit_status(outcome);
    if (ended == Console::Ended::kQuit) return kExitOk;
    if (ended == Console::Ended::kSignal) return make_error("stopped by SIG{}", sigabbrev_np(signal_number));
    if (ended == Console::Ended::kTerminalGone)
      return make_error("the serial console's terminal or pipe has gone");
    return exit_status(outcome);
  }

  SerialPort port_;
  std::mutex lost_mutex_;
  bool output_lost_ = false;
  Console* live_console_ = nullptr;
  std::optional<SerialOutput> output_;
  std::unique_ptr<machine::Machine> machine_;
  std::optional<Console> console_;
};

class RunCommand final : public Command {
 public:
  explicit RunCommand(CLI::App& parent) : app_(*parent.add_subcommand("run", "Run a virtual machine")) {
    app_.add_option("IMAGE", options_.image, "What to boot: a kernel, as with --kernel")->type_name("");
    app_.add_option("--kernel", options_.kernel, "Linux bzImage, ELF kernel (PVH) or multiboot 1 kernel")
        ->type_name("FILE");
    app_.add_option("--initrd", options_.initrd, "Initial RAM disk; for multiboot, the first module")
        ->type_name("FILE");
    app_.add_option("--append", options_.append, "The kernel's command line")->type_name("STRING");
    app_.add_option("--memory", options_.memory, "Guest RAM, as 512M or 2G (default 2G)")->type_name("SIZE");
    app_.add_option("--cpus", options_.cpus, "Virtual processors (default 1)")->type_name("N");
    app_.add_option("--engine", options_.engine,
                    "What runs the guest's instructions: auto, interp (default auto)")
        ->type_name("NAME");
    app_.add_option("--cpu", options_.cpu, "x86-64-v2, x86-64-v3, x86-64-v4 or host (default host)")
        ->type_name("MODEL");
    app_.add_option("--serial", options_.serial, "Serial console: stdio, file=F, pty or none (default stdio)")
        ->type_name("WHERE");
    app_.add_option("--device", options_.devices,
                    "Test device: isa-debug-exit or pc-testdev; may be repeated")
        ->type_name("NAME")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    app_.add_option("--debug", options_.debug,
                    "engine[=FILE], hot-blocks[=FILE] or perf-map; may be repeated")
        ->type_name("WHAT")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    app_.add_flag("--no-reboot", options_.no_reboot, "A reset ends the machine");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(machine::MachineConfig config, make_config(options_));
    VERT_ASSIGN(const DebugOptions debug, parse_debug_options(options_.debug));
    config.aids = {.perf_map = debug.perf_map, .samples = debug.samples.wanted};
    Console::block_signals();
    install_crash_handlers();
    Session session;
    return session.run(std::move(config), options_.serial, debug);
  }

 private:
  CLI::App& app_;
  RunOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_run_command(CLI::App& parent) { return std::make_unique<RunCommand>(parent); }

}  // namespace vert::cli

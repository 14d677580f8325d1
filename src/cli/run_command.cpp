// `vert run`: parses and checks the options; cli/run_session.hpp runs the VM.
#include <algorithm>
#include <charconv>
#include <string>
#include <vector>

#include "base/host_memory.hpp"
#include "cli/commands.hpp"
#include "cli/cpu_option.hpp"
#include "cli/debug_options.hpp"
#include "cli/detach.hpp"
#include "cli/disk_option.hpp"
#include "cli/run_session.hpp"
#include "cli/text.hpp"
#include "control/registry.hpp"
#include "machine/board.hpp"
#include "machine/machine.hpp"

namespace vert::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  Boot a disk image; its boot loader's configuration says which kernel:
    vert run debian.img
  Boot Linux with an initial RAM disk, console on this terminal:
    vert run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0'
  Two vCPUs and 512 MiB, on the reference engine:
    vert run --engine interp --cpus 2 --memory 512M --kernel vmlinuz --append 'console=ttyS0 quiet'
  A CPU without AVX-512, and with MONITOR and MWAIT:
    vert run --cpu host,-AVX512F,+MONITOR --kernel vmlinuz --append 'console=ttyS0'
  Run in the background under a name, attach to the console (Ctrl-A d detaches), then shut down:
    vert run --detach --name web --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0'
    vert console web
    vert stop web
  Console on virtio, which is faster than a serial port and knows the terminal's size:
    vert run --device virtio-console --kernel vmlinuz --initrd initrd.img --append 'console=hvc0'
  Two disks, the second read-only (in the guest /dev/vda and /dev/vdb):
    vert run --disk root.img --disk data.img,readonly --kernel vmlinuz --append 'console=ttyS0 root=/dev/vda'
  Run a test kernel (ELF or multiboot) that reports its result through port 0xf4:
    vert run test.elf --serial file=test.log --device isa-debug-exit
  Print the engine's counters when the VM ends:
    vert run --debug engine --kernel vmlinuz --append 'console=ttyS0'
  Profile the guest: write its hottest blocks, with their translation, to a file:
    vert run --debug hot-blocks=hot.txt --kernel vmlinuz --append 'console=ttyS0'
  Give translated code names in perf:
    perf record vert run --debug perf-map --kernel vmlinuz --append 'console=ttyS0' && perf report

Keys on a terminal: Ctrl-A x quits, Ctrl-A h shows help, Ctrl-A Ctrl-A sends Ctrl-A.

Exit status: 0 if the guest powered off or you quit; 1 on an error, a signal, or a lost console; 2 if the guest
crashed. With isa-debug-exit: (value << 1) | 1 if the guest wrote value, and 125 instead of 1.)";

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
  std::string serial;
  std::vector<std::string> disks;
  std::vector<std::string> devices;
  std::vector<std::string> debug;
  bool snapshot = false;
  bool no_reboot = false;
  std::string name;
  bool detach = false;
  std::string log;
  std::string api_socket;
};

constexpr unsigned kMaxCpus = 64;
constexpr u64 kMinMemory = u64{1} << 20;

Status check_engine(const std::string& name) {
  std::vector<std::string> known = {"auto"};
  for (const machine::EngineInfo& engine : machine::engines()) {
    known.emplace_back(engine.name);
    if (engine.name == name && !engine.available) {
      return make_error("engine '{}' is not available on this host: {}", name, engine.why);
    }
  }
  return check_name("engine", name, known);
}

Result<u64> parse_memory(const std::string& text) {
  const auto bytes = parse_size(text);
  if (!bytes) return make_error("--memory: {}", bytes.error().message);
  if (*bytes < kMinMemory) return make_error("--memory {}: a VM needs at least 1M", text);
  if (const auto host = base::host_memory(); host && *bytes > host->total()) {
    return make_error("--memory {}: this host has only {}", text, format_size(host->total()));
  }
  return *bytes;
}

Result<unsigned> parse_cpus(const std::string& text) {
  unsigned cpus = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, cpus);
  if (error != std::errc{} || rest != end || cpus < 1 || cpus > kMaxCpus) {
    return make_error("--cpus {}: must be a number from 1 to {}", text, kMaxCpus);
  }
  return cpus;
}

/// IMAGE is the first disk or, if it is no disk, the kernel.
Status add_image(const RunOptions& options, machine::MachineConfig& config) {
  if (options.image.empty()) return {};
  if (machine::is_disk(options.image)) {
    config.disks.push_back({.path = options.image});
    return {};
  }
  if (!options.kernel.empty())
    return make_error("'{}' is no disk image, and --kernel is given, too; use one of them", options.image);
  config.kernel = options.image;
  return {};
}

Result<machine::MachineConfig> make_config(const RunOptions& options) {
  machine::MachineConfig config;
  config.kernel = options.kernel;
  VERT_TRY(add_image(options, config));
  for (const std::string& disk : options.disks) {
    VERT_ASSIGN(auto parsed, parse_disk_option(disk));
    config.disks.push_back(std::move(parsed));
  }
  for (machine::DiskConfig& disk : config.disks) disk.throw_writes_away = options.snapshot;
  if (config.kernel.empty() && config.disks.empty())
    return make_error(
        "nothing to boot: name a disk image, or a kernel with --kernel FILE (see 'vert run --help')");
  VERT_ASSIGN(config.memory_bytes, parse_memory(options.memory));
  VERT_ASSIGN(config.cpus, parse_cpus(options.cpus));
  VERT_TRY(check_engine(options.engine));
  VERT_TRY(check_cpu_option(options.cpu));
  const auto devices = machine::Board::optional_devices();
  for (const std::string& device : options.devices)
    VERT_TRY(check_name("device", device, {devices.begin(), devices.end()}));
  config.engine = options.engine;
  config.cpu_model = options.cpu;
  config.initrd = options.initrd;
  config.append = options.append;
  config.devices = options.devices;
  config.no_reboot = options.no_reboot;
  return config;
}

Result<RunPlan> make_plan(const RunOptions& options) {
  RunPlan plan;
  VERT_ASSIGN(plan.config, make_config(options));
  VERT_ASSIGN(plan.debug, parse_debug_options(options.debug));
  plan.config.aids = {.perf_map = plan.debug.perf_map, .samples = plan.debug.samples.wanted};
  if (!options.name.empty()) VERT_TRY(control::check_name(options.name));
  if (options.detach && options.serial == "stdio")
    return make_error("--serial stdio cannot be used with --detach; drop it and use 'vert console' instead");
  if (!options.log.empty() && !options.detach)
    return make_error("--log needs --detach; in the foreground, redirect standard error with 2>FILE");
  plan.serial = !options.serial.empty() ? options.serial : options.detach ? "none" : "stdio";
  plan.name = options.name;
  plan.log = options.log;
  plan.api_socket = options.api_socket;
  return plan;
}

class RunCommand final : public Command {
 public:
  explicit RunCommand(CLI::App& parent) : app_(*parent.add_subcommand("run", "Boot a VM")) {
    app_.add_option("IMAGE", options_.image,
                    "Disk to boot, or a kernel; it becomes the first --disk, or --kernel")
        ->type_name("");
    app_.add_option("--kernel", options_.kernel, "Kernel: Linux bzImage, ELF (PVH or plain) or multiboot 1")
        ->type_name("FILE");
    app_.add_option("--initrd", options_.initrd,
                    "Initial RAM disk; with multiboot, modules: 'FILE ARGUMENTS,FILE'")
        ->type_name("FILE");
    app_.add_option("--append", options_.append, "Kernel command line")->type_name("STRING");
    app_.add_option("--memory", options_.memory, "Guest memory, such as 512M or 2G (default 2G)")
        ->type_name("SIZE");
    app_.add_option("--cpus", options_.cpus, "Number of vCPUs (default 1)")->type_name("N");
    app_.add_option("--engine", options_.engine, "Execution engine: auto, bt or interp (default auto)")
        ->type_name("NAME");
    app_.add_option("--cpu", options_.cpu,
                    "CPU model: x86-64-v2, x86-64-v3, x86-64-v4 or host (default host); "
                    ",+F adds and ,-F removes a CPUID feature")
        ->type_name("MODEL[,+F][,-F]...");
    app_.add_option("--serial", options_.serial,
                    "Where the console goes: stdio, file=F, pty or none (default stdio; none with --detach)")
        ->type_name("WHERE");
    app_.add_option("--disk", options_.disks,
                    "Add a disk: an image and options readonly, format=raw|qcow2, serial=S and "
                    "cache=writeback|none|writethrough|unsafe; repeatable")
        ->type_name("FILE[,OPTION]...")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    app_.add_option(
            "--device", options_.devices,
            "Add a device: virtio-rng (random numbers), virtio-console (the console is hvc0 as well as "
            "ttyS0), or for tests isa-debug-exit or pc-testdev; repeatable")
        ->type_name("NAME")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    app_.add_option("--debug", options_.debug,
                    "Report on the engine: engine[=FILE], hot-blocks[=FILE] or perf-map; repeatable")
        ->type_name("WHAT")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    app_.add_flag("--snapshot", options_.snapshot,
                  "Throw away at the end what the guest writes to its disks");
    app_.add_flag("--no-reboot", options_.no_reboot, "Exit when the guest resets");
    app_.add_option("--name", options_.name,
                    "Name for 'vert ls', 'vert console' and others (default vm1, vm2, ...)")
        ->type_name("NAME");
    app_.add_flag("--detach", options_.detach,
                  "Run in the background; prints the VM's name once it is running");
    app_.add_option(
            "--log", options_.log,
            "With --detach: append vert's own messages to this file (default: kept until the VM ends)")
        ->type_name("FILE");
    app_.add_option("--api-socket", options_.api_socket, "Also serve the control API on this socket")
        ->type_name("PATH");
    app_.footer(kExamples);
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    VERT_ASSIGN(const RunPlan plan, make_plan(options_));
    return options_.detach ? run_detached(plan) : run_machine(plan);
  }

 private:
  CLI::App& app_;
  RunOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_run_command(CLI::App& parent) { return std::make_unique<RunCommand>(parent); }

}  // namespace vert::cli

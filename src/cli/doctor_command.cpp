// `vert doctor`: what this host offers to virtual machines, and what follows from it.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <thread>

#include "base/fd.hpp"
#include "base/host_memory.hpp"
#include "cli/commands.hpp"
#include "cli/host.hpp"
#include "cli/text.hpp"
#include "machine/machine.hpp"
#include "x86/cpu_model.hpp"

namespace vert::cli {
namespace {

void print_row(std::string_view what, std::string_view value) {
  print_out(fmt::format("  {:<18}{}\n", what, value));
}

std::string value_or_unknown(const std::string& path) { return first_line(path).value_or("unknown"); }

std::string describe_memory() {
  const auto memory = base::host_memory();
  if (!memory) return "unknown";
  std::string text = fmt::format("{}, {} swap", format_size(memory->ram), format_size(memory->swap));
  if (const auto kilobytes = proc_field("/proc/meminfo", "MemAvailable"))
    text += fmt::format(", {} available", format_size(std::strtoull(kilobytes->c_str(), nullptr, 10) << 10));
  return text;
}

void describe_host() {
  print_out("Host\n");
  print_row("processor", proc_field("/proc/cpuinfo", "model name").value_or("unknown"));
  print_row("threads", fmt::format("{}", std::thread::hardware_concurrency()));
  print_row("memory", describe_memory());
  print_row("kernel", value_or_unknown("/proc/sys/kernel/osrelease"));
}

/// Whether /dev/kvm can be opened; no engine uses it yet.
void describe_kvm() {
  std::string state;
  if (access("/dev/kvm", F_OK) != 0) {
    state = "missing: no virtualization extensions, or the kvm module is not loaded";
  } else {
    const base::Fd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
    const int error_number = errno;
    state = kvm.valid() ? "usable" : fmt::format("cannot be opened: {}", std::strerror(error_number));
  }
  const std::string flags = " " + proc_field("/proc/cpuinfo", "flags").value_or("") + " ";
  const bool vmx = flags.find(" vmx ") != std::string::npos;
  const bool svm = flags.find(" svm ") != std::string::npos;
  print_out("\nHardware virtualization\n");
  print_row("extensions", vmx ? "Intel VT-x" : svm ? "AMD-V" : "none visible");
  print_row("/dev/kvm", state);
}

void describe_limits() {
  print_out("\nKernel limits\n");
  print_row("max_map_count", value_or_unknown("/proc/sys/vm/max_map_count"));
  print_row("overcommit", value_or_unknown("/proc/sys/vm/overcommit_memory") + " (2 refuses to overcommit)");
  print_row("huge pages", value_or_unknown("/sys/kernel/mm/transparent_hugepage/enabled"));
  print_row("huge in memfd", value_or_unknown("/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
  const base::Fd memfd(memfd_create("vert-doctor", MFD_CLOEXEC));
  print_row("memfd", memfd.valid() ? "works"
                                   : fmt::format("{}; guest memory is a deleted temporary file instead",
                                                 std::strerror(errno)));
}

void describe_models() {
  print_out("\nCPU models (--cpu)\n");
  for (const std::string_view name : x86::CpuModel::names()) {
    const auto model = x86::CpuModel::make(name);
    print_row(name, model ? "supported" : "not supported: " + model.error().message);
  }
}

/// Returns whether any engine can run.
bool describe_engines() {
  print_out("\nEngines (--engine), best first\n");
  std::string best;
  for (const machine::EngineInfo& engine : machine::engines()) {
    print_row(engine.name,
              fmt::format("{}: {}", engine.available ? "available" : "not available", engine.why));
    if (engine.available && best.empty()) best = engine.name;
  }
  print_out(best.empty() ? "\nNo engine is available: this host cannot run VMs.\n"
                         : fmt::format("\n'vert run' uses {} on this host.\n", best));
  return !best.empty();
}

class DoctorCommand final : public Command {
 public:
  explicit DoctorCommand(CLI::App& parent)
      : app_(*parent.add_subcommand("doctor", "Check what this host supports")) {
    app_.footer("Example:\n  vert doctor\n\nExit status: 0 if an engine is available, else 1.");
  }

  CLI::App& app() override { return app_; }

  Result<int> run() override {
    describe_host();
    describe_kvm();
    describe_limits();
    describe_models();
    return describe_engines() ? kExitOk : kExitFailure;
  }

 private:
  CLI::App& app_;
};

}  // namespace

std::unique_ptr<Command> make_doctor_command(CLI::App& parent) {
  return std::make_unique<DoctorCommand>(parent);
}

}  // namespace vert::cli

// A whole virtual machine: memory, buses, devices, vCPU threads, and its run states.
//
// Owned by whoever runs the machine (cli/). Public functions are safe from any thread unless they say
// otherwise; run() blocks the caller until the machine ends.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"
#include "cpu/engine_report.hpp"
#include "machine/disks.hpp"
#include "machine/guest_bytes.hpp"

namespace vert::machine {

/// Where the console's bytes go. Implemented by cli/ (stdio, file, pty, none).
class SerialBackend {
 public:
  virtual ~SerialBackend() = default;
  /// Output of the guest. Called on vCPU threads and a device's; must not block for long and must not fail
  /// loudly.
  virtual void write(std::span<const u8> bytes) = 0;
};

struct MachineConfig {
  u64 memory_bytes = u64{2} << 30;
  unsigned cpus = 1;
  std::string engine = "auto";  // auto, bt, interp (kvm is not there yet)
  std::string cpu_model = "host";
  /// bzImage, ELF (PVH or plain) or multiboot 1; found out by content. Empty: what the first disk boots, each
  /// time that the machine starts; `initrd` and `append` take the place of the disk's own.
  std::string kernel;
  std::string initrd;                // empty: none. For multiboot: modules, as "FILE ARGUMENTS,FILE"
  std::string append;                // the kernel's command line
  std::vector<DiskConfig> disks;     // in the order of the guest's names: vda, vdb, ...
  std::vector<std::string> devices;  // names of Board::optional_devices()
  cpu::EngineAids aids{};
  bool no_reboot = false;           // a reset ends the machine instead of restarting it
  SerialBackend* serial = nullptr;  // null: output is dropped. Outlives the machine
  /// Told what people should know while the machine runs, as one line. Any thread.
  std::function<void(const std::string&)> notice{};
  /// How long vCPUs are waited for that are to stop.
  std::chrono::milliseconds patience{5000};
};

/// How a machine ended. kHalted: all its processors are halted, and nothing can wake them.
struct Outcome {
  enum class Reason { kPowerOff, kReset, kTripleFault, kHalted, kDebugExit, kStopped, kInternalError };
  Reason reason = Reason::kPowerOff;
  int debug_exit_status = 0;  // with kDebugExit: (value << 1) | 1
  std::string description;    // with kTripleFault: faults, registers, bytes at RIP; several lines
  /// Not empty: which vCPU does not stop, in one line. Its thread still runs, so the machine may not be
  /// destroyed: leave the process.
  std::string unanswered{};
};

/// Counters for `vert info`, the benchmarks and tests.
struct MachineStatistics {
  u64 instructions = 0;  // all vCPUs
  u64 host_ns = 0;       // since run() began
};

class Machine {
 public:
  /// Builds the machine and loads its boot image. Errors are one line for people.
  [[nodiscard]] static Result<std::unique_ptr<Machine>> create(const MachineConfig& config);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  /// Runs until the guest powers off, halts for good, crashes, resets with no_reboot, or stop() is called.
  [[nodiscard]] Outcome run();
  /// Ends run() soon, from any thread; not async-signal-safe.
  void stop();
  /// Bytes typed at the console: they go to the virtio console once the guest drives it, else to the serial
  /// port. Returns how many were taken; the rest must be offered again later (the callback is called then).
  std::size_t console_input(std::span<const u8> bytes);
  /// `on_ready` is called with a lock held: it may only pass that on. To be set while the guest does not run.
  void set_console_ready_callback(const std::function<void()>& on_ready);
  /// The size of the console's terminal, of which the virtio console tells the guest.
  void set_console_size(u16 columns, u16 rows);
  [[nodiscard]] MachineStatistics statistics() const;
  /// What "auto" came to.
  [[nodiscard]] std::string_view engine_name() const;

  // Steering, while run() is under way in another thread; not from the guest's threads. What they ask for is
  // remembered if run() has not begun, and too late if it has ended.

  enum class State : u8 { kCreated, kRunning, kPaused, kEnded };
  [[nodiscard]] State state() const;
  /// Why it is paused, in one line, unless somebody asked for that: "".
  [[nodiscard]] std::string pause_reason() const;
  /// Stops the vCPUs, and all of the guest's time. On return nothing runs. Error: a vCPU does not stop; the
  /// machine runs on.
  [[nodiscard]] Status pause();
  void resume();
  /// As the button at the front: what follows from it is the guest's affair.
  void press_power_button();
  /// As the button next to it. A paused machine stays paused.
  void reset();

  [[nodiscard]] std::vector<DiskState> disks() const;
  /// Gives the image and the guest's disk more bytes. Error: there is no such disk, it has more, or its image
  /// cannot grow.
  [[nodiscard]] Status grow_disk(const std::string& id, u64 size);

  // What follows stops the vCPUs for as long as it takes to look, while clocks go on: microseconds mostly.
  // Error: a vCPU does not stop, in one line that says where it is.

  /// What each vCPU's engine has counted since the guest's last reset.
  [[nodiscard]] Result<std::vector<std::vector<cpu::CounterGroup>>> engine_counters();
  /// From now on looks where the vCPUs spend their time; as if MachineConfig::aids had asked for it. False if
  /// the engine cannot. A reset of the guest ends it.
  [[nodiscard]] Result<bool> start_sampling();
  /// Where each vCPU spent its time since, with listings of the hottest blocks.
  [[nodiscard]] Result<std::vector<cpu::SampleReport>> engine_samples(std::size_t hottest);
  [[nodiscard]] Status stop_sampling();
  /// Memory as that vCPU sees it now, through the page tables that it uses at the moment.
  [[nodiscard]] Result<GuestBytes> read_guest(unsigned vcpu, u64 address, std::size_t size);

 private:
  struct Impl;
  explicit Machine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Names for `--engine`, best first, and whether each can run on this host (for `vert doctor`).
struct EngineInfo {
  std::string_view name;
  bool available = false;
  std::string why;  // one line
};
[[nodiscard]] std::vector<EngineInfo> engines();

}  // namespace vert::machine

// What the control interface can see and steer: one running machine, as an interface, so that tests can put
// a fake behind the server.
//
// All calls come from the server's thread.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"
#include "cpu/engine_report.hpp"
#include "machine/guest_bytes.hpp"
#include "machine/machine.hpp"

namespace vert::control {

/// What does not change while a machine lives.
struct VmDescription {
  std::string name;
  machine::MachineConfig config;
  std::string engine;       // what "auto" came to
  std::string serial;       // as given to --serial
  i64 started_seconds = 0;  // since 1970
};

class Vm {
 public:
  virtual ~Vm() = default;
  [[nodiscard]] virtual const VmDescription& description() const = 0;
  [[nodiscard]] virtual machine::Machine::State state() const = 0;
  /// As Machine::pause_reason().
  [[nodiscard]] virtual std::string pause_reason() const = 0;
  [[nodiscard]] virtual machine::MachineStatistics statistics() const = 0;

  // Errors: the machine does not answer.

  [[nodiscard]] virtual Status pause() = 0;
  virtual void resume() = 0;
  virtual void press_power_button() = 0;
  virtual void reset() = 0;
  /// The machine, and with it vert, ends soon.
  virtual void shut_down() = 0;

  [[nodiscard]] virtual std::vector<machine::DiskState> disks() const = 0;
  /// As Machine::grow_disk().
  [[nodiscard]] virtual Status grow_disk(const std::string& id, u64 size) = 0;

  [[nodiscard]] virtual Result<std::vector<std::vector<cpu::CounterGroup>>> engine_counters() = 0;
  [[nodiscard]] virtual Result<bool> start_sampling() = 0;
  [[nodiscard]] virtual Result<std::vector<cpu::SampleReport>> engine_samples(std::size_t hottest) = 0;
  [[nodiscard]] virtual Status stop_sampling() = 0;
  [[nodiscard]] virtual Result<machine::GuestBytes> read_guest(unsigned vcpu, u64 address,
                                                               std::size_t size) = 0;

  /// Of the terminal that the console is on.
  virtual void set_console_size(u16 columns, u16 rows) = 0;
  /// Bytes typed at the console; returns how many were taken. When that is not all,
  /// Server::serial_ready() comes later.
  virtual std::size_t type(std::span<const u8> bytes) = 0;
};

}  // namespace vert::control

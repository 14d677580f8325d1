// A machine of this process as the control interface sees it.
//
// Owned by whoever owns the machine, which outlives it.
#pragma once

#include "control/vm.hpp"

namespace vert::control {

class MachineVm final : public Vm {
 public:
  MachineVm(machine::Machine& machine, VmDescription description)
      : machine_(machine), description_(std::move(description)) {}

  [[nodiscard]] const VmDescription& description() const override { return description_; }
  [[nodiscard]] machine::Machine::State state() const override { return machine_.state(); }
  [[nodiscard]] std::string pause_reason() const override { return machine_.pause_reason(); }
  [[nodiscard]] machine::MachineStatistics statistics() const override { return machine_.statistics(); }
  [[nodiscard]] Status pause() override { return machine_.pause(); }
  void resume() override { machine_.resume(); }
  void press_power_button() override { machine_.press_power_button(); }
  void reset() override { machine_.reset(); }
  void shut_down() override { machine_.stop(); }
  [[nodiscard]] std::vector<machine::DiskState> disks() const override { return machine_.disks(); }
  [[nodiscard]] Status grow_disk(const std::string& id, u64 size) override {
    return machine_.grow_disk(id, size);
  }
  [[nodiscard]] Result<std::vector<std::vector<cpu::CounterGroup>>> engine_counters() override {
    return machine_.engine_counters();
  }
  [[nodiscard]] Result<bool> start_sampling() override { return machine_.start_sampling(); }
  [[nodiscard]] Result<std::vector<cpu::SampleReport>> engine_samples(std::size_t hottest) override {
    return machine_.engine_samples(hottest);
  }
  [[nodiscard]] Status stop_sampling() override { return machine_.stop_sampling(); }
  [[nodiscard]] Result<machine::GuestBytes> read_guest(unsigned vcpu, u64 address,
                                                       std::size_t size) override {
    return machine_.read_guest(vcpu, address, size);
  }
  void set_console_size(u16 columns, u16 rows) override { machine_.set_console_size(columns, rows); }
  std::size_t type(std::span<const u8> bytes) override { return machine_.console_input(bytes); }

 private:
  machine::Machine& machine_;
  const VmDescription description_;
};

}  // namespace vert::control

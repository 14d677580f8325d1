// A machine that only remembers what was asked of it.
#pragma once

#include <atomic>
#include <mutex>
#include <string>

#include "control/vm.hpp"

namespace vert::control::test {

class FakeVm final : public Vm {
 public:
  FakeVm() {
    description_.name = "fake";
    description_.engine = "bt";
    description_.config.memory_bytes = u64{512} << 20;
    description_.config.cpus = 2;
    description_.config.kernel = "/boot/vmlinuz";
    description_.config.append = "console=ttyS0 \xff";  // no UTF-8
  }

  [[nodiscard]] const VmDescription& description() const override { return description_; }
  [[nodiscard]] machine::Machine::State state() const override { return state_; }
  [[nodiscard]] std::string pause_reason() const override { return ""; }
  [[nodiscard]] machine::MachineStatistics statistics() const override { return {42, 1000}; }
  [[nodiscard]] Status pause() override {
    if (deaf) return make_error("vCPU 1 has not stopped");
    state_ = machine::Machine::State::kPaused;
    return {};
  }
  void resume() override { state_ = machine::Machine::State::kRunning; }
  void press_power_button() override { ++presses; }
  void reset() override { ++resets; }
  void shut_down() override { ++shut_downs; }
  [[nodiscard]] std::vector<machine::DiskState> disks() const override { return {{"vda", disk_size}}; }
  [[nodiscard]] Status grow_disk(const std::string& id, u64 size) override {
    if (id != "vda") return make_error("there is no disk '{}'", id);
    disk_size = size;
    return {};
  }
  [[nodiscard]] Result<std::vector<std::vector<cpu::CounterGroup>>> engine_counters() override {
    if (deaf) return make_error("vCPU 1 has not stopped");
    return std::vector<std::vector<cpu::CounterGroup>>{{{"exits", true, {{"all", 7}}}}};
  }
  [[nodiscard]] Result<bool> start_sampling() override {
    if (deaf) return make_error("vCPU 1 has not stopped");
    ++sampling_starts;
    sampling = can_sample;
    return can_sample;
  }
  [[nodiscard]] Result<std::vector<cpu::SampleReport>> engine_samples(std::size_t hottest) override {
    return std::vector<cpu::SampleReport>{{{{"samples", true, {{"asked for", hottest}}}}, "listing"}};
  }
  [[nodiscard]] Status stop_sampling() override {
    sampling = false;
    return {};
  }
  [[nodiscard]] Result<machine::GuestBytes> read_guest(unsigned vcpu, u64 address,
                                                       std::size_t size) override {
    if (vcpu >= 2) return make_error("there is no processor {}", vcpu);
    machine::GuestBytes found{address, std::vector<u8>(std::min<std::size_t>(size, 64), 0x90)};
    found.bytes.back() = 0xC3;
    return found;
  }
  void set_console_size(u16 columns, u16 rows) override { console_size = {columns, rows}; }
  std::size_t type(std::span<const u8> bytes) override {
    const std::scoped_lock lock(mutex_);
    const std::size_t count = std::min(bytes.size(), room);
    room -= count;
    typed_.append(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    return count;
  }
  [[nodiscard]] std::string typed() {
    const std::scoped_lock lock(mutex_);
    return typed_;
  }
  void make_room(std::size_t bytes) {
    const std::scoped_lock lock(mutex_);
    room = bytes;
  }

  u64 disk_size = u64{1} << 30;
  std::atomic<int> presses = 0;
  std::atomic<int> resets = 0;
  std::atomic<int> shut_downs = 0;
  std::atomic<int> sampling_starts = 0;
  std::atomic<bool> sampling = false;
  bool can_sample = true;
  std::pair<u16, u16> console_size;
  bool deaf = false;  // no vCPU stops

 private:
  VmDescription description_;
  std::atomic<machine::Machine::State> state_ = machine::Machine::State::kRunning;
  std::mutex mutex_;
  std::size_t room = ~std::size_t{0};
  std::string typed_;
};

}  // namespace vert::control::test

// Local APICs on a fake clock, for tests of the interrupt path.
#pragma once

#include <deque>
#include <memory>

#include "base/fake_time.hpp"
#include "cpu/local_apic.hpp"

namespace vert::test {

/// A PIC whose output is a variable.
class FakePic final : public cpu::ExternalInterruptSource {
 public:
  [[nodiscard]] bool pending() override { return level; }
  [[nodiscard]] u8 acknowledge() override {
    level = false;
    return vector;
  }

  bool level = false;
  u8 vector = 0x30;
};

class EoiRecorder final : public cpu::EoiListener {
 public:
  void end_of_interrupt(u8 vector) override { vectors.push_back(vector); }
  std::vector<u8> vectors;
};

/// vCPUs with their local APICs, IDs from 0; the first is the bootstrap processor and sees the PIC.
class ApicMachine {
 public:
  static constexpr u64 kTscFrequency = 3'000'000'000;

  explicit ApicMachine(unsigned count, cpu::ExternalInterruptSource* source = nullptr) {
    for (unsigned i = 0; i < count; ++i) {
      events_.emplace_back();
      apics_.emplace_back(i, i == 0, events_.back(), fabric, time, kTscFrequency,
                          i == 0 ? (source != nullptr ? source : &pic) : nullptr, [this] { return tsc(); });
      fabric.attach(apics_.back());
    }
    fabric.set_eoi_listener(&eois);
  }

  [[nodiscard]] cpu::LocalApic& apic(unsigned i = 0) { return apics_[i]; }
  [[nodiscard]] cpu::VcpuEvents& events(unsigned i = 0) { return events_[i]; }
  [[nodiscard]] u64 tsc() const { return time.now_ns() * 3 + tsc_error; }

  /// Software-enables all.
  void enable() {
    for (cpu::LocalApic& each : apics_) each.mmio_write(kSvr, 0x1FF);
  }
  void enter_x2apic() {
    for (cpu::LocalApic& each : apics_) static_cast<void>(each.set_base_msr(each.base_msr() | 0xC00));
  }
  /// Sends a fixed edge interrupt (a level one if `level`) to APIC `i`.
  void send(u8 vector, unsigned i = 0, bool level = false) {
    fabric.send({.destination = i, .vector = vector, .level_triggered = level});
  }
  /// Takes and ends every interrupt of APIC `i`; returns their vectors in order.
  std::vector<u8> drain(unsigned i = 0) {
    std::vector<u8> vectors;
    while (const std::optional<u8> vector = apics_[i].acknowledge()) {
      vectors.push_back(*vector);
      apics_[i].mmio_write(kEoi, 0);
    }
    return vectors;
  }

  // Register offsets.
  static constexpr u32 kId = 0x20, kVersion = 0x30, kTpr = 0x80, kPpr = 0xA0, kEoi = 0xB0, kLdr = 0xD0,
                       kDfr = 0xE0, kSvr = 0xF0, kIsr = 0x100, kTmr = 0x180, kIrr = 0x200, kEsr = 0x280,
                       kIcrLow = 0x300, kIcrHigh = 0x310, kLvtTimer = 0x320, kLvtPerf = 0x340, kLint0 = 0x350,
                       kLint1 = 0x360, kLvtError = 0x370, kTimerInitial = 0x380, kTimerCurrent = 0x390,
                       kTimerDivide = 0x3E0;

  base::FakeTime time;
  u64 tsc_error = 0;  // added to the host TSC
  cpu::ApicFabric fabric;
  FakePic pic;
  EoiRecorder eois;

 private:
  std::deque<cpu::VcpuEvents> events_;
  std::deque<cpu::LocalApic> apics_;
};

}  // namespace vert::test

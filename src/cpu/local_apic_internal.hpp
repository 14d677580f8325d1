// What the parts of the local APIC share: local_apic.cpp (the CPU side and delivery),
// local_apic_registers.cpp (registers, IPIs) and local_apic_timer.cpp.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "base/time.hpp"
#include "cpu/local_apic.hpp"
#include "cpu/local_apic_state.hpp"

namespace vert::cpu {

/// What a register write asks of others, done once the lock is free again.
struct ApicOutgoing {
  enum class Target : u8 { kDestination, kSelf, kAll, kOthers };  // ICR shorthands (SDM 3A, 10.6.1)

  std::optional<InterruptMessage> message;
  Target target = Target::kDestination;
  std::optional<u8> eoi;
};

/// Except for the constructor and on_timer(), every function is called with `mutex` held.
struct LocalApic::Impl {
  Impl(LocalApic& apic, bool is_bootstrap, VcpuEvents& vcpu_events, ApicFabric& apic_fabric,
       base::TimeService& time_service, u64 tsc_hz, std::function<u64()> read_host_tsc);

  // local_apic.cpp
  [[nodiscard]] bool enabled() const { return (state.base & x86::apic_base::EN) != 0; }
  [[nodiscard]] bool x2apic() const { return (state.base & x86::apic_base::EXTD) != 0; }
  [[nodiscard]] u8 processor_priority() const;
  [[nodiscard]] std::optional<u8> deliverable() const;
  /// Recomputes what readers without the lock see, and tells the vCPU of what became deliverable
  /// (`arrived`: a vector was added).
  void publish(bool arrived = false);
  /// Sets a vector's bit in IRR (SDM 3A, 10.8.4).
  void accept(u8 vector, bool level_triggered);
  void fire(LvtEntry entry);
  void error(u32 bit);
  void reset_registers();

  // local_apic_registers.cpp
  [[nodiscard]] std::optional<u32> read(u32 reg);
  [[nodiscard]] bool write(u32 reg, u32 value, ApicOutgoing& out);
  [[nodiscard]] bool write_xapic(u32 reg, u32 value, ApicOutgoing& out);
  [[nodiscard]] bool write_x2apic(u32 reg, u64 value, ApicOutgoing& out);
  void write_lvt(LvtEntry entry, u32 value);
  void write_svr(u32 value);
  void end_of_interrupt(ApicOutgoing& out);
  void send_ipi(u64 icr, u32 destination, ApicOutgoing& out);
  [[nodiscard]] u32 logical_id() const;

  // local_apic_timer.cpp
  [[nodiscard]] u32 timer_mode() const { return state.lvt[kLvtTimer] & lvt::kTimerMode; }
  [[nodiscard]] u64 divider() const;
  [[nodiscard]] u64 period_ns() const { return state.timer_initial * divider(); }
  [[nodiscard]] u32 current_count() const;
  void start_count(u32 count);
  void write_timer_divide(u32 value);
  void timer_mode_changed(u32 old_mode);
  void arm(u64 deadline_ns);
  void disarm();
  void on_timer();
  void expire(u64 now_ns);
  [[nodiscard]] u64 ns_until_tsc_deadline() const;
  void start_tsc_deadline();

  LocalApic& owner;
  const bool bootstrap;
  VcpuEvents& events;
  ApicFabric& fabric;
  base::TimeService& time;
  const u64 tsc_frequency;
  const std::function<u64()> host_tsc;

  std::mutex mutex;
  LocalApicState state;
  /// Of the last set_tsc_deadline(); nothing after a restore, since another host's TSC means nothing here.
  std::optional<u64> tsc_offset;
  std::unique_ptr<base::Timer> timer;  // last: its callback uses all above
};

}  // namespace vert::cpu

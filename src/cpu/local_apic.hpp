// The local APIC of one vCPU (SDM 3A, chapter 10): xAPIC and x2APIC, its timer, and the way of every
// interrupt to the vCPU.
//
// Owned by machine/. The vCPU's thread calls the CPU side; any thread delivers interrupts to it. One mutex,
// innermost: nothing is called with it held but VcpuEvents::request(), Timer::arm() and cancel(), and
// ExternalInterruptSource::pending(), none of which calls back. In particular no LocalApic's lock is held
// while the fabric, another LocalApic or the I/O APIC is called, so the whole order is: interrupt router,
// then I/O APIC or 8259, then LocalApic, then timer.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/archive.hpp"
#include "base/time.hpp"
#include "cpu/engine.hpp"
#include "memory/bus.hpp"

namespace vert::cpu {

/// Delivery modes of interrupt messages (SDM 3A, 10.6.1).
enum class DeliveryMode : u8 {
  kFixed = 0,
  kLowestPriority = 1,
  kSmi = 2,
  kNmi = 4,
  kInit = 5,
  kStartUp = 6,
  kExtInt = 7,
};

/// An interrupt message as IPIs, I/O APIC and MSI send it.
struct InterruptMessage {
  u32 destination = 0;
  bool logical = false;
  DeliveryMode mode = DeliveryMode::kFixed;
  u8 vector = 0;
  bool level_triggered = false;
  bool assert_level = true;
};

/// Matches every local APIC, in xAPIC and x2APIC mode. What sends 8-bit destinations (I/O APIC, MSI) widens
/// its broadcast, FFh, to this.
inline constexpr u32 kBroadcastDestination = 0xFFFFFFFF;

/// The 8259s, as LINT0 in ExtINT mode (virtual wire) sees them.
class ExternalInterruptSource {
 public:
  virtual ~ExternalInterruptSource() = default;
  /// The level of INTR. Takes no lock and is cheap: called on every interrupt-flag look.
  [[nodiscard]] virtual bool pending() = 0;
  /// INTA: the vector of the highest request (a spurious one if there is none any more).
  [[nodiscard]] virtual u8 acknowledge() = 0;
};

/// Told of each EOI of a level-triggered vector: the I/O APIC.
class EoiListener {
 public:
  virtual ~EoiListener() = default;
  virtual void end_of_interrupt(u8 vector) = 0;
};

class LocalApic;

/// The interrupt messages' fabric: knows every local APIC of the machine.
class ApicFabric {
 public:
  /// All before the machine starts.
  void attach(LocalApic& apic) { apics_.push_back(&apic); }
  void set_eoi_listener(EoiListener* listener) { eoi_listener_ = listener; }

  /// Delivers to all that match the destination (lowest priority: to one). Any thread, no local APIC's lock
  /// held. `except` is passed over (IPIs to all but self). Returns false if nobody took it.
  bool send(const InterruptMessage& message, const LocalApic* except = nullptr);
  void end_of_interrupt(u8 vector) {
    if (eoi_listener_ != nullptr) eoi_listener_->end_of_interrupt(vector);
  }
  [[nodiscard]] const std::vector<LocalApic*>& apics() const { return apics_; }

 private:
  [[nodiscard]] LocalApic* arbitrate(const InterruptMessage& message, const LocalApic* except) const;

  std::vector<LocalApic*> apics_;
  EoiListener* eoi_listener_ = nullptr;
};

class LocalApic {
 public:
  static constexpr u64 kDefaultBase = 0xFEE00000;
  /// What the timer counts at before its divider, in Hz; the CPU model reports it in leaf 4000'0010h.
  static constexpr u64 kBusFrequency = 1'000'000'000;

  /// `pic` may be null (application processors). `tsc_frequency` is in Hz, for TSC-deadline mode; `host_tsc`
  /// replaces the host's time-stamp counter (tests).
  LocalApic(u32 id, bool bootstrap, VcpuEvents& events, ApicFabric& fabric, base::TimeService& time,
            u64 tsc_frequency, ExternalInterruptSource* pic, std::function<u64()> host_tsc = {});
  /// No callback runs any more afterwards. The fabric must not send to it any longer.
  ~LocalApic();
  LocalApic(const LocalApic&) = delete;
  LocalApic& operator=(const LocalApic&) = delete;

  // The CPU side: the vCPU's thread.

  /// An interrupt could be taken now if RFLAGS.IF allowed it: from the APIC above PPR, or from the PIC.
  ///
  /// Takes no lock. The hint is stored under the lock after every change of what it sums up, and before the
  /// VcpuEvents::request() that announces the change. A vCPU that takes the announced bit (an acquire of that
  /// request) therefore sees the hint; one that has not taken it yet will look again.
  [[nodiscard]] bool has_interrupt() {
    const u32 hint = hint_.load(std::memory_order_acquire);
    if (hint == 0) [[likely]]
      return false;
    return (hint & kHintReady) != 0 || pic_->pending();
  }
  /// Takes the highest (moves it from IRR to ISR, or does INTA at the PIC). Nothing if it went away.
  [[nodiscard]] std::optional<u8> acknowledge();
  [[nodiscard]] u8 cr8();
  void set_cr8(u8 value);
  [[nodiscard]] u64 base_msr() const { return base_.load(std::memory_order_acquire); }
  /// IA32_APIC_BASE; false means #GP(0).
  [[nodiscard]] bool set_base_msr(u64 value);
  /// True if guest-physical `page` is this APIC's register page now (enabled, xAPIC mode).
  [[nodiscard]] bool claims(Gpa page) const;
  /// Registers are 32 bits wide at multiples of 16; parts of them can be read, but only whole ones written.
  [[nodiscard]] u32 mmio_read(u32 offset);
  void mmio_write(u32 offset, u32 value);
  /// x2APIC MSRs 0x800..0x8FF; nothing or false means #GP(0).
  [[nodiscard]] std::optional<u64> msr_read(u32 index);
  [[nodiscard]] bool msr_write(u32 index, u64 value);
  /// IA32_TSC_DEADLINE, in guest TSC ticks; guest TSC = host TSC + `tsc_offset`. When the offset changes
  /// (WRMSR to IA32_TSC, restore on another host), set_tsc_deadline(tsc_deadline(), offset) follows it.
  [[nodiscard]] u64 tsc_deadline();
  void set_tsc_deadline(u64 guest_tsc, u64 tsc_offset);

  // The fabric's side: any thread.

  [[nodiscard]] u32 id() const { return id_; }
  /// Takes no lock.
  [[nodiscard]] bool matches(u32 destination, bool logical) const;
  /// Processor priority, for lowest-priority arbitration; nothing if software-disabled.
  [[nodiscard]] std::optional<u8> arbitration_priority();
  /// False if it was refused: disabled, or nothing that it takes.
  bool deliver(const InterruptMessage& message);
  /// The PIC's output changed: look at it again.
  void external_interrupt_changed();

  /// As after power-up (`init` false) or INIT (true: ID and base survive).
  void reset(bool init);
  /// What firmware leaves for a loader on the bootstrap processor: enabled, spurious vector FFh, LINT0
  /// ExtINT, LINT1 NMI (MultiProcessor Specification 1.4, 3.6.2.2).
  void enter_virtual_wire_mode();
  [[nodiscard]] base::Document save();
  [[nodiscard]] Status restore(const base::Document& document);

 private:
  struct Impl;
  static constexpr u32 kHintReady = 1U << 0;       // a vector above PPR waits in IRR
  static constexpr u32 kHintExtIntOpen = 1U << 1;  // the PIC's output reaches the vCPU (never without a PIC)

  const u32 id_;
  ExternalInterruptSource* const pic_;
  // Copies for readers without the lock; Impl::publish() stores them.
  std::atomic<u32> hint_ = 0;
  std::atomic<u64> base_ = 0;
  std::atomic<u64> logical_ = 0;  // LDR in the upper half, DFR in the lower
  std::unique_ptr<Impl> impl_;
};

}  // namespace vert::cpu

// The guest-visible state of a local APIC (DESIGN: State), and the names of its registers' bits.
#pragma once

#include <array>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::cpu {

/// Registers, by MMIO offset / 16, which is also the x2APIC MSR - 800h (SDM 3A, tables 10-1 and 10-6).
namespace apic_register {
inline constexpr u32 kId = 0x02;
inline constexpr u32 kVersion = 0x03;
inline constexpr u32 kTpr = 0x08;
inline constexpr u32 kApr = 0x09;
inline constexpr u32 kPpr = 0x0A;
inline constexpr u32 kEoi = 0x0B;
inline constexpr u32 kRrd = 0x0C;
inline constexpr u32 kLdr = 0x0D;
inline constexpr u32 kDfr = 0x0E;
inline constexpr u32 kSvr = 0x0F;
inline constexpr u32 kIsr = 0x10;
inline constexpr u32 kTmr = 0x18;
inline constexpr u32 kIrr = 0x20;
inline constexpr u32 kEsr = 0x28;
inline constexpr u32 kIcrLow = 0x30;
inline constexpr u32 kIcrHigh = 0x31;
inline constexpr u32 kLvt = 0x32;
inline constexpr u32 kTimerInitial = 0x38;
inline constexpr u32 kTimerCurrent = 0x39;
inline constexpr u32 kTimerDivide = 0x3E;
inline constexpr u32 kSelfIpi = 0x3F;
}  // namespace apic_register

/// Local vector table entries in the order of their registers. There is no CMCI entry: no machine-check bank
/// declares it.
enum LvtEntry : unsigned { kLvtTimer, kLvtThermal, kLvtPerf, kLvtLint0, kLvtLint1, kLvtError, kLvtCount };

/// SDM 3A, 10.5.1.
namespace lvt {
inline constexpr u32 kVector = 0xFF;
inline constexpr u32 kMode = 7U << 8;
inline constexpr u32 kMasked = 1U << 16;
inline constexpr u32 kTimerMode = 3U << 17;
inline constexpr u32 kTimerPeriodic = 1U << 17;
inline constexpr u32 kTimerTscDeadline = 2U << 17;
/// Bits that hold what is written. Delivery status and remote IRR are read-only and always 0 here.
inline constexpr std::array<u32, kLvtCount> kStored = {0x000700FF, 0x000107FF, 0x000107FF,
                                                       0x0001A7FF, 0x0001A7FF, 0x000100FF};
/// Read-only bits, which a write may carry without being one of a reserved bit.
inline constexpr std::array<u32, kLvtCount> kReadOnly = {0x1000, 0x1000, 0x1000, 0x5000, 0x5000, 0x1000};
}  // namespace lvt

namespace svr {
inline constexpr u32 kEnabled = 1U << 8;
inline constexpr u32 kSuppressEoiBroadcast = 1U << 12;
inline constexpr u32 kStored = 0x13FF;
}  // namespace svr

/// SDM 3A, 10.5.3.
namespace esr {
inline constexpr u32 kSendIllegalVector = 1U << 5;
inline constexpr u32 kReceiveIllegalVector = 1U << 6;
inline constexpr u32 kIllegalRegister = 1U << 7;
inline constexpr u32 kStored = kSendIllegalVector | kReceiveIllegalVector | kIllegalRegister;
}  // namespace esr

/// One bit for each vector, as IRR, ISR and TMR are laid out.
using VectorSet = std::array<u32, 8>;

struct LocalApicState {
  u64 base = 0;  // IA32_APIC_BASE
  u8 tpr = 0;
  u32 ldr = 0;  // xAPIC; x2APIC derives it from the ID
  u32 dfr = 0xFFFFFFFF;
  u32 svr = 0xFF;
  VectorSet isr{};
  VectorSet tmr{};
  VectorSet irr{};
  u32 esr = 0;
  u32 esr_pending = 0;  // errors since the last write to ESR
  u64 icr = 0;
  std::array<u32, kLvtCount> lvt = {lvt::kMasked, lvt::kMasked, lvt::kMasked,
                                    lvt::kMasked, lvt::kMasked, lvt::kMasked};
  u32 timer_initial = 0;
  u32 timer_divide = 0;
  bool timer_armed = false;
  u64 timer_deadline_ns = 0;  // on the machine's clock
  u64 tsc_deadline = 0;       // in guest TSC ticks; 0 is disarmed
  bool pic_level = false;     // the PIC's output as last seen, for edges at LINT0

  template <typename Archive>
  void fields(Archive& a) {
    a("base", base);
    a("tpr", tpr);
    a("ldr", ldr);
    a("dfr", dfr);
    a("svr", svr);
    a("isr", isr);
    a("tmr", tmr);
    a("irr", irr);
    a("esr", esr);
    a("esr_pending", esr_pending);
    a("icr", icr);
    a("lvt", lvt);
    a("timer_initial", timer_initial);
    a("timer_divide", timer_divide);
    a("timer_armed", timer_armed);
    a("timer_deadline_ns", timer_deadline_ns);
    a("tsc_deadline", tsc_deadline);
    a("pic_level", pic_level);
  }
};

}  // namespace vert::cpu

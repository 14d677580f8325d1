// The registers of the local APIC, through MMIO (xAPIC) and MSRs (x2APIC), and the messages that writes send.
#include <bit>
#include <utility>

#include "cpu/local_apic_internal.hpp"

namespace vert::cpu {
namespace {

namespace reg = apic_register;

/// Version 14h, so many LVT entries, and SVR bit 12 (SDM 3A, 10.4.8).
constexpr u32 kVersionValue = 0x14 | (kLvtCount - 1) << 16 | 1U << 24;
constexpr u32 kDivideStored = 0xB;
constexpr u64 kIcrLowStored = 0x000C'CFFF;  // without delivery status, which is always idle
constexpr u64 kX2apicIcrReserved = 0xFFF3'2000;

constexpr bool in_range(u32 value, u32 first, u32 count) { return value - first < count; }

/// Bits that WRMSR may set in an x2APIC register; nothing if it cannot be written (SDM 3A, table 10-6).
std::optional<u64> x2apic_writable(u32 index) {
  if (in_range(index, reg::kLvt, kLvtCount))
    return lvt::kStored[index - reg::kLvt] | lvt::kReadOnly[index - reg::kLvt];
  switch (index) {
    case reg::kTpr:
    case reg::kSelfIpi: return 0xFF;
    case reg::kEoi:
    case reg::kEsr: return 0;
    case reg::kSvr: return svr::kStored;
    case reg::kIcrLow: return ~kX2apicIcrReserved;
    case reg::kTimerInitial: return 0xFFFFFFFF;
    case reg::kTimerDivide: return kDivideStored;
    default: return std::nullopt;
  }
}

void dispatch(LocalApic& self, ApicFabric& fabric, const ApicOutgoing& out) {
  if (out.eoi) fabric.end_of_interrupt(*out.eoi);
  if (!out.message) return;
  switch (out.target) {
    case ApicOutgoing::Target::kSelf: self.deliver(*out.message); return;
    case ApicOutgoing::Target::kOthers: fabric.send(*out.message, &self); return;
    case ApicOutgoing::Target::kAll:
    case ApicOutgoing::Target::kDestination: fabric.send(*out.message); return;
  }
}

}  // namespace

/// SDM 3A, 10.12.10.2: the x2APIC's logical ID follows from its ID.
u32 LocalApic::Impl::logical_id() const {
  return x2apic() ? owner.id_ >> 4 << 16 | 1U << (owner.id_ & 0xF) : state.ldr;
}

/// The registers that both modes have; nothing for any other.
std::optional<u32> LocalApic::Impl::read(u32 index) {
  if (in_range(index, reg::kIsr, 8)) return state.isr[index - reg::kIsr];
  if (in_range(index, reg::kTmr, 8)) return state.tmr[index - reg::kTmr];
  if (in_range(index, reg::kIrr, 8)) return state.irr[index - reg::kIrr];
  if (in_range(index, reg::kLvt, kLvtCount)) return state.lvt[index - reg::kLvt];
  switch (index) {
    case reg::kId: return x2apic() ? owner.id_ : owner.id_ << 24;
    case reg::kVersion: return kVersionValue;
    case reg::kTpr: return state.tpr;
    case reg::kPpr: return processor_priority();
    case reg::kLdr: return logical_id();
    case reg::kSvr: return state.svr;
    case reg::kEsr: return state.esr;
    case reg::kIcrLow: return static_cast<u32>(state.icr);
    case reg::kTimerInitial: return state.timer_initial;
    case reg::kTimerCurrent: return current_count();
    case reg::kTimerDivide: return state.timer_divide;
    default: return std::nullopt;
  }
}

/// The registers that both modes write alike; false for any other.
bool LocalApic::Impl::write(u32 index, u32 value, ApicOutgoing& out) {
  if (in_range(index, reg::kLvt, kLvtCount)) {
    write_lvt(static_cast<LvtEntry>(index - reg::kLvt), value);
    return true;
  }
  switch (index) {
    case reg::kTpr:
      state.tpr = static_cast<u8>(value);
      publish();
      return true;
    case reg::kEoi: end_of_interrupt(out); return true;
    case reg::kSvr: write_svr(value); return true;
    case reg::kEsr: state.esr = std::exchange(state.esr_pending, 0); return true;
    case reg::kTimerInitial: start_count(value); return true;
    case reg::kTimerDivide: write_timer_divide(value & kDivideStored); return true;
    default: return false;
  }
}

bool LocalApic::Impl::write_xapic(u32 index, u32 value, ApicOutgoing& out) {
  switch (index) {
    case reg::kLdr: state.ldr = value & 0xFF000000; break;
    case reg::kDfr: state.dfr = value | 0x0FFFFFFF; break;
    case reg::kIcrHigh: state.icr = (state.icr & 0xFFFFFFFF) | u64{value & 0xFF000000} << 32; break;
    case reg::kIcrLow:
      state.icr = (state.icr & ~u64{0xFFFFFFFF}) | (value & kIcrLowStored);
      send_ipi(state.icr, static_cast<u32>(state.icr >> 56), out);
      break;
    default:
      if (write(index, value, out)) return true;
      // Read-only registers ignore writes.
      return index == reg::kApr || index == reg::kRrd || read(index).has_value();
  }
  publish();
  return true;
}

bool LocalApic::Impl::write_x2apic(u32 index, u64 value, ApicOutgoing& out) {
  const std::optional<u64> writable = x2apic_writable(index);
  if (!writable || (value & ~*writable) != 0) return false;
  if (index == reg::kIcrLow) {
    state.icr = value & (u64{0xFFFFFFFF} << 32 | kIcrLowStored);
    send_ipi(state.icr, static_cast<u32>(value >> 32), out);
    return true;
  }
  if (index == reg::kSelfIpi) {
    constexpr u64 kShorthandSelf = 1U << 18;
    send_ipi(value | kShorthandSelf, 0, out);
    return true;
  }
  return write(index, static_cast<u32>(value), out);
}

void LocalApic::Impl::write_lvt(LvtEntry entry, u32 value) {
  const u32 forced = (state.svr & svr::kEnabled) == 0 ? lvt::kMasked : 0;  // SDM 3A, 10.4.7.2
  const u32 old = std::exchange(state.lvt[entry], (value & lvt::kStored[entry]) | forced);
  if (entry == kLvtTimer) timer_mode_changed(old & lvt::kTimerMode);
  publish();
}

void LocalApic::Impl::write_svr(u32 value) {
  state.svr = value & svr::kStored;
  if ((state.svr & svr::kEnabled) == 0)
    for (u32& entry : state.lvt) entry |= lvt::kMasked;
  publish();
}

// SDM 3A, 10.8.5.
void LocalApic::Impl::end_of_interrupt(ApicOutgoing& out) {
  for (unsigned word = 8; word-- > 0;) {
    if (state.isr[word] == 0) continue;
    const u32 bit = std::bit_floor(state.isr[word]);
    state.isr[word] &= ~bit;
    if ((state.tmr[word] & bit) != 0 && (state.svr & svr::kSuppressEoiBroadcast) == 0)
      out.eoi = static_cast<u8>(word * 32 + static_cast<unsigned>(std::countr_zero(bit)));
    return publish();
  }
}

// SDM 3A, 10.6.1. The trigger and level bits mean something for INIT only.
void LocalApic::Impl::send_ipi(u64 icr, u32 destination, ApicOutgoing& out) {
  const u32 mode = icr >> 8 & 7;
  if (mode == 3 || mode == std::to_underlying(DeliveryMode::kExtInt)) return;  // reserved
  InterruptMessage message;
  message.destination = destination;
  message.logical = (icr >> 11 & 1) != 0;
  message.mode = static_cast<DeliveryMode>(mode);
  message.vector = static_cast<u8>(icr);
  const bool vectored = message.mode == DeliveryMode::kFixed || message.mode == DeliveryMode::kLowestPriority;
  if (vectored && message.vector < 16) return error(esr::kSendIllegalVector);
  if (message.mode == DeliveryMode::kInit) {
    message.level_triggered = (icr >> 15 & 1) != 0;
    message.assert_level = (icr >> 14 & 1) != 0;
  }
  out.target = static_cast<ApicOutgoing::Target>(icr >> 18 & 3);
  if (out.target == ApicOutgoing::Target::kAll || out.target == ApicOutgoing::Target::kOthers) {
    message.destination = kBroadcastDestination;
    message.logical = false;
  }
  out.message = message;
}

u32 LocalApic::mmio_read(u32 offset) {
  const std::lock_guard lock(impl_->mutex);
  Impl& apic = *impl_;
  if (!apic.enabled() || apic.x2apic()) return 0xFFFFFFFF;
  const u32 index = offset >> 4;
  u32 value = 0;
  switch (index) {
    case reg::kApr:
    case reg::kEoi:
    case reg::kRrd: break;
    case reg::kDfr: value = apic.state.dfr; break;
    case reg::kIcrHigh: value = static_cast<u32>(apic.state.icr >> 32); break;
    default:
      if (const std::optional<u32> known = apic.read(index))
        value = *known;
      else
        apic.error(esr::kIllegalRegister);
  }
  return (offset & 0xC) == 0 ? value >> (offset % 4 * 8) : 0;
}

void LocalApic::mmio_write(u32 offset, u32 value) {
  if (offset % 16 != 0) return;
  ApicOutgoing out;
  {
    const std::lock_guard lock(impl_->mutex);
    if (!impl_->enabled() || impl_->x2apic()) return;
    if (!impl_->write_xapic(offset >> 4, value, out)) impl_->error(esr::kIllegalRegister);
  }
  dispatch(*this, impl_->fabric, out);
}

std::optional<u64> LocalApic::msr_read(u32 index) {
  const u32 first = std::to_underlying(x86::Msr::IA32_X2APIC_FIRST);
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->x2apic() || !in_range(index, first, 0x100)) return std::nullopt;
  if (index - first == reg::kIcrLow) return impl_->state.icr;
  return impl_->read(index - first);
}

bool LocalApic::msr_write(u32 index, u64 value) {
  const u32 first = std::to_underlying(x86::Msr::IA32_X2APIC_FIRST);
  ApicOutgoing out;
  {
    const std::lock_guard lock(impl_->mutex);
    if (!impl_->x2apic() || !in_range(index, first, 0x100)) return false;
    if (!impl_->write_x2apic(index - first, value, out)) return false;
  }
  dispatch(*this, impl_->fabric, out);
  return true;
}

}  // namespace vert::cpu

#include "device/irqchip/io_apic.hpp"

#include <algorithm>

namespace vert::device {
namespace {

// Memory-mapped registers.
constexpr u64 kSelect = 0x00;
constexpr u64 kWindow = 0x10;
constexpr u64 kEoi = 0x40;

// What the select register names.
constexpr u8 kIdRegister = 0x00;
constexpr u8 kVersionRegister = 0x01;
constexpr u8 kArbitrationRegister = 0x02;
constexpr u8 kFirstEntry = 0x10;

constexpr u32 kVersion = 0x20 | (IoApic::kPins - 1) << 16;

// Redirection entries (82093AA, 3.2.4).
constexpr u64 kRemoteIrr = u64{1} << 14;
constexpr u64 kLevelTriggered = u64{1} << 15;
constexpr u64 kWritable = 0xFF00'0000'0001'AFFF;  // all but delivery status, remote IRR and reserved bits

constexpr cpu::DeliveryMode mode_of(u64 entry) { return static_cast<cpu::DeliveryMode>(entry >> 8 & 7); }

/// NMI, SMI and INIT are edges, whatever the trigger bit says.
constexpr bool is_level(u64 entry) {
  const cpu::DeliveryMode mode = mode_of(entry);
  return (entry & kLevelTriggered) != 0 &&
         (mode == cpu::DeliveryMode::kFixed || mode == cpu::DeliveryMode::kLowestPriority);
}

constexpr bool is_reserved(cpu::DeliveryMode mode) {
  return mode == cpu::DeliveryMode::kStartUp || static_cast<unsigned>(mode) == 3;
}

}  // namespace

u64 IoApic::read(u64 offset, unsigned /*size*/) {
  const std::lock_guard lock(mutex_);
  if (offset == kSelect) return state_.select;
  return offset == kWindow ? read_register() : 0;
}

void IoApic::write(u64 offset, unsigned /*size*/, u64 value) {
  if (offset == kEoi) return end_of_interrupt(static_cast<u8>(value));
  const std::lock_guard lock(mutex_);
  if (offset == kSelect) state_.select = static_cast<u8>(value);
  if (offset == kWindow) write_register(static_cast<u32>(value));
}

u32 IoApic::read_register() const {
  switch (state_.select) {
    case kIdRegister:
    case kArbitrationRegister: return u32{state_.id} << 24;
    case kVersionRegister: return kVersion;
    default: break;
  }
  const unsigned index = state_.select - unsigned{kFirstEntry};
  if (index >= kPins * 2) return 0;
  return static_cast<u32>(state_.entries[index / 2] >> (index % 2 * 32));
}

void IoApic::write_register(u32 value) {
  if (state_.select == kIdRegister) state_.id = value >> 24 & 0xF;
  const unsigned index = state_.select - unsigned{kFirstEntry};
  if (index < kPins * 2) write_entry(index / 2, index % 2 != 0, value);
}

void IoApic::write_entry(unsigned pin, bool high, u32 value) {
  u64& entry = state_.entries[pin];
  const u64 half = high ? u64{0xFFFFFFFF} << 32 : u64{0xFFFFFFFF};
  const u64 mask = half & kWritable;
  entry = (entry & ~mask) | ((high ? u64{value} << 32 : u64{value}) & mask);
  // An edge-triggered pin has no remote IRR: guests clear a stuck one by this detour.
  if (!is_level(entry)) entry &= ~kRemoteIrr;
  serve_level(pin);
}

bool IoApic::send(unsigned pin) {
  const u64 entry = state_.entries[pin];
  if (is_reserved(mode_of(entry))) return false;
  cpu::InterruptMessage message;
  const u32 destination = static_cast<u32>(entry >> 56);
  message.destination = destination == 0xFF ? cpu::kBroadcastDestination : destination;
  message.logical = (entry >> 11 & 1) != 0;
  message.mode = mode_of(entry);
  message.vector = static_cast<u8>(entry);
  message.level_triggered = is_level(entry);
  return fabric_.send(message);
}

/// Sends for an asserted, unmasked level pin that waits for no EOI.
void IoApic::serve_level(unsigned pin) {
  u64& entry = state_.entries[pin];
  if (!is_level(entry) || (entry & (IoApicState::kMasked | kRemoteIrr)) != 0) return;
  if ((state_.levels >> pin & 1) == 0) return;
  if (send(pin)) entry |= kRemoteIrr;
}

void IoApic::set_pin(unsigned pin, bool asserted) {
  if (pin >= kPins) return;
  const std::lock_guard lock(mutex_);
  const u32 bit = 1U << pin;
  const bool rising = asserted && (state_.levels & bit) == 0;
  state_.levels = asserted ? state_.levels | bit : state_.levels & ~bit;
  if (!rising) return;
  if (is_level(state_.entries[pin])) return serve_level(pin);
  // An edge on a masked pin is lost (82093AA, 3.2.4, bit 16), and one that nobody takes as well.
  if ((state_.entries[pin] & IoApicState::kMasked) == 0) static_cast<void>(send(pin));
}

void IoApic::end_of_interrupt(u8 vector) {
  const std::lock_guard lock(mutex_);
  for (unsigned pin = 0; pin < kPins; ++pin) {
    u64& entry = state_.entries[pin];
    if ((entry & kRemoteIrr) == 0 || static_cast<u8>(entry) != vector) continue;
    entry &= ~kRemoteIrr;
    serve_level(pin);
  }
}

bool IoApic::sends_unmaskable() {
  const std::lock_guard lock(mutex_);
  return std::ranges::any_of(state_.entries, [](u64 entry) {
    const cpu::DeliveryMode mode = mode_of(entry);
    return (entry & IoApicState::kMasked) == 0 &&
           (mode == cpu::DeliveryMode::kNmi || mode == cpu::DeliveryMode::kInit);
  });
}

void IoApic::reset() {
  const std::lock_guard lock(mutex_);
  const u32 levels = state_.levels;
  state_ = {};
  state_.levels = levels;
}

namespace {

constexpr const char* kComponent = "io-apic";
constexpr u32 kStateVersion = 1;

bool legal(const IoApicState& state) {
  if (state.id > 0xF || state.levels >> IoApic::kPins != 0) return false;
  for (const u64 entry : state.entries) {
    if ((entry & ~(kWritable | kRemoteIrr)) != 0) return false;
    if ((entry & kRemoteIrr) != 0 && !is_level(entry)) return false;
  }
  return true;
}

}  // namespace

base::Document IoApic::save() {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kStateVersion, state_);
}

/// Sends nothing: what was sent before is in the local APICs' state.
Status IoApic::restore(const base::Document& document) {
  VERT_ASSIGN(const IoApicState state, base::restore<IoApicState>(kComponent, kStateVersion, document));
  if (!legal(state)) return make_error("saved state of {} has an impossible entry", kComponent);
  const std::lock_guard lock(mutex_);
  state_ = state;
  return {};
}

}  // namespace vert::device

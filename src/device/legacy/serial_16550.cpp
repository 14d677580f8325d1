#include "device/legacy/serial_16550.hpp"

#include <algorithm>

namespace vert::device {
namespace {

constexpr u8 kIerReceived = 0x01;
constexpr u8 kIerTransmit = 0x02;
constexpr u8 kIerLineStatus = 0x04;
constexpr u8 kIerModemStatus = 0x08;

constexpr u8 kFcrEnable = 0x01;
constexpr u8 kFcrClearReceiver = 0x02;
constexpr u8 kFcrKept = 0xc9;  // the two clear bits go back to 0 by themselves

constexpr u8 kLcrBreak = 0x40;
constexpr u8 kLcrDivisorAccess = 0x80;

constexpr u8 kLsrDataReady = 0x01;
constexpr u8 kLsrOverrun = 0x02;
constexpr u8 kLsrBreak = 0x10;
constexpr u8 kLsrCharacterErrors = 0x1c;
constexpr u8 kLsrTransmitterEmpty = 0x60;
constexpr u8 kLsrFifoError = 0x80;

constexpr u8 kMcrOut2 = 0x08;
constexpr u8 kMcrLoopback = 0x10;

constexpr u8 kMsrRing = 0x40;
constexpr u8 kMsrConnected = 0xb0;  // DCD, DSR, CTS

constexpr u8 kIirNone = 0x01;
constexpr u8 kIirModemStatus = 0x00;
constexpr u8 kIirTransmit = 0x02;
constexpr u8 kIirReceived = 0x04;
constexpr u8 kIirLineStatus = 0x06;
constexpr u8 kIirTimeout = 0x0c;
constexpr u8 kIirFifosEnabled = 0xc0;

constexpr u64 kInputClock = 115'200;  // 1.8432 MHz / 16
constexpr u64 kLongestTimeoutNs = 10'000'000;

constexpr const char* kComponent = "serial-16550";
constexpr u32 kVersion = 1;

}  // namespace

Serial16550::Serial16550(base::TimeService& time, InterruptLine& line, Output output)
    : time_(time),
      line_(line),
      output_(std::move(output)),
      range_(
          kPorts, [this](u64 offset) { return read(offset); },
          [this](u64 offset, u8 value) { write(offset, value); }),
      timer_(time.make_timer([this] { on_timer(); })) {}

Status Serial16550::map(memory::Bus& ports, u64 base) { return ports.map(base, kPorts, range_, "serial"); }

bool Serial16550::loopback() const { return (state_.mcr & kMcrLoopback) != 0; }

unsigned Serial16550::trigger_level() const {
  static constexpr std::array<unsigned, 4> kLevels{1, 4, 8, 14};
  return fifo_enabled() ? kLevels[state_.fcr >> 6] : 1;
}

u8 Serial16550::modem_inputs() const {
  if (!loopback()) return kMsrConnected;
  // PC16550D, 8.6.7: RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD.
  const unsigned mcr = state_.mcr;
  return static_cast<u8>((mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4);
}

u8 Serial16550::interrupt_identification() const {
  // PC16550D, table IV: in order of priority.
  const bool line_error =
      state_.overrun || (state_.fifo_count > 0 && (state_.fifo_errors[0] & kLsrCharacterErrors) != 0);
  if ((state_.ier & kIerLineStatus) != 0 && line_error) return kIirLineStatus;
  if ((state_.ier & kIerReceived) != 0) {
    if (state_.fifo_count >= trigger_level()) return kIirReceived;
    if (state_.timeout_interrupt) return kIirTimeout;
  }
  if ((state_.ier & kIerTransmit) != 0 && state_.transmit_interrupt) return kIirTransmit;
  if ((state_.ier & kIerModemStatus) != 0 && state_.msr_delta != 0) return kIirModemStatus;
  return kIirNone;
}

void Serial16550::update_line() {
  line_.set(interrupt_identification() != kIirNone && (state_.mcr & kMcrOut2) != 0);
}

std::size_t Serial16550::receive(std::span<const u8> bytes) {
  const std::lock_guard lock(mutex_);
  std::size_t taken = 0;
  while (taken < bytes.size() && !loopback() && state_.fifo_count < capacity()) push(bytes[taken++], 0);
  if (taken < bytes.size()) state_.input_refused = true;
  update_line();
  return taken;
}

bool Serial16550::take_ready() {
  if (!state_.input_refused || loopback() || state_.fifo_count != 0) return false;
  state_.input_refused = false;
  return true;
}

u8 Serial16550::read(u64 offset) {
  bool ready = false;
  u8 value = 0;
  {
    const std::lock_guard lock(mutex_);
    value = read_locked(offset);
    update_line();
    ready = take_ready();
  }
  if (ready && on_ready_) on_ready_();
  return value;
}

u8 Serial16550::read_locked(u64 offset) {
  const bool divisor = (state_.lcr & kLcrDivisorAccess) != 0;
  switch (offset) {
    case 0: return divisor ? static_cast<u8>(state_.divisor) : read_receiver();
    case 1: return divisor ? static_cast<u8>(state_.divisor >> 8) : state_.ier;
    case 2: return read_interrupt_identification();
    case 3: return state_.lcr;
    case 4: return state_.mcr;
    case 5: return read_line_status();
    case 6: return read_modem_status();
    default: return state_.scratch;
  }
}

u8 Serial16550::read_receiver() {
  if (state_.fifo_count == 0) return 0;
  const u8 value = state_.fifo[0];
  std::shift_left(state_.fifo.begin(), state_.fifo.end(), 1);
  std::shift_left(state_.fifo_errors.begin(), state_.fifo_errors.end(), 1);
  --state_.fifo_count;
  start_character_timeout();
  return value;
}

u8 Serial16550::read_interrupt_identification() {
  const u8 source = interrupt_identification();
  if (source == kIirTransmit) state_.transmit_interrupt = false;
  return static_cast<u8>(source | (fifo_enabled() ? kIirFifosEnabled : 0));
}

u8 Serial16550::read_line_status() {
  unsigned value = kLsrTransmitterEmpty;
  if (state_.overrun) value |= kLsrOverrun;
  if (state_.fifo_count > 0) value |= kLsrDataReady | state_.fifo_errors[0];
  const auto held = std::span(state_.fifo_errors).first(state_.fifo_count);
  if (fifo_enabled() && std::ranges::any_of(held, [](u8 errors) { return errors != 0; }))
    value |= kLsrFifoError;
  state_.overrun = false;
  if (state_.fifo_count > 0) state_.fifo_errors[0] = 0;
  return static_cast<u8>(value);
}

u8 Serial16550::read_modem_status() {
  const u8 value = modem_inputs() | state_.msr_delta;
  state_.msr_delta = 0;
  return value;
}

void Serial16550::write(u64 offset, u8 value) {
  bool out = false;
  bool ready = false;
  {
    const std::lock_guard lock(mutex_);
    if (offset == 0 && (state_.lcr & kLcrDivisorAccess) == 0) {
      out = transmit(value);
    } else {
      write_register(offset, value);
    }
    update_line();
    ready = take_ready();
  }
  if (out) output_({&value, 1});
  if (ready && on_ready_) on_ready_();
}

bool Serial16550::transmit(u8 value) {
  // Filling the holding register takes the interrupt back, emptying it raises it anew: an edge for the 8259.
  state_.transmit_interrupt = false;
  update_line();
  state_.transmit_interrupt = true;
  const bool in_break = (state_.lcr & kLcrBreak) != 0;
  if (loopback() && !in_break) push(value, 0);
  return !loopback() && !in_break;
}

void Serial16550::write_register(u64 offset, u8 value) {
  const bool divisor = (state_.lcr & kLcrDivisorAccess) != 0;
  switch (offset) {
    case 0: state_.divisor = static_cast<u16>((state_.divisor & 0xff00) | value); break;
    case 1:
      if (divisor) {
        state_.divisor = static_cast<u16>((state_.divisor & 0x00ff) | value << 8);
      } else {
        write_interrupt_enable(value);
      }
      break;
    case 2: write_fifo_control(value); break;
    case 3: write_line_control(value); break;
    case 4: write_modem_control(value); break;
    case 7: state_.scratch = value; break;
    default: break;  // LSR is for factory tests only, MSR is read-only
  }
}

void Serial16550::write_interrupt_enable(u8 value) {
  const u8 before = state_.ier;
  state_.ier = value & 0x0f;
  // The transmitter is empty, so that enabling its interrupt raises it (PC16550D, 8.6.4).
  if ((~before & state_.ier & kIerTransmit) != 0) state_.transmit_interrupt = true;
}

void Serial16550::write_fifo_control(u8 value) {
  const bool switched = ((state_.fcr ^ value) & kFcrEnable) != 0;
  if (switched || (value & kFcrClearReceiver) != 0) clear_receiver();
  // The other bits count only while bit 0 is written as 1 (PC16550D, 8.6.2).
  state_.fcr = (value & kFcrEnable) != 0 ? value & kFcrKept : 0;
}

void Serial16550::write_line_control(u8 value) {
  const bool break_begins = (~state_.lcr & value & kLcrBreak) != 0;
  state_.lcr = value;
  if (break_begins && loopback()) push(0, kLsrBreak);
}

void Serial16550::write_modem_control(u8 value) {
  const u8 before = modem_inputs();
  state_.mcr = value & 0x1f;
  const u8 after = modem_inputs();
  u8 delta = static_cast<u8>((before ^ after) >> 4);
  // RI counts when it ends only (TERI).
  if ((before & ~after & kMsrRing) == 0) delta &= static_cast<u8>(~(kMsrRing >> 4));
  state_.msr_delta |= delta;
}

void Serial16550::push(u8 value, u8 errors) {
  if (state_.fifo_count == capacity()) {
    // Overrun: the FIFO keeps what it has; without it the new byte replaces the old (PC16550D, 8.6.3).
    state_.overrun = true;
    if (fifo_enabled()) return;
    --state_.fifo_count;
  }
  state_.fifo[state_.fifo_count] = value;
  state_.fifo_errors[state_.fifo_count] = errors;
  ++state_.fifo_count;
  start_character_timeout();
}

void Serial16550::clear_receiver() {
  state_.fifo_count = 0;
  state_.fifo_errors.fill(0);
  start_character_timeout();
}

void Serial16550::start_character_timeout() {
  state_.timeout_interrupt = false;
  if (!fifo_enabled() || state_.fifo_count == 0) {
    state_.timeout_deadline_ns = 0;
    return timer_->cancel();
  }
  // Four characters (PC16550D, 8.6.4) of at most 12 bits, but never so slow that a user would notice.
  const u64 divisor = state_.divisor == 0 ? 0x10000 : state_.divisor;
  const u64 four_characters = 4 * 12 * divisor * base::kNanosecondsPerSecond / kInputClock;
  state_.timeout_deadline_ns = time_.now_ns() + std::min(four_characters, kLongestTimeoutNs);
  timer_->arm(state_.timeout_deadline_ns);
}

void Serial16550::on_timer() {
  const std::lock_guard lock(mutex_);
  if (state_.timeout_deadline_ns == 0 || time_.now_ns() < state_.timeout_deadline_ns) return;
  state_.timeout_deadline_ns = 0;
  state_.timeout_interrupt = state_.fifo_count > 0;
  update_line();
}

base::Document Serial16550::save() const {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kVersion, state_);
}

Status Serial16550::restore(const base::Document& document) {
  VERT_ASSIGN(const Serial16550State state, base::restore<Serial16550State>(kComponent, kVersion, document));
  const unsigned capacity = (state.fcr & kFcrEnable) != 0 ? 16 : 1;
  const bool good =
      state.ier <= 0x0f && (state.fcr & ~kFcrKept) == 0 && state.mcr <= 0x1f && state.msr_delta <= 0x0f &&
      state.fifo_count <= capacity &&
      std::ranges::all_of(state.fifo_errors, [](u8 e) { return (e & ~kLsrCharacterErrors) == 0; });
  if (!good) return make_error("saved state of the serial port is out of range");
  const std::lock_guard lock(mutex_);
  state_ = state;
  if (state_.timeout_deadline_ns != 0) {
    state_.timeout_deadline_ns = std::min(state_.timeout_deadline_ns, time_.now_ns() + kLongestTimeoutNs);
    timer_->arm(state_.timeout_deadline_ns);
  } else {
    timer_->cancel();
  }
  update_line();
  return {};
}

void Serial16550::reset() {
  const std::lock_guard lock(mutex_);
  const bool refused = state_.input_refused;
  state_ = {};
  state_.input_refused = refused;
  timer_->cancel();
  update_line();
}

}  // namespace vert::device

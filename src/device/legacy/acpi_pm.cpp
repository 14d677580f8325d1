#include "device/legacy/acpi_pm.hpp"

#include "device/legacy/tick_clock.hpp"

namespace vert::device {
namespace {

constexpr u64 kPmPorts = 0x80;

constexpr u16 kTimerStatus = 0x0001;  // the same bits in PM1_STS and PM1_EN
constexpr u16 kGlobal = 0x0020;
constexpr u16 kPowerButton = 0x0100;
constexpr u16 kSleepButton = 0x0200;
constexpr u16 kRtc = 0x0400;
constexpr u16 kEvents = kTimerStatus | kGlobal | kPowerButton | kSleepButton | kRtc;

constexpr u16 kSciEnable = 0x0001;
constexpr u16 kSleepTypeMask = 0x1c00;
constexpr unsigned kSleepTypeShift = 10;
constexpr u16 kSleepEnable = 0x2000;
constexpr u16 kControlKept = kSciEnable | 0x0002 /* BM_RLD */ | kSleepTypeMask;
constexpr unsigned kSleepTypeS5OfIch9 = 7;  // the chip's own code; guests that know the chip write it

constexpr const char* kComponent = "acpi-pm";
constexpr u32 kVersion = 1;

constexpr u16 with_byte(u16 word, unsigned byte, u8 value) {
  return static_cast<u16>((word & ~(0xffu << (byte * 8))) | unsigned{value} << (byte * 8));
}

}  // namespace

AcpiPm::AcpiPm(base::TimeService& time, InterruptLine& sci, TimerWidth width, std::function<void()> power_off)
    : time_(time),
      sci_(sci),
      timer_bits_(static_cast<unsigned>(width)),
      power_off_(std::move(power_off)),
      smi_ports_(
          2, [this](u64 offset) { return read_smi(offset); },
          [this](u64 offset, u8 value) { write_smi(offset, value); }),
      timer_(time.make_timer([this] { on_timer(); })) {
  state_.seen_carries = ticks() >> (timer_bits_ - 1);
}

Status AcpiPm::map(memory::Bus& ports) {
  VERT_TRY(ports.map(kAcpiPmBase, kPmPorts, *this, "acpi-pm"));
  return ports.map(kAcpiSmiCommandPort, 2, smi_ports_, "smi-command");
}

u64 AcpiPm::ticks() const { return ticks_at(time_.now_ns(), kAcpiPmTimerHertz); }

u64 AcpiPm::read(u64 offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  sync();
  const u64 mask = (u64{1} << timer_bits_) - 1;
  const u32 timer = static_cast<u32>(ticks() & mask);
  u64 value = 0;
  for (unsigned i = 0; i < size; ++i) value |= u64{read_byte(offset + i, timer)} << (i * 8);
  return value;
}

u8 AcpiPm::read_byte(u64 offset, u32 timer) const {
  const auto byte_of = [offset](u32 value) { return static_cast<u8>(value >> (offset % 4 * 8)); };
  switch (offset & ~u64{3}) {
    case 0: return byte_of(state_.status | u32{state_.enable} << 16);
    case 4: return byte_of(state_.control);
    case 8: return byte_of(timer);
    default: return 0;
  }
}

void AcpiPm::write(u64 offset, unsigned size, u64 value) {
  bool power_off = false;
  {
    const std::lock_guard lock(mutex_);
    sync();
    for (unsigned i = 0; i < size; ++i) {
      const u8 byte = static_cast<u8>(value >> (i * 8));
      const u64 at = offset + i;
      const unsigned in_word = at & 1;
      switch (at & ~u64{1}) {
        case 0: state_.status &= static_cast<u16>(~(unsigned{byte} << (in_word * 8))); break;  // 1 clears
        case 2: state_.enable = with_byte(state_.enable, in_word, byte) & kEvents; break;
        case 4: power_off = write_control(in_word, byte) || power_off; break;
        default: break;
      }
    }
    sync();
  }
  if (power_off && power_off_) power_off_();
}

bool AcpiPm::write_control(unsigned byte, u8 value) {
  const u16 written = with_byte(state_.control, byte, value);
  state_.control = written & kControlKept;
  const unsigned type = (written & kSleepTypeMask) >> kSleepTypeShift;
  return (written & kSleepEnable) != 0 && (type == kAcpiSleepTypeS5 || type == kSleepTypeS5OfIch9);
}

u8 AcpiPm::read_smi(u64 offset) {
  const std::lock_guard lock(mutex_);
  return offset == 0 ? state_.smi_command : state_.smi_data;
}

void AcpiPm::write_smi(u64 offset, u8 value) {
  const std::lock_guard lock(mutex_);
  if (offset == 1) {
    state_.smi_data = value;
    return;
  }
  state_.smi_command = value;
  if (value == kAcpiEnableCommand) state_.control |= kSciEnable;
  if (value == kAcpiDisableCommand) state_.control &= static_cast<u16>(~kSciEnable);
  sync();
}

void AcpiPm::press_power_button() {
  const std::lock_guard lock(mutex_);
  state_.status |= kPowerButton;
  sync();
}

void AcpiPm::on_timer() {
  const std::lock_guard lock(mutex_);
  armed_ns_.reset();
  sync();
}

/// Brings TMR_STS, the SCI and the timer in line with everything else.
void AcpiPm::sync() {
  const u64 carries = ticks() >> (timer_bits_ - 1);
  if (carries > state_.seen_carries) state_.status |= kTimerStatus;
  state_.seen_carries = carries;

  const bool sci_enabled = (state_.control & kSciEnable) != 0;
  sci_.set(sci_enabled && (state_.status & state_.enable) != 0);

  std::optional<u64> deadline;
  if (sci_enabled && (state_.enable & ~state_.status & kTimerStatus) != 0)
    deadline = time_of_tick((carries + 1) << (timer_bits_ - 1), kAcpiPmTimerHertz);
  if (deadline == armed_ns_) return;
  armed_ns_ = deadline;
  if (deadline) {
    timer_->arm(*deadline);
  } else {
    timer_->cancel();
  }
}

base::Document AcpiPm::save() const {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kVersion, state_);
}

Status AcpiPm::restore(const base::Document& document) {
  VERT_ASSIGN(const AcpiPmState state, base::restore<AcpiPmState>(kComponent, kVersion, document));
  if ((state.status & ~kEvents) != 0 || (state.enable & ~kEvents) != 0 ||
      (state.control & ~kControlKept) != 0)
    return make_error("saved state of the ACPI power management is out of range");
  const std::lock_guard lock(mutex_);
  state_ = state;
  sync();
  return {};
}

void AcpiPm::reset() {
  const std::lock_guard lock(mutex_);
  state_ = {};
  state_.seen_carries = ticks() >> (timer_bits_ - 1);
  sync();
}

}  // namespace vert::device

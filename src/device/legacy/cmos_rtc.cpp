#include "device/legacy/cmos_rtc.hpp"

#include <algorithm>
#include <chrono>

#include "device/legacy/tick_clock.hpp"

namespace vert::device {
namespace {

constexpr u64 kBase = 0x70;
constexpr i64 kSecond = 1'000'000'000;
constexpr i64 kSecondsPerDay = 86'400;
constexpr u64 kCrystalHertz = 32'768;
// UIP rises 244 us before an update of 1984 us (MC146818, Update cycle); the new second shows after it.
constexpr i64 kUpdateNs = 244'000 + 1'984'000;
// Alarms are looked at again by then, in case the host's clock is set meanwhile.
constexpr u64 kLongestSleepNs = 60 * base::kNanosecondsPerSecond;
// Keeps nanoseconds since 1970 far from overflow: about 146 years either way.
constexpr i64 kFarthestOffset = i64{1} << 62;

constexpr u8 kSeconds = 0x00;
constexpr u8 kSecondsAlarm = 0x01;
constexpr u8 kMinutes = 0x02;
constexpr u8 kMinutesAlarm = 0x03;
constexpr u8 kHours = 0x04;
constexpr u8 kHoursAlarm = 0x05;
constexpr u8 kWeekday = 0x06;
constexpr u8 kDay = 0x07;
constexpr u8 kMonth = 0x08;
constexpr u8 kYear = 0x09;
constexpr u8 kA = 0x0a;
constexpr u8 kB = 0x0b;
constexpr u8 kC = 0x0c;
constexpr u8 kD = 0x0d;
constexpr u8 kCentury = 0x32;

constexpr u8 kAUpdateInProgress = 0x80;
constexpr u8 kADefault = 0x26;  // 32 768 Hz crystal, 1024 Hz periodic rate, as every BIOS sets it
constexpr u8 kBSet = 0x80;
constexpr u8 kBInterrupts = 0x70;
constexpr u8 kBSquareWave = 0x08;
constexpr u8 kBBinary = 0x04;
constexpr u8 kB24Hours = 0x02;
constexpr u8 kPeriodic = 0x40;  // the same bits enable in B and flag in C
constexpr u8 kAlarm = 0x20;
constexpr u8 kUpdate = 0x10;
constexpr u8 kCInterrupt = 0x80;
constexpr u8 kDValid = 0x80;
constexpr u8 kAfternoon = 0x80;

constexpr const char* kComponent = "cmos-rtc";
constexpr u32 kVersion = 1;

constexpr bool is_time(u8 index) {
  return (index <= kYear && (index % 2 == 0 || index >= kWeekday)) || index == kCentury;
}

constexpr i64 floor_div(i64 a, i64 b) { return a / b - (a % b < 0 ? 1 : 0); }

/// The divider chain is held in reset by 110 and 111 in bits 6-4 of A.
constexpr bool divider_reset(u8 a) { return (a & 0x60) == 0x60; }

int weekday_of(i64 day) { return static_cast<int>((day % 7 + 7 + 4) % 7); }  // 1970-01-01 was a Thursday

}  // namespace

CmosRtc::CmosRtc(base::TimeService& time, WallClock wall, InterruptLine& line, u64 memory_below_4g,
                 u64 memory_above_4g)
    : time_(time),
      wall_(std::move(wall)),
      line_(line),
      range_(
          2, [this](u64 offset) { return read(offset); },
          [this](u64 offset, u8 value) { write(offset, value); }),
      timer_(time.make_timer([this] { on_timer(); })) {
  state_.ram[kA] = kADefault;
  state_.ram[kB] = kB24Hours;
  state_.seen_second = floor_div(guest_ns(), kSecond);
  state_.seen_tick = ticks_at(time_.now_ns(), kCrystalHertz);
  set_memory_sizes(memory_below_4g, memory_above_4g);
}

Status CmosRtc::map(memory::Bus& ports) { return ports.map(kBase, 2, range_, "cmos-rtc"); }

void CmosRtc::set_memory_sizes(u64 below_4g, u64 above_4g) {
  const auto put = [this](u8 index, u64 value, unsigned bytes) {
    const u64 limited = std::min(value, (u64{1} << (bytes * 8)) - 1);
    for (unsigned i = 0; i < bytes; ++i) state_.ram[index + i] = static_cast<u8>(limited >> (i * 8));
  };
  const auto above = [](u64 size, u64 base) { return size > base ? size - base : 0; };
  constexpr u64 kKiB = 1024;
  constexpr u64 kMiB = 1024 * kKiB;
  put(0x15, std::min(below_4g / kKiB, u64{640}), 2);
  put(0x17, above(below_4g, kMiB) / kKiB, 2);
  put(0x30, above(below_4g, kMiB) / kKiB, 2);
  put(0x34, above(below_4g, 16 * kMiB) / (64 * kKiB), 2);
  put(0x5b, above_4g / (64 * kKiB), 3);
}

u8 CmosRtc::read(u64 offset) {
  const std::lock_guard lock(mutex_);
  if (offset == 0) return 0xff;  // the index is write-only
  collect();
  const u8 value = read_register(state_.index);
  arm();
  return value;
}

void CmosRtc::write(u64 offset, u8 value) {
  const std::lock_guard lock(mutex_);
  if (offset == 0) {
    state_.index = value & 0x7f;
    return;
  }
  collect();
  write_register(state_.index, value);
  update_line();
  arm();
}

u8 CmosRtc::read_register(u8 index) {
  if (is_time(index)) {
    if (!held()) show_time(guest_ns());
    return state_.ram[index];
  }
  switch (index) {
    case kA: return static_cast<u8>(state_.ram[kA] | (update_in_progress() ? kAUpdateInProgress : 0));
    case kC: return read_c();
    case kD: return kDValid;
    default: return state_.ram[index];
  }
}

u8 CmosRtc::read_c() {
  const bool interrupt = (state_.ram[kC] & state_.ram[kB] & kBInterrupts) != 0;
  const u8 value = static_cast<u8>(state_.ram[kC] | (interrupt ? kCInterrupt : 0));
  state_.ram[kC] = 0;
  update_line();
  return value;
}

void CmosRtc::write_register(u8 index, u8 value) {
  if (is_time(index)) return write_time(index, value);
  switch (index) {
    case kA: return write_a(value);
    case kB: return write_b(value);
    case kC:
    case kD: return;
    default: state_.ram[index] = value;
  }
}

void CmosRtc::write_time(u8 index, u8 value) {
  if (held()) {
    state_.ram[index] = value;
    return;
  }
  const i64 nanoseconds = guest_ns();
  show_time(nanoseconds);
  state_.ram[index] = value;
  set_time(nanoseconds - floor_div(nanoseconds, kSecond) * kSecond);
}

bool CmosRtc::held() const { return (state_.ram[kB] & kBSet) != 0 || divider_reset(state_.ram[kA]); }

void CmosRtc::write_a(u8 value) {
  const bool was_held = held();
  const bool divider_was_reset = divider_reset(state_.ram[kA]);
  if (!was_held) show_time(guest_ns());
  state_.ram[kA] = value & 0x7f;
  after_hold_change(was_held, divider_was_reset);
}

void CmosRtc::write_b(u8 value) {
  const bool was_held = held();
  if (!was_held) show_time(guest_ns());
  state_.ram[kB] = value;
  if ((value & kBSet) != 0) state_.ram[kB] &= static_cast<u8>(~kUpdate);  // SET clears UIE (MC146818)
  after_hold_change(was_held, false);
}

void CmosRtc::after_hold_change(bool was_held, bool divider_was_reset) {
  if (!was_held || held()) return;
  // The first update comes half a second after the divider starts (MC146818, Divider Stages).
  set_time(divider_was_reset ? kSecond / 2 : 0);
}

bool CmosRtc::update_in_progress() const {
  if (held()) return false;
  const i64 nanoseconds = guest_ns();
  return nanoseconds - floor_div(nanoseconds, kSecond) * kSecond >= kSecond - kUpdateNs;
}

u8 CmosRtc::encode(int value) const {
  return static_cast<u8>((state_.ram[kB] & kBBinary) != 0 ? value : value / 10 % 10 * 16 + value % 10);
}

int CmosRtc::decode(u8 value) const {
  return (state_.ram[kB] & kBBinary) != 0 ? value : (value >> 4) * 10 + (value & 15);
}

int CmosRtc::decode_hour(u8 value) const {
  if ((state_.ram[kB] & kB24Hours) != 0) return decode(value);
  return decode(value & 0x7f) % 12 + ((value & kAfternoon) != 0 ? 12 : 0);
}

void CmosRtc::show_time(i64 nanoseconds) {
  const i64 seconds = floor_div(nanoseconds, kSecond);
  const i64 days = floor_div(seconds, kSecondsPerDay);
  const int in_day = static_cast<int>(seconds - days * kSecondsPerDay);
  const std::chrono::year_month_day date{std::chrono::sys_days{std::chrono::days{days}}};
  const int year = static_cast<int>(date.year());
  const int hour = in_day / 3600;

  auto& ram = state_.ram;
  ram[kSeconds] = encode(in_day % 60);
  ram[kMinutes] = encode(in_day / 60 % 60);
  if ((ram[kB] & kB24Hours) != 0) {
    ram[kHours] = encode(hour);
  } else {
    ram[kHours] = static_cast<u8>(encode((hour + 11) % 12 + 1) | (hour >= 12 ? kAfternoon : 0));
  }
  ram[kWeekday] = encode((weekday_of(days) + state_.weekday_shift) % 7 + 1);
  ram[kDay] = encode(static_cast<int>(static_cast<unsigned>(date.day())));
  ram[kMonth] = encode(static_cast<int>(static_cast<unsigned>(date.month())));
  ram[kYear] = encode((year % 100 + 100) % 100);
  // The century byte is the firmware's, and BCD whatever DM says.
  const int century = (year / 100 % 100 + 100) % 100;
  ram[kCentury] = static_cast<u8>(century / 10 * 16 + century % 10);
}

/// Takes the registers at their word, also a 31st of February: days count on from the first.
void CmosRtc::set_time(i64 fraction_ns) {
  const auto& ram = state_.ram;
  const int century = (ram[kCentury] >> 4) * 10 + (ram[kCentury] & 15);
  const int months = decode(ram[kMonth]) - 1;
  const std::chrono::year year{century * 100 + decode(ram[kYear]) + static_cast<int>(floor_div(months, 12))};
  const std::chrono::month month{static_cast<unsigned>((months % 12 + 12) % 12 + 1)};
  const std::chrono::sys_days first = year / month / 1;
  const i64 days = first.time_since_epoch().count() + decode(ram[kDay]) - 1;
  const i64 seconds = days * kSecondsPerDay + decode_hour(ram[kHours]) * 3600 + decode(ram[kMinutes]) * 60 +
                      decode(ram[kSeconds]);

  // Two centuries around 1970 fit; a clock set beyond stands at the end.
  constexpr i64 kFarthestSecond = kFarthestOffset / kSecond - 1;
  const i64 nanoseconds = std::clamp(seconds, -kFarthestSecond, kFarthestSecond) * kSecond + fraction_ns;
  state_.offset_ns = std::clamp(nanoseconds - wall_(), -kFarthestOffset, kFarthestOffset);
  const int weekday = decode(ram[kWeekday]) - 1;
  state_.weekday_shift = static_cast<u8>(((weekday - weekday_of(days)) % 7 + 7) % 7);
  state_.seen_second = floor_div(guest_ns(), kSecond);
}

u64 CmosRtc::periodic_ticks() const {
  const unsigned rate = state_.ram[kA] & 15u;
  if (rate == 0 || divider_reset(state_.ram[kA])) return 0;
  // MC146818, table 5: rates 1 and 2 repeat 8 and 9 with this crystal.
  return u64{1} << (rate <= 2 ? rate + 6 : rate - 1);
}

/// The first second after `after_second` at which the alarm goes off.
std::optional<i64> CmosRtc::next_alarm(i64 after_second) const {
  const auto matches = [this](u8 index, int value) {
    const u8 alarm = state_.ram[index];
    if ((alarm & 0xc0) == 0xc0) return true;  // "don't care"
    return (index == kHoursAlarm ? decode_hour(alarm) : decode(alarm)) == value;
  };
  // An alarm at a 79th second never comes; whoever looks for it would look at each second of two days.
  const auto ever = [&](u8 index, int values) {
    for (int value = 0; value < values; ++value)
      if (matches(index, value)) return true;
    return false;
  };
  if (!ever(kHoursAlarm, 24) || !ever(kMinutesAlarm, 60) || !ever(kSecondsAlarm, 60)) return std::nullopt;
  const i64 from = after_second + 1;
  const i64 midnight = floor_div(from, kSecondsPerDay) * kSecondsPerDay;
  for (int hour = 0; hour < 48; ++hour) {
    if (!matches(kHoursAlarm, hour % 24) || midnight + (hour + 1) * 3600 <= from) continue;
    for (int minute = 0; minute < 60; ++minute) {
      const i64 start = midnight + hour * 3600 + minute * 60;
      if (!matches(kMinutesAlarm, minute) || start + 60 <= from) continue;
      for (int second = 0; second < 60; ++second)
        if (start + second >= from && matches(kSecondsAlarm, second)) return start + second;
    }
  }
  return std::nullopt;
}

void CmosRtc::collect() {
  u8 events = 0;
  const u64 tick = ticks_at(time_.now_ns(), kCrystalHertz);
  if (const u64 period = periodic_ticks(); period != 0 && tick / period > state_.seen_tick / period)
    events |= kPeriodic;
  state_.seen_tick = tick;
  if (!held()) {
    const i64 second = floor_div(guest_ns(), kSecond);
    if (second > state_.seen_second) {
      events |= kUpdate;
      if (const auto alarm = next_alarm(state_.seen_second); alarm && *alarm <= second) events |= kAlarm;
    }
    state_.seen_second = second;
  }
  state_.ram[kC] |= events;
  if (events != 0) update_line();
}

void CmosRtc::update_line() { line_.set((state_.ram[kC] & state_.ram[kB] & kBInterrupts) != 0); }

void CmosRtc::on_timer() {
  const std::lock_guard lock(mutex_);
  armed_ns_.reset();
  collect();
  arm();
}

/// Arms the timer for the next event that would interrupt. What is flagged already cannot do so again.
void CmosRtc::arm() {
  std::optional<u64> deadline;
  const auto wake_at = [&](u64 when) { deadline = std::min(deadline.value_or(when), when); };
  const u64 now = time_.now_ns();
  const u8 wanted = state_.ram[kB] & ~state_.ram[kC] & kBInterrupts;
  if (const u64 period = periodic_ticks(); (wanted & kPeriodic) != 0 && period != 0)
    wake_at(time_of_tick((state_.seen_tick / period + 1) * period, kCrystalHertz));
  if (!held() && (wanted & (kUpdate | kAlarm)) != 0) {
    const i64 guest = guest_ns();
    const auto wake_at_second = [&](i64 second) {
      const i64 wait = std::max<i64>(0, second * kSecond - guest);
      wake_at(now + std::min(static_cast<u64>(wait), kLongestSleepNs));
    };
    if ((wanted & kUpdate) != 0) wake_at_second(state_.seen_second + 1);
    if ((wanted & kAlarm) != 0) {
      if (const auto alarm = next_alarm(state_.seen_second)) wake_at_second(*alarm);
    }
  }
  if (deadline == armed_ns_) return;
  armed_ns_ = deadline;
  if (deadline) {
    timer_->arm(*deadline);
  } else {
    timer_->cancel();
  }
}

base::Document CmosRtc::save() const {
  const std::lock_guard lock(mutex_);
  return base::save(kComponent, kVersion, state_);
}

Status CmosRtc::restore(const base::Document& document) {
  VERT_ASSIGN(const CmosRtcState state, base::restore<CmosRtcState>(kComponent, kVersion, document));
  constexpr i64 kFarthestSecond = 2 * (kFarthestOffset / kSecond);
  const bool good = state.index <= 0x7f && state.offset_ns >= -kFarthestOffset &&
                    state.offset_ns <= kFarthestOffset && state.weekday_shift < 7 &&
                    state.seen_second >= -kFarthestSecond && state.seen_second <= kFarthestSecond &&
                    (state.ram[kA] & kAUpdateInProgress) == 0 && (state.ram[kC] & ~kBInterrupts) == 0;
  if (!good) return make_error("saved state of the real-time clock is out of range");
  const std::lock_guard lock(mutex_);
  state_ = state;
  collect();
  update_line();
  arm();
  return {};
}

void CmosRtc::reset() {
  const std::lock_guard lock(mutex_);
  collect();
  state_.ram[kB] &= static_cast<u8>(~(kBInterrupts | kBSquareWave));
  state_.ram[kC] = 0;
  update_line();
  arm();
}

}  // namespace vert::device

#include "device/legacy/i8254_channel.hpp"

#include <algorithm>
#include <limits>

namespace vert::device {
namespace {

constexpr i64 kNever = std::numeric_limits<i64>::max();
constexpr u8 kLowByte = 1;
constexpr u8 kHighByte = 2;
constexpr u8 kBothBytes = 3;
constexpr u8 kStatusNullCount = 0x40;
constexpr u8 kStatusOut = 0x80;

constexpr u32 modulus(bool bcd) { return bcd ? 10'000 : 0x10000; }

constexpr u16 to_bcd(u32 value) {
  return static_cast<u16>(value % 10 | (value / 10 % 10) << 4 | (value / 100 % 10) << 8 |
                          (value / 1000 % 10) << 12);
}

constexpr u32 from_bcd(u32 value) {
  return (value & 15) + 10 * (value >> 4 & 15) + 100 * (value >> 8 & 15) + 1000 * (value >> 12 & 15);
}

/// Modes 2 and 3 run on by themselves.
constexpr bool is_periodic(u8 mode) { return mode == 2 || mode == 3; }
/// Modes 1 and 5 start at a rising gate only.
constexpr bool is_triggered(u8 mode) { return mode == 1 || mode == 5; }

constexpr u32 high_half(u32 count) { return (count + 1) / 2; }

}  // namespace

void I8254Channel::write_control(u8 value) {
  const bool gate = state_.gate;
  state_ = {};
  state_.gate = gate;
  state_.bcd = (value & 1) != 0;
  const u8 mode = value >> 1 & 7;
  state_.mode = mode > 5 ? mode & 3 : mode;  // the top bit of modes 2 and 3 is ignored
  state_.access = value >> 4 & 3;
  state_.count = modulus(state_.bcd);
}

void I8254Channel::write_data(i64 now, u8 value) {
  settle(now);
  if (state_.access == kLowByte) return write_count(now, value);
  if (state_.access == kHighByte) return write_count(now, u32{value} << 8);
  if (!state_.write_high_next) {
    state_.write_low = value;
    state_.write_high_next = true;
    // Mode 0: the first byte stops counting and takes OUT low at once (8254, Mode 0).
    if (state_.mode == 0) {
      state_.frozen_ticks = elapsed(now);
      state_.phase = Phase::kIdle;
    }
    return;
  }
  state_.write_high_next = false;
  write_count(now, u32{value} << 8 | state_.write_low);
}

void I8254Channel::write_count(i64 now, u32 raw) {
  const u32 limit = modulus(state_.bcd);
  const u32 value = (state_.bcd ? from_bcd(raw) : raw) % limit;
  state_.next_count = value == 0 ? limit : value;
  if (is_periodic(state_.mode)) state_.next_count = std::max(state_.next_count, 2u);  // 1 is illegal
  state_.reload_tick = kNever;

  if (is_triggered(state_.mode)) {
    if (state_.phase == Phase::kIdle) state_.phase = Phase::kArmed;
  } else if (is_periodic(state_.mode)) {
    if (state_.phase == Phase::kCounting && now >= state_.start_tick) {
      state_.reload_tick = next_boundary(now);
    } else if (state_.gate) {
      begin(now + 1);
    } else {
      state_.phase = Phase::kArmed;
    }
  } else {
    begin(now + 1);
    if (!state_.gate) state_.phase = Phase::kFrozen;
  }
}

/// The next end of a cycle (mode 2) or half cycle (mode 3): when a new count is taken over.
i64 I8254Channel::next_boundary(i64 now) const {
  const i64 count = state_.count;
  const i64 cycle = state_.start_tick + elapsed(now) / count * count;
  const i64 half = cycle + high_half(state_.count);
  return state_.mode == 3 && now < half ? half : cycle + count;
}

/// Loads the counter at `tick`, with the newest count.
void I8254Channel::begin(i64 tick) {
  if (state_.next_count != 0) state_.count = state_.next_count;
  state_.next_count = 0;
  state_.start_tick = tick;
  state_.frozen_ticks = 0;
  state_.edges_seen = 0;
  state_.phase = Phase::kCounting;
}

void I8254Channel::reload() {
  const i64 tick = state_.reload_tick;
  const bool in_mid_cycle = state_.mode == 3 && (tick - state_.start_tick) % state_.count != 0;
  account_edges(tick);
  begin(tick);
  if (in_mid_cycle) state_.start_tick -= high_half(state_.count);
}

void I8254Channel::account_edges(i64 now) {
  const u64 edges = edges_until(now);
  if (edges <= state_.edges_seen) return;
  state_.pending_edges += edges - state_.edges_seen;
  state_.edges_seen = edges;
}

/// Brings the state up to `now`: a reload that is due, and the edges so far.
void I8254Channel::settle(i64 now) {
  if (state_.phase == Phase::kCounting && state_.next_count != 0 && now >= state_.reload_tick) reload();
  account_edges(now);
}

void I8254Channel::set_gate(i64 now, bool level) {
  settle(now);
  const bool rises = level && !state_.gate;
  const bool falls = !level && state_.gate;
  state_.gate = level;
  if (state_.phase == Phase::kIdle) return;
  if (is_triggered(state_.mode)) {
    if (rises) {
      state_.low_before_start = state_.mode == 1 && !out(now);
      begin(now + 1);
    }
  } else if (is_periodic(state_.mode)) {
    if (rises) {
      begin(now + 1);
    } else if (falls) {
      state_.frozen_ticks = elapsed(now);
      state_.phase = Phase::kArmed;
    }
  } else if (rises) {
    state_.start_tick = now - state_.frozen_ticks;
    state_.phase = Phase::kCounting;
  } else if (falls) {
    state_.frozen_ticks = elapsed(now);
    state_.phase = Phase::kFrozen;
  }
}

i64 I8254Channel::count_at_most(i64 now, i64 most) {
  if (state_.phase == Phase::kCounting && !is_periodic(state_.mode))
    state_.start_tick = std::max(state_.start_tick, now - most);
  return elapsed(now);
}

i64 I8254Channel::elapsed(i64 now) const {
  return state_.phase == Phase::kCounting ? std::max<i64>(0, now - state_.start_tick) : state_.frozen_ticks;
}

u64 I8254Channel::edges_until(i64 now) const {
  if (state_.phase != Phase::kCounting && state_.phase != Phase::kFrozen) return 0;
  const i64 ticks = elapsed(now);
  const i64 count = state_.count;
  if (is_periodic(state_.mode)) return static_cast<u64>(ticks / count);
  // Modes 0 and 1 end high after `count` ticks; the strobe of 4 and 5 is low for one more.
  return ticks >= (state_.mode >= 4 ? count + 1 : count) ? 1 : 0;
}

bool I8254Channel::out(i64 now) {
  settle(now);
  if (state_.phase == Phase::kIdle || state_.phase == Phase::kArmed) return state_.mode != 0;
  if (state_.phase == Phase::kCounting && now < state_.start_tick)
    return state_.mode != 0 && !state_.low_before_start;
  const i64 ticks = elapsed(now);
  const i64 count = state_.count;
  switch (state_.mode) {
    case 0:
    case 1: return ticks >= count;
    case 2: return ticks % count != count - 1;
    case 3: return ticks % count < high_half(state_.count);
    default: return ticks != count;
  }
}

u64 I8254Channel::take_edges(i64 now) {
  settle(now);
  const u64 edges = state_.pending_edges;
  state_.pending_edges = 0;
  return edges;
}

std::optional<i64> I8254Channel::next_edge(i64 now) {
  settle(now);
  if (state_.phase != Phase::kCounting) return std::nullopt;
  const i64 count = state_.count;
  if (is_periodic(state_.mode)) {
    const i64 edge = state_.start_tick + (elapsed(now) / count + 1) * count;
    return state_.next_count != 0 ? std::min(edge, state_.reload_tick) : edge;
  }
  if (state_.edges_seen != 0) return std::nullopt;
  return state_.start_tick + (state_.mode >= 4 ? count + 1 : count);
}

u32 I8254Channel::period() const {
  return state_.phase == Phase::kCounting && is_periodic(state_.mode) ? state_.count : 0;
}

u16 I8254Channel::present_count(i64 now) const {
  const i64 ticks = elapsed(now);
  const i64 count = state_.count;
  const i64 limit = modulus(state_.bcd);
  i64 value = 0;
  if (state_.mode == 2) {
    value = count - ticks % count;
  } else if (state_.mode == 3) {
    // Counts down by two in each half, from an even number (8254, Mode 3).
    const i64 in_cycle = ticks % count;
    const i64 high = high_half(state_.count);
    value = (count & ~i64{1}) - 2 * (in_cycle < high ? in_cycle : in_cycle - high);
  } else {
    value = ((count - ticks) % limit + limit) % limit;
  }
  const u32 shown = static_cast<u32>(value % limit);
  return state_.bcd ? to_bcd(shown) : static_cast<u16>(shown);
}

bool I8254Channel::null_count(i64 now) const {
  return state_.phase == Phase::kIdle || state_.next_count != 0 ||
         (state_.phase == Phase::kCounting && now < state_.start_tick);
}

void I8254Channel::latch_count(i64 now) {
  settle(now);
  if (state_.latched_bytes != 0) return;  // the first latch command counts
  state_.latched_count = present_count(now);
  state_.latched_bytes = state_.access == kBothBytes ? 2 : 1;
}

void I8254Channel::latch_status(i64 now) {
  if (state_.status_latched) return;
  const bool level = out(now);
  state_.latched_status =
      static_cast<u8>((level ? kStatusOut : 0) | (null_count(now) ? kStatusNullCount : 0) |
                      state_.access << 4 | state_.mode << 1 | (state_.bcd ? 1 : 0));
  state_.status_latched = true;
}

u8 I8254Channel::read_data(i64 now) {
  settle(now);
  if (state_.status_latched) {
    state_.status_latched = false;
    return state_.latched_status;
  }
  const u16 value = state_.latched_bytes != 0 ? state_.latched_count : present_count(now);
  if (state_.latched_bytes != 0) --state_.latched_bytes;
  bool high = state_.access == kHighByte;
  if (state_.access == kBothBytes) {
    high = state_.read_high_next;
    state_.read_high_next = !high;
  }
  return static_cast<u8>(high ? value >> 8 : value);
}

bool I8254Channel::restore(const I8254ChannelState& state) {
  constexpr i64 kFar = i64{1} << 60;
  const u32 limit = modulus(state.bcd);
  const u32 least = is_periodic(state.mode) ? 2 : 1;
  const bool good = state.mode <= 5 && state.access >= 1 && state.access <= 3 &&
                    state.phase <= Phase::kFrozen && state.count >= least && state.count <= limit &&
                    state.next_count <= limit && (state.next_count == 0 || state.next_count >= least) &&
                    state.start_tick > -kFar && state.start_tick < kFar &&
                    (state.next_count == 0 || state.reload_tick == kNever ||
                     (state.reload_tick >= state.start_tick && state.reload_tick < kFar)) &&
                    state.frozen_ticks >= 0 && state.frozen_ticks < kFar && state.latched_bytes <= 2 &&
                    (state.phase != Phase::kFrozen || state.mode == 0 || state.mode == 4) &&
                    (state.phase != Phase::kArmed || is_periodic(state.mode) || is_triggered(state.mode));
  if (good) state_ = state;
  return good;
}

}  // namespace vert::device

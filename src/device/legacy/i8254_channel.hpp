// One counter of the 8254 interval timer (Intel 231164), as a function of time in its own clock's ticks.
//
// Pure: no clock, lock or line. The counter is never stepped; what it shows follows from the tick at which
// it was loaded, so it neither drifts nor costs anything while nobody looks. Owned by I8254.
#pragma once

#include <optional>

#include "base/types.hpp"

namespace vert::device {

struct I8254ChannelState {
  enum class Phase : u8 {
    kIdle,      // no count since the control word
    kArmed,     // count written, waits for a rising gate
    kCounting,  // loaded at start_tick
    kFrozen,    // modes 0 and 4 with the gate low
  };

  u8 mode = 0;    // 0-5
  u8 access = 3;  // RW bits of the control word: 1 low byte, 2 high byte, 3 low then high
  bool bcd = false;
  bool gate = true;
  Phase phase = Phase::kIdle;
  u32 count = 0x10000;  // what the present cycle began with
  u32 next_count = 0;   // written, taken over at reload_tick; 0: none
  i64 start_tick = 0;   // of a cycle that began in its low half (mode 3): when it would have begun
  i64 reload_tick = 0;
  bool low_before_start = false;  // mode 1, triggered again while OUT was low
  i64 frozen_ticks = 0;           // what was counted when counting stopped
  u64 edges_seen = 0;             // rising edges of OUT since start_tick that are accounted for
  u64 pending_edges = 0;          // accounted for, but not yet given out by take_edges()
  u8 write_low = 0;
  bool write_high_next = false;
  bool read_high_next = false;
  u16 latched_count = 0;
  u8 latched_bytes = 0;  // still to be read: 0-2
  u8 latched_status = 0;
  bool status_latched = false;

  template <typename Archive>
  void fields(Archive& a) {
    a("mode", mode);
    a("access", access);
    a("bcd", bcd);
    a("gate", gate);
    a("phase", phase);
    a("count", count);
    a("next_count", next_count);
    a("start_tick", start_tick);
    a("reload_tick", reload_tick);
    a("low_before_start", low_before_start);
    a("frozen_ticks", frozen_ticks);
    a("edges_seen", edges_seen);
    a("pending_edges", pending_edges);
    a("write_low", write_low);
    a("write_high_next", write_high_next);
    a("read_high_next", read_high_next);
    a("latched_count", latched_count);
    a("latched_bytes", latched_bytes);
    a("latched_status", latched_status);
    a("status_latched", status_latched);
  }
};

class I8254Channel {
 public:
  // `now` never goes back from one call to the next.

  void write_control(u8 value);
  void write_data(i64 now, u8 value);
  [[nodiscard]] u8 read_data(i64 now);
  void latch_count(i64 now);
  void latch_status(i64 now);
  void set_gate(i64 now, bool level);
  /// Has a count that is not periodic begin later if more than `most` ticks are counted by now; returns how
  /// many are.
  i64 count_at_most(i64 now, i64 most);

  [[nodiscard]] bool out(i64 now);
  /// Rising edges of OUT that counting brought since the last call.
  [[nodiscard]] u64 take_edges(i64 now);
  /// No such edge comes before then.
  [[nodiscard]] std::optional<i64> next_edge(i64 now);
  /// Ticks between edges; 0 if there is at most one more.
  [[nodiscard]] u32 period() const;

  [[nodiscard]] const I8254ChannelState& state() const { return state_; }
  /// False, and nothing changed, if a field is out of range.
  [[nodiscard]] bool restore(const I8254ChannelState& state);

 private:
  using Phase = I8254ChannelState::Phase;

  [[nodiscard]] i64 elapsed(i64 now) const;
  [[nodiscard]] u64 edges_until(i64 now) const;
  [[nodiscard]] u16 present_count(i64 now) const;
  [[nodiscard]] bool null_count(i64 now) const;
  [[nodiscard]] i64 next_boundary(i64 now) const;
  void write_count(i64 now, u32 count);
  void account_edges(i64 now);
  void settle(i64 now);
  void reload();
  void begin(i64 tick);

  I8254ChannelState state_;
};

}  // namespace vert::device

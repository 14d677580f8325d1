// The 8254 interval timer (Intel 231164) at 0x40-0x43 and the speaker port 0x61 that gates its channel 2.
//
// Owned by machine/. Ports on any vCPU thread, interrupts on the timer thread. All counting is exact in the
// timer's own ticks; a deadline is computed from its tick number, so that nothing drifts.
//
// Interrupts of a periodic channel 0 that come late (the host was busy, or the guest chose a period shorter
// than kShortestInterval) are not dropped: they wait in a count and are made up for, faster than they come
// but never faster than kShortestInterval, so that a guest which counts ticks keeps the right time. More
// than a second's worth is dropped: with a period below kShortestInterval a tick-counting guest must lag.
#pragma once

#include <array>
#include <memory>
#include <mutex>

#include "base/archive.hpp"
#include "base/time.hpp"
#include "device/interrupt_line.hpp"
#include "device/legacy/i8254_channel.hpp"
#include "device/legacy/port_range.hpp"

namespace vert::device {

inline constexpr u64 kI8254Hertz = 1'193'182;

struct I8254State {
  std::array<I8254ChannelState, 3> channels;
  u8 speaker = 0;   // the writable bits of port 0x61
  u64 backlog = 0;  // edges of channel 0 that have not been interrupts yet
  i64 last_interrupt_tick = 0;

  template <typename Archive>
  void fields(Archive& a) {
    a("channels", channels);
    a("speaker", speaker);
    a("backlog", backlog);
    a("last_interrupt_tick", last_interrupt_tick);
  }
};

class I8254 {
 public:
  static constexpr i64 kShortestInterval = 119;  // ticks, 100 us
  static constexpr i64 kLongestGap = 597;        // ticks, 500 us

  /// `line` is IRQ 0.
  I8254(base::TimeService& time, InterruptLine& line);

  /// Claims 0x40-0x43 and 0x61.
  [[nodiscard]] Status map(memory::Bus& ports);

  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  void reset();

 private:
  [[nodiscard]] i64 now() const;
  [[nodiscard]] u8 read_timer(u64 offset);
  void write_timer(u64 offset, u8 value);
  void write_control(i64 now, u8 value);
  void read_back(i64 now, u8 command);
  [[nodiscard]] u8 read_speaker();
  void write_speaker(u8 value);

  [[nodiscard]] I8254Channel& look_at(u64 channel, i64 tick);

  void on_timer();
  /// Raises what interrupts are due and arms the timer for the next.
  void sync(i64 now);
  [[nodiscard]] i64 earliest_interrupt() const;
  void pulse(i64 now);
  void arm(i64 now);

  base::TimeService& time_;
  InterruptLine& line_;
  PortRange timer_ports_;
  PortRange speaker_port_;

  mutable std::mutex mutex_;
  std::array<I8254Channel, 3> channels_;
  u8 speaker_ = 0;
  u64 backlog_ = 0;
  i64 last_interrupt_tick_ = 0;
  i64 counter2_most_ = 0;  // ticks that it may have counted when it is next looked at
  std::optional<i64> armed_tick_;
  std::unique_ptr<base::Timer> timer_;  // last: its destructor waits for on_timer()
};

}  // namespace vert::device

// The MC146818 real-time clock and its CMOS memory at 0x70/0x71 (Motorola MC146818, and its PC use).
//
// Owned by machine/. Ports on any vCPU thread, interrupts on the timer thread. The time of day is the host's
// real-time clock plus what the guest set, so it neither drifts nor stands still while a machine is paused;
// periodic interrupts follow the machine's clock. Missed periodic interrupts are one, as on the chip: a
// guest must read register C before it gets the next. Bit 7 of port 0x70 (NMI mask) is ignored.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "base/archive.hpp"
#include "base/time.hpp"
#include "device/interrupt_line.hpp"
#include "device/legacy/port_range.hpp"

namespace vert::device {

struct CmosRtcState {
  u8 index = 0;
  std::array<u8, 128> ram{};  // time registers only while the clock is held
  i64 offset_ns = 0;          // the guest's clock minus the host's
  u8 weekday_shift = 0;       // the guest's day of the week minus the calendar's, modulo 7
  i64 seen_second = 0;        // events up to here are in register C
  u64 seen_tick = 0;          // the same, of the 32 768 Hz clock

  template <typename Archive>
  void fields(Archive& a) {
    a("index", index);
    a("ram", ram);
    a("offset_ns", offset_ns);
    a("weekday_shift", weekday_shift);
    a("seen_second", seen_second);
    a("seen_tick", seen_tick);
  }
};

class CmosRtc {
 public:
  /// Nanoseconds since 1970-01-01 00:00 UTC.
  using WallClock = std::function<i64()>;

  /// `line` is IRQ 8. The memory sizes go to where firmware puts them for boot loaders.
  CmosRtc(base::TimeService& time, WallClock wall, InterruptLine& line, u64 memory_below_4g,
          u64 memory_above_4g);

  /// Claims 0x70-0x71.
  [[nodiscard]] Status map(memory::Bus& ports);

  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  /// As the RESET pin: the time and the memory stay.
  void reset();

 private:
  [[nodiscard]] u8 read(u64 offset);
  void write(u64 offset, u8 value);
  [[nodiscard]] u8 read_register(u8 index);
  void write_register(u8 index, u8 value);
  void write_time(u8 index, u8 value);
  void write_a(u8 value);
  void write_b(u8 value);
  [[nodiscard]] u8 read_c();

  [[nodiscard]] bool held() const;
  [[nodiscard]] i64 guest_ns() const { return wall_() + state_.offset_ns; }
  [[nodiscard]] bool update_in_progress() const;
  [[nodiscard]] u64 periodic_ticks() const;
  [[nodiscard]] std::optional<i64> next_alarm(i64 after_second) const;
  /// Fills the time registers from the clock, and sets the clock from them.
  void show_time(i64 nanoseconds);
  void set_time(i64 fraction_ns);
  void after_hold_change(bool was_held, bool divider_was_reset);

  [[nodiscard]] u8 encode(int value) const;
  [[nodiscard]] int decode(u8 value) const;
  [[nodiscard]] int decode_hour(u8 value) const;

  void on_timer();
  /// Collects the events since the last call in register C.
  void collect();
  void update_line();
  void arm();
  void set_memory_sizes(u64 below_4g, u64 above_4g);

  base::TimeService& time_;
  WallClock wall_;
  InterruptLine& line_;
  PortRange range_;

  mutable std::mutex mutex_;
  CmosRtcState state_;
  std::optional<u64> armed_ns_;
  std::unique_ptr<base::Timer> timer_;  // last: its destructor waits for on_timer()
};

}  // namespace vert::device

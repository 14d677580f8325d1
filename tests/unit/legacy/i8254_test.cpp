#include "device/legacy/i8254.hpp"

#include <gtest/gtest.h>

#include "device/legacy/tick_clock.hpp"
#include "device_test.hpp"

namespace vert::device {
namespace {

TEST(TickClock, IsExactBothWays) {
  constexpr u64 kLong = u64{3600} * 24 * 365 * 10;  // ten years
  EXPECT_EQ(ticks_at(kLong * base::kNanosecondsPerSecond, kI8254Hertz), kLong * kI8254Hertz);
  for (u64 tick = kLong; tick < kLong + 1000; ++tick) {
    const u64 when = time_of_tick(tick, kI8254Hertz);
    EXPECT_EQ(ticks_at(when, kI8254Hertz), tick);
    EXPECT_EQ(ticks_at(when - 1, kI8254Hertz), tick - 1);
  }
  EXPECT_EQ(time_of_tick(~u64{0}, 1), ~u64{0});
}

struct Channel : testing::Test {
  void program(i64 now, u8 mode, unsigned count, bool bcd = false) {
    channel.write_control(static_cast<u8>(0x30 | mode << 1 | (bcd ? 1 : 0)));
    write(now, count);
  }
  void write(i64 now, unsigned count) {
    channel.write_data(now, static_cast<u8>(count));
    channel.write_data(now, static_cast<u8>(count >> 8));
  }
  unsigned count(i64 now) {
    channel.latch_count(now);
    const unsigned low = channel.read_data(now);
    return low | unsigned{channel.read_data(now)} << 8;
  }
  /// OUT at ticks [from, to), as the data sheet draws it.
  std::string wave(i64 from, i64 to) {
    std::string levels;
    for (i64 tick = from; tick < to; ++tick) levels += channel.out(tick) ? '-' : '_';
    return levels;
  }
  I8254Channel channel;
};

// A count written at tick 0 is loaded at tick 1 (the data sheet's waveforms count from there).

TEST_F(Channel, Mode0IsHighAfterTheCount) {
  program(0, 0, 4);
  EXPECT_EQ(wave(0, 10), "_____-----");
  EXPECT_EQ(count(10), 0xfffbu) << "and counts on";
}

TEST_F(Channel, Mode0FirstByteStopsAndANewCountStartsAnew) {
  program(0, 0, 4);
  EXPECT_TRUE(channel.out(10));
  channel.write_data(10, 3);
  EXPECT_FALSE(channel.out(10));
  EXPECT_FALSE(channel.out(1000));
  channel.write_data(1000, 0);
  EXPECT_EQ(wave(1000, 1006), "____--");
}

TEST_F(Channel, Mode0WaitsWhileTheGateIsLow) {
  program(0, 0, 4);
  channel.set_gate(3, false);
  EXPECT_EQ(count(50), 2u);
  EXPECT_FALSE(channel.out(50));
  channel.set_gate(100, true);
  EXPECT_EQ(wave(100, 104), "__--");
}

TEST_F(Channel, Mode1IsLowFromTriggerOn) {
  channel.set_gate(0, false);
  program(0, 1, 3);
  EXPECT_EQ(wave(0, 5), "-----");
  channel.set_gate(5, true);
  EXPECT_EQ(wave(5, 12), "-___---");
  channel.set_gate(20, false);
  channel.set_gate(21, true);
  channel.set_gate(22, false);
  channel.set_gate(23, true);
  EXPECT_EQ(wave(23, 29), "____--") << "retriggered while low";
}

TEST_F(Channel, Mode2IsLowForTheLastTick) {
  program(0, 2, 4);
  EXPECT_EQ(wave(0, 13), "----_---_---_");
  EXPECT_EQ(count(13), 4u);
  EXPECT_EQ(count(14), 3u);
}

TEST_F(Channel, Mode2TakesANewCountAtTheEndOfTheCycle) {
  program(0, 2, 4);
  write(2, 3);
  EXPECT_EQ(wave(2, 12), "--_--_--_-");
}

TEST_F(Channel, Mode2GateStopsAndRestarts) {
  program(0, 2, 4);
  channel.set_gate(4, false);
  EXPECT_EQ(wave(4, 8), "----");
  channel.set_gate(8, true);
  EXPECT_EQ(wave(8, 14), "----_-");
}

TEST_F(Channel, Mode3IsSquareEvenAndOdd) {
  program(0, 3, 4);
  EXPECT_EQ(wave(1, 9), "--__--__");
  EXPECT_EQ(count(9), 4u);
  EXPECT_EQ(count(10), 2u);
  EXPECT_EQ(count(11), 4u);
  program(20, 3, 5);
  EXPECT_EQ(wave(21, 31), "---__---__");
  const std::array<unsigned, 5> counts{4, 2, 0, 4, 2};
  for (unsigned i = 0; i < 5; ++i) EXPECT_EQ(count(31 + i), counts[i]) << i;
}

TEST_F(Channel, Mode3TakesANewCountAtTheEndOfTheHalf) {
  program(0, 3, 8);
  write(2, 4);
  EXPECT_EQ(wave(1, 13), "----__--__--");
  EXPECT_EQ(channel.take_edges(13), 2u);
}

TEST_F(Channel, Mode4StrobesOnce) {
  program(0, 4, 3);
  EXPECT_EQ(wave(0, 9), "----_----");
  EXPECT_EQ(channel.take_edges(9), 1u);
}

TEST_F(Channel, Mode5StrobesAfterTrigger) {
  channel.set_gate(0, false);
  program(0, 5, 3);
  EXPECT_EQ(wave(0, 9), "---------");
  channel.set_gate(9, true);
  EXPECT_EQ(wave(9, 16), "----_--");
}

TEST_F(Channel, CountsInBcd) {
  program(0, 2, 0x1000, true);
  EXPECT_EQ(count(1), 0x1000u);
  EXPECT_EQ(count(2), 0x0999u);
  EXPECT_EQ(channel.period(), 1000u);
  program(5, 0, 0, true);
  EXPECT_EQ(count(6), 0u);
  EXPECT_EQ(count(7), 0x9999u);
}

TEST_F(Channel, ZeroIsTheLargestCount) {
  program(0, 2, 0);
  EXPECT_EQ(channel.period(), 0x10000u);
}

TEST_F(Channel, LatchHoldsUntilRead) {
  program(0, 2, 1000);
  channel.latch_count(101);
  channel.latch_count(501);
  EXPECT_EQ(channel.read_data(600), 900 & 0xff);
  EXPECT_EQ(channel.read_data(700), 900 >> 8);
  EXPECT_EQ(channel.read_data(801), 200);
}

TEST_F(Channel, StatusTellsOutNullAndTheControlWord) {
  program(0, 3, 4);
  channel.latch_status(0);
  EXPECT_EQ(channel.read_data(0), 0xf6) << "high, null count, both bytes, mode 3";
  channel.latch_status(1);
  EXPECT_EQ(channel.read_data(1), 0xb6);
  channel.latch_status(3);
  EXPECT_EQ(channel.read_data(3), 0x36);
}

TEST_F(Channel, TopBitOfModes6And7IsIgnored) {
  channel.write_control(0x3c);
  EXPECT_EQ(channel.state().mode, 2);
  channel.write_control(0x3e);
  EXPECT_EQ(channel.state().mode, 3);
}

struct Pit : testing::Test, PortTest {
  Pit() { EXPECT_TRUE(pit.map(ports)); }
  void start(unsigned control, unsigned count) {
    out(0x43, control);
    out(0x40, count & 0xff);
    out(0x40, count >> 8);
  }
  static constexpr u64 kSecond = base::kNanosecondsPerSecond;
  FakeLine line;
  I8254 pit{time, line};
};

TEST_F(Pit, DoesNotDriftOverHours) {
  start(0x34, 1193);
  const u64 before = line.rises;
  constexpr u64 kHours = 3;
  time.advance(kHours * 3600 * kSecond);
  EXPECT_EQ(line.rises - before, (kHours * 3600 * kI8254Hertz - 1) / 1193);
}

TEST_F(Pit, OneShotInterruptsOnce) {
  start(0x30, 1193);
  EXPECT_FALSE(line.level);
  time.advance(999'000);
  EXPECT_FALSE(line.level);
  time.advance(3'000);
  EXPECT_TRUE(line.level);
  time.advance(kSecond);
  EXPECT_EQ(line.rises, 1u);
}

TEST_F(Pit, TinyCountsDoNotStorm) {
  start(0x34, 2);
  const u64 before = line.rises;
  time.advance(kSecond);
  EXPECT_LE(line.rises - before, 10'100u);
  EXPECT_GE(line.rises - before, 9'900u);
}

/// A clock whose timers are late by a step: a busy host.
TEST_F(Pit, LateTicksAreMadeUpFor) {
  start(0x34, 11932);  // about 100 Hz
  const u64 before = line.rises;
  base::FakeTime late;
  FakeLine late_line;
  {
    // The same state, seen 500 ms later in one go.
    const base::Document saved = pit.save();
    late.advance(kSecond / 2);
    I8254 other(late, late_line);
    ASSERT_TRUE(other.restore(saved));
    const u64 at_once = late_line.rises;
    late.advance(kSecond / 2);
    EXPECT_LE(at_once, 2u);
    // 100 ticks in a second: at double speed they are all in by the end of it.
    EXPECT_GE(late_line.rises, 98u);
  }
  EXPECT_EQ(before, line.rises);
}

TEST_F(Pit, ChannelTwoIsGatedByPort61) {
  out(0x43, 0xb0);
  out(0x42, 0xa9);
  out(0x42, 0x04);  // 1193 ticks
  time.advance(10'000'000);
  EXPECT_EQ(in(0x61) & 0x20, 0);
  out(0x61, 0x01);
  EXPECT_EQ(in(0x61) & 0x21, 0x01);
  time.advance(450'000);
  EXPECT_EQ(in(0x61) & 0x21, 0x01);
  time.advance(450'000);
  EXPECT_EQ(in(0x61) & 0x21, 0x01);
  time.advance(200'000);
  EXPECT_EQ(in(0x61) & 0x21, 0x21);
}

// As Linux calibrates its TSC: a vCPU that is off its processor for long before it looks measures no less.
TEST_F(Pit, ChannelTwoCountsFromWhenItIsFirstLookedAt) {
  out(0x61, 0x01);
  out(0x43, 0xb0);
  out(0x42, 0xa9);
  out(0x42, 0x04);  // 1 ms
  time.advance(50'000'000);
  EXPECT_EQ(in(0x61) & 0x20, 0);
  time.advance(450'000);
  EXPECT_EQ(in(0x61) & 0x20, 0);
  time.advance(450'000);
  EXPECT_EQ(in(0x61) & 0x20, 0);
  time.advance(200'000);
  EXPECT_EQ(in(0x61) & 0x20, 0x20);
  time.advance(50'000'000);
  EXPECT_EQ(in(0x61) & 0x20, 0x20) << "it stays high";
}

TEST_F(Pit, ChannelTwoDoesNotRunAheadBetweenTwoLooks) {
  out(0x61, 0x01);
  out(0x43, 0xb0);
  out(0x42, 0x9b);
  out(0x42, 0x2e);  // 10 ms
  EXPECT_EQ(in(0x61) & 0x20, 0);
  for (int i = 0; i < 80; ++i) {
    time.advance(100'000);
    ASSERT_EQ(in(0x61) & 0x20, 0) << i;
  }
  time.advance(30'000'000);  // off its processor
  EXPECT_EQ(in(0x61) & 0x20, 0) << "no more than 8.5 ms were counted";
  for (int i = 0; i < 14; ++i) {
    time.advance(100'000);
    ASSERT_EQ(in(0x61) & 0x20, 0) << i;
  }
  time.advance(200'000);
  EXPECT_EQ(in(0x61) & 0x20, 0x20);
}

TEST_F(Pit, RefreshBitToggles) {
  const u8 first = in(0x61) & 0x10;
  time.advance(15'100);
  EXPECT_NE(in(0x61) & 0x10, first);
  time.advance(15'100);
  EXPECT_EQ(in(0x61) & 0x10, first);
}

TEST_F(Pit, ReadBackLatchesSeveralChannels) {
  start(0x34, 1000);
  out(0x43, 0xc2 | 0x08);  // count and status of channels 0 and 2
  EXPECT_EQ(in(0x40) & 0x3f, 0x34);
  static_cast<void>(in(0x40));
  EXPECT_EQ(in(0x42) & 0x40, 0x40) << "nothing loaded";
}

TEST_F(Pit, SavesAndRestores) {
  start(0x34, 11932);
  time.advance(25'000'000);
  out(0x43, 0x00);  // latch
  static_cast<void>(in(0x40));
  const base::Document saved = pit.save();
  FakeLine other_line;
  I8254 other(time, other_line);
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  const u64 here = line.rises;
  const u64 there = other_line.rises;
  time.advance(kSecond);
  EXPECT_EQ(line.rises - here, other_line.rises - there);
}

TEST_F(Pit, RefusesStatesOutOfRange) {
  for (const auto& [field, value] : {std::pair{"mode", 6},
                                     {"access", 0},
                                     {"count", 0},
                                     {"count", 65537},
                                     {"phase", 4},
                                     {"latched_bytes", 3},
                                     {"next_count", 65537}}) {
    base::Document bad = pit.save();
    bad["state"]["channels"][1][field] = value;
    EXPECT_FALSE(pit.restore(bad)) << field;
  }
  for (const i64 tick : {std::numeric_limits<i64>::min(), std::numeric_limits<i64>::max()}) {
    base::Document bad = pit.save();
    bad["state"]["channels"][0]["start_tick"] = tick;
    EXPECT_FALSE(pit.restore(bad));
  }
  base::Document bad = pit.save();
  bad["state"]["speaker"] = 0x10;
  EXPECT_FALSE(pit.restore(bad));
}

TEST_F(Pit, BearsAnything) {
  fuzz_range(ports, time, 0x40, 4, 2, [this](std::mt19937_64& random) {
    if (random() % 8 == 0) out(0x61, static_cast<unsigned>(random() & 0xff));
    if (random() % 64 == 0) {
      EXPECT_TRUE(pit.restore(pit.save()));
    }
  });
}

}  // namespace
}  // namespace vert::device

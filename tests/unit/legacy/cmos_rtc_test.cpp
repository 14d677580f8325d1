#include "device/legacy/cmos_rtc.hpp"

#include <gtest/gtest.h>

#include <chrono>

#include "device_test.hpp"

namespace vert::device {
namespace {

constexpr u64 kSecond = base::kNanosecondsPerSecond;
constexpr i64 kEpoch = 1'709'164'800;  // Thursday 2024-02-29 00:00:00 UTC

struct Rtc : testing::Test, PortTest {
  Rtc() { EXPECT_TRUE(rtc.map(ports)); }
  u8 get(unsigned index) {
    out(0x70, index);
    return in(0x71);
  }
  void put(unsigned index, unsigned value) {
    out(0x70, index);
    out(0x71, value);
  }
  std::array<u8, 3> time_of_day() { return {get(4), get(2), get(0)}; }

  i64 wall_start = kEpoch * 1'000'000'000;
  FakeLine line;
  CmosRtc rtc{time, [this] { return wall_start + static_cast<i64>(time.now_ns()); }, line, u64{3} << 30,
              u64{5} << 30};
};

TEST_F(Rtc, ShowsTheHostsTimeInBcd) {
  time.advance((13 * 3600 + 45 * 60 + 59) * kSecond);
  EXPECT_EQ(time_of_day(), (std::array<u8, 3>{0x13, 0x45, 0x59}));
  EXPECT_EQ(get(0x06), 5) << "Sunday is 1";
  EXPECT_EQ(get(0x07), 0x29);
  EXPECT_EQ(get(0x08), 0x02);
  EXPECT_EQ(get(0x09), 0x24);
  EXPECT_EQ(get(0x32), 0x20);
  time.advance(11 * 3600 * kSecond);
  EXPECT_EQ(get(0x07), 0x01);
  EXPECT_EQ(get(0x08), 0x03);
}

TEST_F(Rtc, BinaryAndTwelveHours) {
  put(0x0b, 0x06);
  time.advance((23 * 3600 + 59 * 60) * kSecond);
  EXPECT_EQ(time_of_day(), (std::array<u8, 3>{23, 59, 0}));
  put(0x0b, 0x00);
  EXPECT_EQ(get(4), 0x91);
  time.advance(3600 * kSecond);
  EXPECT_EQ(get(4), 0x12) << "midnight is 12 a.m.";
  time.advance(12 * 3600 * kSecond);
  EXPECT_EQ(get(4), 0x92) << "noon is 12 p.m.";
}

TEST_F(Rtc, NmiMaskIsIgnored) {
  put(0x80 | 0x40, 0x5a);
  EXPECT_EQ(get(0x40), 0x5a);
}

TEST_F(Rtc, CanBeSetAndRunsOnWithoutDrift) {
  put(0x0b, 0x82);  // SET
  put(0x00, 0x30);
  put(0x02, 0x59);
  put(0x04, 0x23);
  put(0x06, 0x07);
  put(0x07, 0x31);
  put(0x08, 0x12);
  put(0x09, 0x99);
  put(0x32, 0x19);
  time.advance(100 * kSecond);
  EXPECT_EQ(get(0), 0x30) << "stands still";
  put(0x0b, 0x02);
  time.advance(29 * kSecond + kSecond / 2);
  EXPECT_EQ(time_of_day(), (std::array<u8, 3>{0x23, 0x59, 0x59}));
  time.advance(kSecond);
  EXPECT_EQ(time_of_day(), (std::array<u8, 3>{0x00, 0x00, 0x00}));
  EXPECT_EQ(get(0x09), 0x00);
  EXPECT_EQ(get(0x32), 0x20);
  EXPECT_EQ(get(0x06), 0x01) << "the day of the week is what was set, and goes on";
  time.advance(48 * 3600 * kSecond);
  EXPECT_EQ(time_of_day(), (std::array<u8, 3>{0x00, 0x00, 0x00}));
  EXPECT_EQ(get(0x07), 0x03);
}

TEST_F(Rtc, FirstUpdateIsHalfASecondAfterTheDividerStarts) {
  put(0x0b, 0x82);
  put(0x0a, 0x76);
  put(0x00, 0x10);
  put(0x0b, 0x02);
  put(0x0a, 0x26);
  time.advance(kSecond / 2 - 1);
  EXPECT_EQ(get(0), 0x10);
  time.advance(1);
  EXPECT_EQ(get(0), 0x11);
}

TEST_F(Rtc, UpdateInProgressComesBeforeTheSecondChanges) {
  EXPECT_EQ(get(0x0a), 0x26);
  time.advance(kSecond - 2'229'000);
  EXPECT_EQ(get(0x0a), 0x26);
  time.advance(2'000);
  EXPECT_EQ(get(0x0a), 0xa6);
  time.advance(2'227'000);
  EXPECT_EQ(get(0x0a), 0x26);
  EXPECT_EQ(get(0), 0x01);
}

TEST_F(Rtc, PeriodicInterruptNeedsTheFlagRead) {
  put(0x0b, 0x42);
  time.advance(976'563);
  EXPECT_TRUE(line.level);
  time.advance(100'000'000);
  EXPECT_EQ(line.rises, 1u);
  EXPECT_EQ(get(0x0c), 0xc0);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(get(0x0c), 0x00);
  u64 interrupts = 0;
  const u64 end = time.now_ns() + 10 * kSecond;
  while (time.now_ns() < end) {
    time.advance(100'000);
    if (line.level) {
      ++interrupts;
      EXPECT_EQ(get(0x0c) & 0xc0, 0xc0);
    }
  }
  EXPECT_NEAR(static_cast<double>(interrupts), 10240, 1);
}

TEST_F(Rtc, UpdateEndedInterruptAndPolledFlag) {
  time.advance(kSecond + 1);
  EXPECT_EQ(get(0x0c) & 0x90, 0x10) << "flagged, not enabled";
  put(0x0b, 0x12);
  EXPECT_FALSE(line.level);
  time.advance(kSecond);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(0x0c) & 0x90, 0x90);
  put(0x0b, 0x92);
  EXPECT_EQ(get(0x0b), 0x82) << "SET clears UIE";
}

TEST_F(Rtc, AlarmAtATimeAndWithWildcards) {
  put(0x05, 0x02);
  put(0x03, 0x30);
  put(0x01, 0x15);
  put(0x0b, 0x22);
  time.advance((2 * 3600 + 30 * 60 + 15) * kSecond - 1);
  EXPECT_FALSE(line.level);
  time.advance(1);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(0x0c) & 0xa0, 0xa0);
  put(0x05, 0xff);
  put(0x03, 0xc0);
  time.advance(60 * kSecond - 1);
  EXPECT_FALSE(line.level);
  time.advance(1);
  EXPECT_TRUE(line.level) << "every minute";
}

TEST_F(Rtc, ImpossibleAlarmNeverComes) {
  put(0x05, 0x77);
  put(0x0b, 0x22);
  time.advance(48 * 3600 * kSecond);
  EXPECT_EQ(line.rises, 0u);
}

TEST_F(Rtc, ImpossibleAlarmCostsNoSearchAtEachAccess) {
  put(0x01, 0x79);
  put(0x03, 0xc0);
  put(0x05, 0xc0);
  put(0x0b, 0x22);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20'000; ++i) static_cast<void>(get(0x0c));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST_F(Rtc, AHostClockThatIsSetBackDoesNoHarm) {
  put(0x0b, 0x12);
  wall_start -= 1000 * 1'000'000'000ll;
  time.advance(3 * kSecond);
  EXPECT_TRUE(line.level);
}

TEST_F(Rtc, TellsTheMemorySizes) {
  EXPECT_EQ(get(0x15) | get(0x16) << 8, 640);
  EXPECT_EQ(get(0x17) | get(0x18) << 8, 0xffff);
  EXPECT_EQ(get(0x30) | get(0x31) << 8, 0xffff);
  EXPECT_EQ(get(0x34) | get(0x35) << 8, (3 * 1024 - 16) * 16);
  EXPECT_EQ(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, 5 * 1024 * 16);
}

TEST_F(Rtc, ResetKeepsTimeAndMemory) {
  put(0x0b, 0x52);
  put(0x0f, 0x0a);
  time.advance(2 * kSecond);
  rtc.reset();
  EXPECT_FALSE(line.level);
  EXPECT_EQ(get(0x0b), 0x02);
  EXPECT_EQ(get(0x0f), 0x0a);
  EXPECT_EQ(get(0), 0x02);
}

TEST_F(Rtc, SavesAndRestores) {
  put(0x0b, 0x82);
  put(0x04, 0x05);
  put(0x0b, 0x42);
  put(0x50, 0x77);
  const base::Document saved = rtc.save();
  FakeLine other_line;
  CmosRtc other(
      time, [this] { return wall_start + static_cast<i64>(time.now_ns()); }, other_line, 0, 0);
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  time.advance(1'000'000);
  EXPECT_TRUE(other_line.level);
}

TEST_F(Rtc, RefusesStatesOutOfRange) {
  for (const auto& [field, value] : {std::pair<const char*, i64>{"index", 128},
                                     {"weekday_shift", 7},
                                     {"offset_ns", std::numeric_limits<i64>::min()},
                                     {"seen_second", std::numeric_limits<i64>::max()}}) {
    base::Document bad = rtc.save();
    bad["state"][field] = value;
    EXPECT_FALSE(rtc.restore(bad)) << field;
  }
  base::Document bad = rtc.save();
  bad["state"]["ram"][0x0c] = 0x80;
  EXPECT_FALSE(rtc.restore(bad));
}

TEST_F(Rtc, BearsAnything) {
  fuzz_range(ports, time, 0x70, 2, 3, [this](std::mt19937_64& random) {
    if (random() % 3 == 0) put(static_cast<unsigned>(random() % 16), static_cast<unsigned>(random() & 0xff));
    if (random() % 64 == 0) time.advance(random() % (200 * kSecond));
    if (random() % 64 == 0) {
      EXPECT_TRUE(rtc.restore(rtc.save()));
    }
  });
}

}  // namespace
}  // namespace vert::device

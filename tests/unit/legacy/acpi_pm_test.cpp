#include "device/legacy/acpi_pm.hpp"

#include <gtest/gtest.h>

#include "device_test.hpp"

namespace vert::device {
namespace {

struct Pm : testing::Test, PortTest {
  Pm() { EXPECT_TRUE(pm.map(ports)); }
  u16 in16(u64 port) { return static_cast<u16>(ports.read(port, 2)); }
  void out16(u64 port, unsigned value) { ports.write(port, 2, value); }
  u32 timer() { return static_cast<u32>(ports.read(0x608, 4)); }

  FakeLine sci;
  int power_offs = 0;
  AcpiPm pm{time, sci, AcpiPm::TimerWidth::k24, [this] { ++power_offs; }};
};

TEST_F(Pm, TimerCountsExactlyAndWraps) {
  EXPECT_EQ(timer(), 0u);
  time.advance(base::kNanosecondsPerSecond);
  EXPECT_EQ(timer(), 3'579'545u);
  time.advance_to(3600 * base::kNanosecondsPerSecond);
  EXPECT_EQ(timer(), (3600ull * 3'579'545) & 0xffffff);
}

TEST_F(Pm, WideTimer) {
  memory::Bus other_ports;
  FakeLine other_sci;
  AcpiPm wide(time, other_sci, AcpiPm::TimerWidth::k32, [] {});
  ASSERT_TRUE(wide.map(other_ports));
  time.advance(10 * base::kNanosecondsPerSecond);
  EXPECT_EQ(other_ports.read(0x608, 4), 35'795'450u);
}

TEST_F(Pm, TopBitChangesSetTheTimerStatus) {
  const u64 half = (u64{1} << 23) * base::kNanosecondsPerSecond / kAcpiPmTimerHertz + 1;
  time.advance(half - 1000);
  EXPECT_EQ(in16(0x600), 0);
  time.advance(2000);
  EXPECT_EQ(in16(0x600), 0x0001);
  out16(0x600, 0x0001);
  EXPECT_EQ(in16(0x600), 0);
  out(0xb2, kAcpiEnableCommand);
  out16(0x602, 0x0001);
  EXPECT_FALSE(sci.level);
  time.advance(half);
  EXPECT_TRUE(sci.level) << "also when it goes from 1 to 0";
  out16(0x600, 0xffff);
  EXPECT_FALSE(sci.level);
}

TEST_F(Pm, SmiCommandsSwitchAcpi) {
  EXPECT_EQ(in16(0x604) & 1, 0);
  out(0xb2, kAcpiEnableCommand);
  EXPECT_EQ(in16(0x604) & 1, 1);
  out(0xb2, kAcpiDisableCommand);
  EXPECT_EQ(in16(0x604) & 1, 0);
  out(0xb3, 0x55);
  EXPECT_EQ(in(0xb3), 0x55);
}

TEST_F(Pm, PowerButtonRaisesTheSci) {
  pm.press_power_button();
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(in16(0x600), 0x0100);
  out16(0x602, 0x0100);
  EXPECT_FALSE(sci.level) << "ACPI is off";
  out(0xb2, kAcpiEnableCommand);
  EXPECT_TRUE(sci.level);
  out16(0x600, 0x0100);
  EXPECT_FALSE(sci.level);
}

TEST_F(Pm, SleepEnableWithS5PowersOff) {
  out16(0x604, 0x2000 | 3 << 10);
  EXPECT_EQ(power_offs, 0) << "no such sleep state";
  out16(0x604, 0x2000);
  EXPECT_EQ(power_offs, 1);
  out16(0x604, 0x2000 | 7 << 10);
  EXPECT_EQ(power_offs, 2);
  EXPECT_EQ(in16(0x604) & 0x2000, 0) << "SLP_EN is write-only";
}

TEST_F(Pm, SavesAndRestores) {
  out(0xb2, kAcpiEnableCommand);
  out16(0x602, 0x0100);
  pm.press_power_button();
  const base::Document saved = pm.save();
  FakeLine other_sci;
  AcpiPm other(time, other_sci, AcpiPm::TimerWidth::k24, [] {});
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  EXPECT_TRUE(other_sci.level);
  base::Document bad = saved;
  bad["state"]["control"] = 0x2000;
  EXPECT_FALSE(other.restore(bad));
}

TEST_F(Pm, BearsAnything) {
  fuzz_range(ports, time, 0x600, 0x80, 4, [this](std::mt19937_64& random) {
    out(0xb2 + random() % 2, static_cast<unsigned>(random() & 0xff));
    if (random() % 64 == 0) {
      EXPECT_TRUE(pm.restore(pm.save()));
    }
  });
}

}  // namespace
}  // namespace vert::device

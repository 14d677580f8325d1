// The test devices and the ports that ignore everything.
#include <gtest/gtest.h>

#include "device/legacy/debug_exit.hpp"
#include "device/legacy/ignored_ports.hpp"
#include "device/legacy/pc_testdev.hpp"
#include "device/legacy/reset_control.hpp"
#include "device_test.hpp"

namespace vert::device {
namespace {

struct Reset : testing::Test, PortTest {
  Reset() { EXPECT_TRUE(control.map(ports)); }
  std::vector<ResetKind> resets;
  ResetControl control{[this](ResetKind kind) { resets.push_back(kind); }};
};

TEST_F(Reset, Cf9ActsOnTheRisingBit) {
  out(0xcf9, 0x02);
  EXPECT_TRUE(resets.empty());
  out(0xcf9, 0x06);
  EXPECT_EQ(resets, std::vector{ResetKind::kHard});
  out(0xcf9, 0x0e);
  EXPECT_EQ(resets.size(), 1u) << "the bit was up already";
  EXPECT_EQ(in(0xcf9), 0x0e);
  out(0xcf9, 0x00);
  out(0xcf9, 0x04);
  EXPECT_EQ(resets.back(), ResetKind::kSoft);
}

TEST_F(Reset, Port92) {
  EXPECT_EQ(in(0x92), 0x02);
  out(0x92, 0x00);
  EXPECT_EQ(in(0x92), 0x02) << "A20 stays on";
  out(0x92, 0x03);
  EXPECT_EQ(resets, std::vector{ResetKind::kSoft});
}

TEST_F(Reset, SavesAndRestores) {
  out(0xcf9, 0x02);
  const base::Document saved = control.save();
  ResetControl other([](ResetKind) {});
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  base::Document bad = saved;
  bad["state"]["reset_register"] = 0x10;
  EXPECT_FALSE(other.restore(bad));
}

TEST(DebugExit, PassesTheValueOn) {
  memory::Bus ports;
  std::vector<u32> values;
  DebugExit device([&](u32 value) { values.push_back(value); });
  ASSERT_TRUE(device.map(ports));
  ports.write(0xf4, 1, 0x11);
  ports.write(0xf4, 2, 0x2222);
  ports.write(0xf4, 4, 0x33333333);
  EXPECT_EQ(values, (std::vector<u32>{0x11, 0x2222, 0x33333333}));
  EXPECT_EQ(ports.read(0xf4, 4), 0u);
}

TEST(IgnoredPorts, AreClaimed) {
  memory::Bus ports;
  IgnoredPorts device;
  ASSERT_TRUE(device.map(ports));
  ports.write(0x80, 1, 1);
  ports.write(0xed, 1, 1);
  EXPECT_EQ(ports.read(0x80, 1), 0xffu);
}

struct Testdev : testing::Test, PortTest {
  Testdev() { EXPECT_TRUE(device.map(ports, mmio)); }
  memory::Bus mmio;
  std::array<FakeLine, PcTestdev::kLines> fakes;
  PcTestdev device{[this] {
    std::array<InterruptLine*, PcTestdev::kLines> lines{};
    for (unsigned i = 1; i < lines.size(); ++i) lines[i] = &fakes[i];
    return lines;
  }()};
};

TEST_F(Testdev, OneRegisterOfAnyWidthAtBothPlaces) {
  ports.write(0xe0, 4, 0x12345678);
  EXPECT_EQ(ports.read(0xe0, 4), 0x12345678u);
  EXPECT_EQ(ports.read(0xe1, 1), 0x56u);
  EXPECT_EQ(ports.read(0xe8, 4), 0x12345678u);
  ports.write(0xea, 2, 0xabcd);
  EXPECT_EQ(ports.read(0xe0, 4), 0xabcd5678u);
  ports.write(0xe3, 1, 0x99);
  EXPECT_EQ(ports.read(0xe2, 2), 0x99cdu);
}

TEST_F(Testdev, BytesSetLines) {
  out(0x2000 + 23, 1);
  EXPECT_TRUE(fakes[23].level);
  out(0x2000 + 23, 0);
  EXPECT_FALSE(fakes[23].level);
  out(0x2000, 1);  // not connected
}

TEST_F(Testdev, AWideWriteSetsALineForEachByte) {
  fakes[12].level = true;
  ports.write(0x200b, 4, 0x01000001);
  EXPECT_TRUE(fakes[11].level);
  EXPECT_FALSE(fakes[12].level);
  EXPECT_TRUE(fakes[14].level);
  ports.write(0x2017, 4, 0x0101);
  EXPECT_TRUE(fakes[23].level);
}

TEST_F(Testdev, ResetLowersTheLines) {
  out(0x200a, 1);
  device.reset();
  EXPECT_FALSE(fakes[10].level);
}

TEST_F(Testdev, MemoryBehindMmio) {
  mmio.write(0xff000000, 8, 0x1122334455667788);
  EXPECT_EQ(mmio.read(0xff000001, 4), 0x44556677u);
  mmio.write(0xff00ffff, 8, ~u64{0});
  EXPECT_EQ(mmio.read(0xff00fffe, 8), 0xff00u);
}

TEST_F(Testdev, SavesAndRestores) {
  ports.write(0xe0, 4, 0x12345678);
  mmio.write(0xff000010, 4, 0xdead);
  const base::Document saved = device.save();
  PcTestdev other({});
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  base::Document bad = saved;
  bad["state"]["memory"] = base::Document::binary({1, 2, 3});
  EXPECT_FALSE(other.restore(bad));
}

TEST_F(Testdev, BearsAnything) {
  fuzz_range(ports, time, 0xe0, 12, 6, [](std::mt19937_64&) {});
  fuzz_range(ports, time, 0x2000, 24, 7, [](std::mt19937_64&) {});
  fuzz_range(mmio, time, 0xff000000, 0x10000, 8, [](std::mt19937_64&) {});
}

}  // namespace
}  // namespace vert::device

#include "device/legacy/i8042.hpp"

#include <gtest/gtest.h>

#include "device_test.hpp"

namespace vert::device {
namespace {

struct Keyboard : testing::Test, PortTest {
  Keyboard() { EXPECT_TRUE(controller.map(ports)); }
  void command(unsigned value) { out(0x64, value); }
  void data(unsigned value) { out(0x60, value); }
  /// All that is in the output buffer, one after the other.
  std::vector<int> drain() {
    std::vector<int> bytes;
    while ((in(0x64) & 1) != 0 && bytes.size() < 100) bytes.push_back(in(0x60));
    return bytes;
  }
  std::vector<int> mouse(unsigned value) {
    command(0xd4);
    data(value);
    EXPECT_EQ(in(0x64) & 0x21, 0x21);
    return drain();
  }

  FakeLine irq1;
  FakeLine irq12;
  int resets = 0;
  I8042 controller{irq1, irq12, [this] { ++resets; }};
};

using Bytes = std::vector<int>;

TEST_F(Keyboard, SelfTestsPass) {
  EXPECT_EQ(in(0x64) & 0x05, 0);
  command(0xaa);
  EXPECT_EQ(drain(), Bytes{0x55});
  EXPECT_EQ(in(0x64) & 0x04, 0x04);
  command(0xab);
  EXPECT_EQ(drain(), Bytes{0x00});
  command(0xa9);
  EXPECT_EQ(drain(), Bytes{0x00});
}

TEST_F(Keyboard, CommandByteAndPortSwitches) {
  command(0x60);
  data(0x47);
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x47});
  command(0xa7);
  command(0xad);
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x77});
  command(0xa8);
  command(0xae);
  command(0x20);
  EXPECT_EQ(drain(), Bytes{0x47});
}

TEST_F(Keyboard, LoopsTellTheirSource) {
  command(0xd3);
  data(0x5a);
  EXPECT_EQ(in(0x64) & 0x21, 0x21);
  EXPECT_EQ(drain(), Bytes{0x5a});
  command(0xd2);
  data(0xa5);
  EXPECT_EQ(in(0x64) & 0x21, 0x01);
  EXPECT_EQ(drain(), Bytes{0xa5});
}

TEST_F(Keyboard, KeyboardAnswersProbes) {
  data(0xff);
  EXPECT_EQ(drain(), (Bytes{0xfa, 0xaa}));
  data(0xf2);
  EXPECT_EQ(drain(), (Bytes{0xfa, 0xab, 0x83}));
  data(0xed);
  data(0x07);
  EXPECT_EQ(drain(), (Bytes{0xfa, 0xfa}));
  data(0xf0);
  data(0x00);
  EXPECT_EQ(drain(), (Bytes{0xfa, 0xfa, 0x02}));
  data(0xee);
  EXPECT_EQ(drain(), Bytes{0xee});
  data(0x01);
  EXPECT_EQ(drain(), Bytes{0xfe});
}

TEST_F(Keyboard, MouseAnswersProbes) {
  EXPECT_EQ(mouse(0xff), (Bytes{0xfa, 0xaa, 0x00}));
  EXPECT_EQ(mouse(0xf2), (Bytes{0xfa, 0x00}));
  EXPECT_EQ(mouse(0xe8), Bytes{0xfa});
  EXPECT_EQ(mouse(0x03), Bytes{0xfa});
  EXPECT_EQ(mouse(0xe9).size(), 4u);
}

TEST_F(Keyboard, EachByteIsAnInterrupt) {
  command(0x60);
  data(0x03);
  data(0xf2);
  EXPECT_TRUE(irq1.level);
  EXPECT_EQ(drain().size(), 3u);
  EXPECT_EQ(irq1.rises, 3u);
  EXPECT_FALSE(irq1.level);
  EXPECT_EQ(mouse(0xf2).size(), 2u);
  EXPECT_EQ(irq12.rises, 2u);
  EXPECT_EQ(irq1.rises, 3u);
}

TEST_F(Keyboard, ADisabledPortHoldsItsBytes) {
  data(0xf2);
  EXPECT_EQ(in(0x60), 0xfa);
  command(0xad);
  EXPECT_EQ(in(0x60), 0xab) << "was out already";
  EXPECT_EQ(in(0x64) & 1, 0);
  command(0xae);
  EXPECT_EQ(drain(), Bytes{0x83});
}

TEST_F(Keyboard, ResetsByPulseAndByOutputPort) {
  command(0xff);
  EXPECT_EQ(resets, 0);
  command(0xfe);
  EXPECT_EQ(resets, 1);
  command(0xd1);
  data(0xdf);
  EXPECT_EQ(resets, 1);
  command(0xd1);
  data(0xde);
  EXPECT_EQ(resets, 2);
  command(0xd0);
  EXPECT_EQ(drain(), Bytes{0xcf}) << "A20 is on";
}

TEST_F(Keyboard, SavesAndRestores) {
  command(0x60);
  data(0x01);
  data(0xf2);
  command(0xd4);
  const base::Document saved = controller.save();
  FakeLine other1;
  FakeLine other12;
  I8042 other(other1, other12, [] {});
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  EXPECT_TRUE(other1.level);
  for (const auto& [field, value] :
       {std::pair{"data_for", 0xaa}, {"keyboard_command", 1}, {"mouse_command", 1}}) {
    base::Document bad = saved;
    bad["state"][field] = value;
    EXPECT_FALSE(other.restore(bad)) << field;
  }
  base::Document bad = saved;
  bad["state"]["mouse"]["count"] = 17;
  EXPECT_FALSE(other.restore(bad));
}

TEST_F(Keyboard, BearsAnything) {
  fuzz_range(ports, time, 0x60, 5, 5, [this](std::mt19937_64& random) {
    if (random() % 64 == 0) {
      EXPECT_TRUE(controller.restore(controller.save()));
    }
  });
}

}  // namespace
}  // namespace vert::device

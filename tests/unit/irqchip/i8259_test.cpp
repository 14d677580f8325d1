// The 8259s through their ports (8259A datasheet).
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "device/irqchip/i8259.hpp"

namespace vert::test {
namespace {

using device::I8259;

constexpr u64 kMaster = 0x20;
constexpr u64 kSlave = 0xA0;
constexpr u8 kEoi = 0x20;

struct Pic : testing::Test {
  Pic() {
    EXPECT_TRUE(pic.attach(bus));
    pic.set_output_callback([this] { ++callbacks; });
    init(0x01, 0x01);
  }
  void out(u64 port, u8 value) { bus.write(port, 1, value); }
  u8 in(u64 port) { return static_cast<u8>(bus.read(port, 1)); }
  /// As a BIOS does: vectors 08h and 70h, nothing masked.
  void init(u8 master_icw4, u8 slave_icw4) {
    start(kMaster, 0x08, 0x04, master_icw4);
    start(kSlave, 0x70, 0x02, slave_icw4);
  }
  void start(u64 port, u8 icw2, u8 icw3, u8 icw4) {
    out(port, 0x11);
    out(port + 1, icw2);
    out(port + 1, icw3);
    out(port + 1, icw4);
  }
  void pulse(unsigned irq) {
    pic.set_input(irq, true);
    pic.set_input(irq, false);
  }
  u8 isr(u64 port) {
    out(port, 0x0B);
    return in(port);
  }
  u8 irr(u64 port) {
    out(port, 0x0A);
    return in(port);
  }

  memory::Bus bus;
  I8259 pic;
  unsigned callbacks = 0;
};

TEST_F(Pic, FixedPriorityAndNesting) {
  pulse(4);
  pulse(1);
  EXPECT_TRUE(pic.pending());
  EXPECT_EQ(irr(kMaster), 0x12);
  EXPECT_EQ(pic.acknowledge(), 0x09);
  EXPECT_FALSE(pic.pending());  // 4 lies below 1
  pulse(0);
  EXPECT_EQ(pic.acknowledge(), 0x08);
  EXPECT_EQ(isr(kMaster), 0x03);
  out(kMaster, kEoi);
  EXPECT_EQ(isr(kMaster), 0x02);
  out(kMaster, kEoi);
  EXPECT_EQ(pic.acknowledge(), 0x0C);
  out(kMaster, 0x64);  // specific EOI
  EXPECT_EQ(isr(kMaster), 0x00);
}

TEST_F(Pic, CascadeNeedsBothEois) {
  pulse(8);
  EXPECT_EQ(pic.acknowledge(), 0x70);
  EXPECT_EQ(isr(kMaster), 0x04);
  EXPECT_EQ(isr(kSlave), 0x01);
  pulse(12);
  pulse(3);
  out(kSlave, kEoi);
  EXPECT_FALSE(pic.pending());  // the master still serves its input 2
  out(kMaster, kEoi);
  EXPECT_EQ(pic.acknowledge(), 0x74);  // 8..15 lie above 3
  out(kSlave, kEoi);
  out(kMaster, kEoi);
  EXPECT_EQ(pic.acknowledge(), 0x0B);
}

TEST_F(Pic, SpecialFullyNestedModeLetsTheSlaveNest) {
  init(0x11, 0x01);
  pulse(12);
  EXPECT_EQ(pic.acknowledge(), 0x74);
  pulse(3);
  EXPECT_FALSE(pic.pending());
  pulse(8);
  EXPECT_EQ(pic.acknowledge(), 0x70);
  EXPECT_EQ(isr(kSlave), 0x11);
}

TEST_F(Pic, SpuriousVectorsSetNoIsr) {
  EXPECT_EQ(pic.acknowledge(), 0x0F);
  EXPECT_EQ(isr(kMaster), 0x00);
  out(kSlave, 0x08);  // nothing
  pulse(10);
  out(kSlave + 1, 0xFF);  // masked between INT and INTA: the request at the master goes with it
  EXPECT_FALSE(pic.pending());
  EXPECT_EQ(pic.acknowledge(), 0x0F);
  out(kSlave + 1, 0x00);
  EXPECT_EQ(pic.acknowledge(), 0x72);
}

TEST_F(Pic, MaskHoldsEdgesBack) {
  out(kMaster + 1, 0x20);
  pulse(5);
  EXPECT_FALSE(pic.pending());
  EXPECT_EQ(in(kMaster + 1), 0x20);
  out(kMaster + 1, 0x00);
  EXPECT_EQ(pic.acknowledge(), 0x0D);
}

TEST_F(Pic, EdgeIsTakenOnceAndLevelUntilItDrops) {
  pic.set_input(5, true);
  pic.set_input(5, true);
  EXPECT_EQ(pic.acknowledge(), 0x0D);
  out(kMaster, kEoi);
  EXPECT_FALSE(pic.pending());
  pic.set_input(5, false);
  out(0x4D0, 0x20);
  EXPECT_EQ(in(0x4D0), 0x20);
  pic.set_input(5, true);
  EXPECT_EQ(pic.acknowledge(), 0x0D);
  out(kMaster, kEoi);
  EXPECT_EQ(pic.acknowledge(), 0x0D);
  out(kMaster, kEoi);
  EXPECT_TRUE(pic.pending());
  pic.set_input(5, false);
  EXPECT_FALSE(pic.pending());
}

TEST_F(Pic, ElcrLeavesSystemInputsEdges) {
  out(0x4D0, 0xFF);
  out(0x4D1, 0xFF);
  EXPECT_EQ(bus.read(0x4D0, 2), 0xDEF8U);
}

TEST_F(Pic, RotationsMoveThePriority) {
  pulse(3);
  EXPECT_EQ(pic.acknowledge(), 0x0B);
  out(kMaster, 0xA0);  // rotate on non-specific EOI: 4 is first now, 3 last
  pulse(3);
  pulse(7);
  EXPECT_EQ(pic.acknowledge(), 0x0F);
  out(kMaster, 0xE7);  // rotate on specific EOI of 7: 0 is first
  EXPECT_EQ(pic.acknowledge(), 0x0B);
  out(kMaster, kEoi);
  out(kMaster, 0xC5);  // set priority: 5 is last, 6 first
  pulse(0);
  pulse(6);
  EXPECT_EQ(pic.acknowledge(), 0x0E);
}

TEST_F(Pic, AutoEoiWithRotation) {
  init(0x03, 0x01);
  pulse(1);
  EXPECT_EQ(pic.acknowledge(), 0x09);
  EXPECT_EQ(isr(kMaster), 0x00);
  out(kMaster, 0x80);
  pulse(1);
  EXPECT_EQ(pic.acknowledge(), 0x09);  // 2 is first now, 1 last
  pulse(0);
  pulse(7);
  EXPECT_EQ(pic.acknowledge(), 0x0F);
  out(kMaster, 0x00);
}

TEST_F(Pic, SpecialMaskModeOpensLowerPriorities) {
  pulse(1);
  EXPECT_EQ(pic.acknowledge(), 0x09);
  pulse(6);
  EXPECT_FALSE(pic.pending());
  out(kMaster + 1, 0x02);
  EXPECT_FALSE(pic.pending());
  out(kMaster, 0x68);
  EXPECT_EQ(pic.acknowledge(), 0x0E);
  out(kMaster, kEoi);  // ends 6: 1 is masked, and passed over
  EXPECT_EQ(isr(kMaster), 0x02);
  out(kMaster, 0x48);
}

TEST_F(Pic, PollAcknowledges) {
  out(kMaster, 0x0C);
  EXPECT_EQ(in(kMaster), 0x00);
  pulse(6);
  out(kMaster, 0x0C);
  EXPECT_EQ(in(kMaster), 0x86);
  EXPECT_FALSE(pic.pending());
  EXPECT_EQ(isr(kMaster), 0x40);
}

TEST_F(Pic, InitialisationForgetsEdgesAndBlocksUntilDone) {
  pulse(5);
  pic.set_input(6, true);
  out(kMaster, 0x11);
  pulse(4);
  EXPECT_FALSE(pic.pending());
  out(kMaster + 1, 0x2F);
  out(kMaster + 1, 0x04);
  out(kMaster + 1, 0x01);
  EXPECT_EQ(pic.acknowledge(), 0x2C);
  EXPECT_EQ(irr(kMaster), 0x00);
  out(kMaster, 0x12);  // alone, without ICW4: one word more
  out(kMaster + 1, 0x40);
  out(kMaster + 1, 0xFE);
  EXPECT_EQ(in(kMaster + 1), 0xFE);
}

TEST_F(Pic, TellsOfItsOutput) {
  callbacks = 0;
  pic.set_input(3, true);
  EXPECT_EQ(callbacks, 1U);
  static_cast<void>(pic.acknowledge());
  EXPECT_EQ(callbacks, 2U);
  pic.set_input(3, false);
  EXPECT_EQ(callbacks, 2U);
}

TEST_F(Pic, InputsThatAreNoneAreIgnored) {
  pic.set_input(2, true);
  pic.set_input(16, true);
  pic.set_input(~0U, true);
  EXPECT_FALSE(pic.pending());
}

TEST_F(Pic, WideAccessesFallApart) {
  bus.write(kMaster + 1, 2, 0xFF0F);
  EXPECT_EQ(in(kMaster + 1), 0x0F);
  EXPECT_EQ(bus.read(kMaster, 4), 0xFFFF0F00U);
}

TEST_F(Pic, RoundTrip) {
  init(0x11, 0x03);
  out(0x4D1, 0x0A);
  pulse(8);
  static_cast<void>(pic.acknowledge());
  pulse(1);
  pic.set_input(9, true);
  out(kSlave, 0x11);
  out(kSlave + 1, 0x78);
  I8259 other;
  ASSERT_TRUE(other.restore(pic.save()));
  EXPECT_EQ(other.save(), pic.save());
  EXPECT_TRUE(other.pending());
  EXPECT_EQ(other.acknowledge(), 0x09);
  other.reset();
  EXPECT_FALSE(other.pending());
}

TEST_F(Pic, RefusesWhatCannotBe) {
  const struct {
    const char* what;
    std::function<void(base::Document&)> spoil;
  } cases[] = {
      {"elcr", [](auto& s) { s[0]["elcr"] = 1; }},
      {"vector", [](auto& s) { s[1]["vector_base"] = 3; }},
      {"top", [](auto& s) { s[0]["top"] = 8; }},
      {"step 1", [](auto& s) { s[0]["init_step"] = 1; }},
      {"step 5", [](auto& s) { s[1]["init_step"] = 5; }},
      {"width", [](auto& s) { s[0]["irr"] = 256; }},
  };
  const base::Document good = pic.save();
  for (const auto& [what, spoil] : cases) {
    base::Document bad = good;
    spoil(bad["state"]["chips"]);
    EXPECT_FALSE(pic.restore(bad)) << what;
  }
  EXPECT_EQ(pic.save(), good);
}

TEST_F(Pic, SurvivesRandomUse) {
  std::mt19937_64 random(3);
  const auto below = [&](u32 limit) { return static_cast<u32>(random() % limit); };
  constexpr u64 kPorts[] = {0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1};
  for (unsigned step = 0; step < 50'000; ++step) {
    const u64 port = kPorts[below(6)];
    const unsigned size = 1U << below(3);
    switch (below(4)) {
      case 0: static_cast<void>(bus.read(port, size)); break;
      case 1: bus.write(port, size, random()); break;
      case 2: pic.set_input(below(17), below(2) == 0); break;
      default: static_cast<void>(pic.acknowledge());
    }
    if (step % 64 == 0) {
      I8259 other;
      ASSERT_TRUE(other.restore(pic.save())) << step;
      ASSERT_EQ(other.pending(), pic.pending()) << step;
    }
  }
}

}  // namespace
}  // namespace vert::test

// The I/O APIC and MSI, with real local APICs behind them.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "device/irqchip/io_apic.hpp"
#include "device/irqchip/msi.hpp"
#include "unit/cpu_apic/apic_machine.hpp"

namespace vert::test {
namespace {

using device::IoApic;
using M = ApicMachine;

constexpr u32 kMask = 1U << 16;
constexpr u32 kLevel = 1U << 15;
constexpr u32 kRemoteIrr = 1U << 14;

struct IoApicTest : testing::Test {
  IoApicTest() : m(3), io(m.fabric) {
    m.enable();
    m.fabric.set_eoi_listener(&io);
  }
  u32 get(u32 index) {
    io.write(0x00, 4, index);
    return static_cast<u32>(io.read(0x10, 4));
  }
  void put(u32 index, u32 value) {
    io.write(0x00, 4, index);
    io.write(0x10, 4, value);
  }
  /// Programs a pin for a destination in its upper half and `low`.
  void entry(unsigned pin, u32 destination, u32 low) {
    put(0x11 + pin * 2, destination << 24);
    put(0x10 + pin * 2, low);
  }
  u32 low(unsigned pin) { return get(0x10 + pin * 2); }

  M m;
  IoApic io;
};

TEST_F(IoApicTest, Identity) {
  EXPECT_EQ(get(0x01), 0x00170020U);
  put(0x00, 0xFF000000);
  EXPECT_EQ(get(0x00), 0x0F000000U);
  EXPECT_EQ(get(0x02), 0x0F000000U);
  EXPECT_EQ(get(0x10), kMask);
  EXPECT_EQ(get(0x3F), 0U);
  EXPECT_EQ(get(0x40), 0U);  // past the last pin
  EXPECT_EQ(io.read(0x00, 4), 0x40U);
  put(0x10, 0xFFFFFFFF);
  EXPECT_EQ(get(0x10), 0x1AFFFU);  // delivery status and remote IRR are read-only
}

TEST_F(IoApicTest, EdgesAreSentOncePerRise) {
  entry(4, 1, 0x61);
  io.set_pin(4, true);
  EXPECT_EQ(m.drain(1), (std::vector<u8>{0x61}));
  io.set_pin(4, true);
  EXPECT_TRUE(m.drain(1).empty());
  io.set_pin(4, false);
  io.set_pin(4, true);
  EXPECT_EQ(m.drain(1), (std::vector<u8>{0x61}));
  EXPECT_EQ(low(4), 0x61U);
}

TEST_F(IoApicTest, MaskedEdgesAreLostAndMaskedLevelsWait) {
  entry(4, 0, kMask | 0x61);
  entry(5, 0, kMask | kLevel | 0x62);
  io.set_pin(4, true);
  io.set_pin(5, true);
  EXPECT_TRUE(m.drain().empty());
  entry(4, 0, 0x61);
  EXPECT_TRUE(m.drain().empty());
  entry(5, 0, kLevel | 0x62);
  EXPECT_TRUE(m.apic().has_interrupt());
}

TEST_F(IoApicTest, LevelIsSentAgainAtEoiWhileItIsAsserted) {
  entry(17, 2, kLevel | 0x71);
  io.set_pin(17, true);
  EXPECT_EQ(low(17), kLevel | kRemoteIrr | 0x71U);
  EXPECT_EQ(m.apic(2).acknowledge(), 0x71);
  io.set_pin(17, false);
  io.set_pin(17, true);  // remote IRR: nothing is sent
  EXPECT_FALSE(m.apic(2).has_interrupt());
  m.apic(2).mmio_write(M::kEoi, 0);
  EXPECT_EQ(m.apic(2).acknowledge(), 0x71);
  io.set_pin(17, false);
  m.apic(2).mmio_write(M::kEoi, 0);
  EXPECT_EQ(low(17), kLevel | 0x71U);
  EXPECT_FALSE(m.apic(2).has_interrupt());
}

TEST_F(IoApicTest, EoiReachesAllPinsOfTheVectorOnly) {
  entry(16, 0, kLevel | 0x71);
  entry(17, 0, kLevel | 0x71);
  entry(18, 0, kLevel | 0x81);
  for (const unsigned pin : {16U, 17U, 18U}) io.set_pin(pin, true);
  for (const unsigned pin : {16U, 17U, 18U}) io.set_pin(pin, false);
  io.write(0x40, 4, 0x71);  // the EOI register
  EXPECT_EQ(low(16), kLevel | 0x71U);
  EXPECT_EQ(low(17), kLevel | 0x71U);
  EXPECT_EQ(low(18), kLevel | kRemoteIrr | 0x81U);
}

TEST_F(IoApicTest, SwitchingToEdgeClearsRemoteIrr) {
  entry(17, 0, kLevel | 0x71);
  io.set_pin(17, true);
  io.set_pin(17, false);
  put(0x10 + 34, kMask | 0x71);
  EXPECT_EQ(low(17), kMask | 0x71U);
  put(0x10 + 34, kLevel | 0x71);
  EXPECT_EQ(low(17), kLevel | 0x71U);
}

TEST_F(IoApicTest, RefusedLevelIsSentWhenItCanBe) {
  m.apic(1).mmio_write(M::kSvr, 0xFF);
  entry(17, 1, kLevel | 0x71);
  io.set_pin(17, true);
  EXPECT_EQ(low(17), kLevel | 0x71U);
  m.apic(1).mmio_write(M::kSvr, 0x1FF);
  entry(17, 1, kLevel | 0x71);
  EXPECT_EQ(m.apic(1).acknowledge(), 0x71);
}

TEST_F(IoApicTest, ModesAndDestinations) {
  entry(1, 0, 0x400);  // NMI, level bit or not, is an edge
  entry(2, 1, kLevel | 0x400);
  entry(3, 0xFF, 0x62);
  entry(4, 0, 0x600);  // reserved
  entry(5, 2, 0x500);
  for (const unsigned pin : {1U, 2U, 4U, 5U}) io.set_pin(pin, true);
  EXPECT_EQ(m.events(0).take(~0U), cpu::VcpuEvents::kNmi);
  EXPECT_EQ(m.events(1).take(~0U), cpu::VcpuEvents::kNmi);
  EXPECT_EQ(m.events(2).take(~0U), cpu::VcpuEvents::kInit);
  EXPECT_EQ(low(2), kLevel | 0x400U);
  m.enter_x2apic();
  io.set_pin(3, true);  // FFh is a broadcast to x2APICs too
  for (unsigned i = 0; i < 3; ++i) EXPECT_EQ(m.apic(i).acknowledge(), 0x62);
}

TEST_F(IoApicTest, RoundTripKeepsAwaitedEois) {
  entry(17, 2, kLevel | 0x71);
  io.set_pin(17, true);
  put(0x00, 0x05000000);
  IoApic other(m.fabric);
  static_cast<void>(m.apic(2).acknowledge());
  ASSERT_TRUE(other.restore(io.save()));
  EXPECT_EQ(other.save(), io.save());
  EXPECT_FALSE(m.apic(2).has_interrupt());
  m.fabric.set_eoi_listener(&other);
  m.apic(2).mmio_write(M::kEoi, 0);
  EXPECT_EQ(m.apic(2).acknowledge(), 0x71);
  other.reset();
  other.write(0x00, 4, 0x32);
  EXPECT_EQ(other.read(0x10, 4), kMask);
}

TEST_F(IoApicTest, RefusesWhatCannotBe) {
  const struct {
    const char* what;
    std::function<void(base::Document&)> spoil;
  } cases[] = {
      {"id", [](auto& s) { s["id"] = 16; }},
      {"levels", [](auto& s) { s["levels"] = 1U << 24; }},
      {"delivery status", [](auto& s) { s["entries"][3] = 1U << 12; }},
      {"remote IRR of an edge", [](auto& s) { s["entries"][3] = 1U << 14; }},
      {"pins", [](auto& s) { s["entries"].push_back(0); }},
  };
  const base::Document good = io.save();
  for (const auto& [what, spoil] : cases) {
    base::Document bad = good;
    spoil(bad["state"]);
    EXPECT_FALSE(io.restore(bad)) << what;
  }
  EXPECT_EQ(io.save(), good);
}

TEST_F(IoApicTest, SurvivesRandomUse) {
  std::mt19937_64 random(4);
  const auto below = [&](u32 limit) { return static_cast<u32>(random() % limit); };
  for (unsigned step = 0; step < 50'000; ++step) {
    switch (below(6)) {
      case 0: static_cast<void>(io.read(below(0x1000), 1U << below(4))); break;
      case 1: io.write(below(0x50), 1U << below(4), random()); break;
      case 2: put(below(0x44), static_cast<u32>(random() >> below(32))); break;
      case 3: io.end_of_interrupt(static_cast<u8>(random())); break;
      case 4: static_cast<void>(m.drain(below(3))); break;
      default: io.set_pin(below(25), below(2) != 0);
    }
    if (step % 256 == 0) {
      IoApic other(m.fabric);
      ASSERT_TRUE(other.restore(io.save())) << step;
    }
  }
}

TEST(Msi, DecodesAddressAndData) {
  const auto plain = device::decode_msi(0xFEE02000, 0x0045);
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->destination, 2U);
  EXPECT_EQ(plain->vector, 0x45);
  EXPECT_FALSE(plain->logical);
  EXPECT_FALSE(plain->level_triggered);
  EXPECT_EQ(plain->mode, cpu::DeliveryMode::kFixed);
  const auto redirected = device::decode_msi(0xFEE0300C, 0xC045);
  ASSERT_TRUE(redirected);
  EXPECT_TRUE(redirected->logical);
  EXPECT_TRUE(redirected->level_triggered);
  EXPECT_TRUE(redirected->assert_level);
  EXPECT_EQ(redirected->mode, cpu::DeliveryMode::kLowestPriority);
  EXPECT_FALSE(device::decode_msi(0xFEE02000, 0x8045)->assert_level);
  EXPECT_EQ(device::decode_msi(0xFEEFF000, 0x45)->destination, cpu::kBroadcastDestination);
  EXPECT_EQ(device::decode_msi(0xFEE00000, 0x400)->mode, cpu::DeliveryMode::kNmi);
  EXPECT_FALSE(device::decode_msi(0xFED00000, 0x45));
  EXPECT_FALSE(device::decode_msi(0x1'FEE0'0000, 0x45));
  EXPECT_FALSE(device::decode_msi(0xFEE00000, 0x345));
  EXPECT_FALSE(device::decode_msi(0xFEE00000, 0x645));
}

TEST(Msi, ArrivesAtItsDestination) {
  M m(2);
  m.enable();
  EXPECT_TRUE(device::send_msi(m.fabric, 0xFEE01000, 0x45));
  EXPECT_EQ(m.drain(1), (std::vector<u8>{0x45}));
  EXPECT_FALSE(device::send_msi(m.fabric, 0xFEE01000, 0x8045));  // a level's de-assertion
  EXPECT_FALSE(device::send_msi(m.fabric, 0xFEE09000, 0x45));
  EXPECT_FALSE(device::send_msi(m.fabric, 0, 0x45));
}

}  // namespace
}  // namespace vert::test

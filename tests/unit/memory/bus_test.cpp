// Bus: dispatch, unclaimed addresses, and what cannot be mapped.
#include "memory/bus.hpp"

#include <gtest/gtest.h>

namespace vert::test {
namespace {

class LastAccess final : public memory::BusDevice {
 public:
  u64 read(u64 at, unsigned width) override {
    offset = at;
    size = width;
    return ~u64{0x11};
  }
  void write(u64 at, unsigned width, u64 what) override {
    offset = at;
    size = width;
    value = what;
  }
  u64 offset = ~u64{0};
  unsigned size = 0;
  u64 value = 0;
};

TEST(Bus, DispatchesByRange) {
  memory::Bus bus;
  LastAccess a, b;
  ASSERT_TRUE(bus.map(0x100, 0x10, a, "a").has_value());
  ASSERT_TRUE(bus.map(0x110, 0x10, b, "b").has_value());
  EXPECT_EQ(bus.read(0x10F, 1), 0xEEU);
  EXPECT_EQ(a.offset, 0xFU);
  bus.write(0x110, 4, 0x1'2345'6789);
  EXPECT_EQ(b.offset, 0U);
  EXPECT_EQ(b.size, 4U);
  EXPECT_EQ(b.value, 0x2345'6789U);
  bus.write(0x118, 8, ~u64{0});
  EXPECT_EQ(b.value, ~u64{0});
}

TEST(Bus, UnclaimedReadsAreOnesAndWritesVanish) {
  memory::Bus bus;
  LastAccess a;
  ASSERT_TRUE(bus.map(0x100, 0x10, a, "a").has_value());
  for (const u64 address : {u64{0}, u64{0xFF}, u64{0x110}, ~u64{0}}) {
    EXPECT_EQ(bus.read(address, 1), 0xFFU);
    EXPECT_EQ(bus.read(address, 2), 0xFFFFU);
    EXPECT_EQ(bus.read(address, 4), 0xFFFF'FFFFU);
    EXPECT_EQ(bus.read(address, 8), ~u64{0});
    bus.write(address, 4, 1);
  }
  EXPECT_EQ(a.size, 0U);
}

TEST(Bus, RefusesOverlapsAndNonsense) {
  memory::Bus bus;
  LastAccess a;
  ASSERT_TRUE(bus.map(0x100, 0x10, a, "first").has_value());
  for (const auto& [base, size] :
       {std::pair<u64, u64>{0x100, 0x10}, {0xF1, 0x10}, {0x10F, 1}, {0x104, 2}, {0, 0x1000}, {0, ~u64{0}}}) {
    const auto status = bus.map(base, size, a, "second");
    ASSERT_FALSE(status.has_value()) << base;
    EXPECT_NE(status.error().message.find("first"), std::string::npos);
  }
  EXPECT_FALSE(bus.map(0x200, 0, a, "empty").has_value());
  EXPECT_FALSE(bus.map(~u64{0}, 2, a, "wraps").has_value());
  EXPECT_TRUE(bus.map(0xF0, 0x10, a, "before").has_value());
  EXPECT_TRUE(bus.map(~u64{0}, 1, a, "last").has_value());
}

TEST(Bus, UnmapFreesTheRange) {
  memory::Bus bus;
  LastAccess a;
  ASSERT_TRUE(bus.map(0x100, 0x10, a, "a").has_value());
  bus.unmap(0x104);  // not a base: nothing happens
  EXPECT_EQ(bus.read(0x100, 1), 0xEEU);
  bus.unmap(0x100);
  EXPECT_EQ(bus.read(0x100, 1), 0xFFU);
  EXPECT_TRUE(bus.map(0x108, 0x10, a, "b").has_value());
}

}  // namespace
}  // namespace vert::test

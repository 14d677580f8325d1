// MSI-X: messages go out while nothing masks them, and wait otherwise.
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "device/pci/msix.hpp"

namespace vert::test {
namespace {

using device::Msix;
using Message = std::pair<u64, u32>;

constexpr Msix::Control kOn{.enabled = true, .function_masked = false, .bus_master = true};

class MsixTest : public testing::Test {
 protected:
  void set_vector(unsigned vector, u64 address, u32 data, bool masked = false) {
    msix_.write(vector * 16U, 8, address);
    msix_.write(vector * 16U + 8, 4, data);
    msix_.write(vector * 16U + 12, 4, masked ? 1 : 0);
  }
  std::vector<Message> take() { return std::exchange(sent_, {}); }
  [[nodiscard]] u64 pending() const { return msix_.read(Msix::kPendingOffset, 8); }

  std::vector<Message> sent_;
  Msix msix_{40, [this](u64 address, u32 data) { sent_.emplace_back(address, data); }};
};

TEST_F(MsixTest, SendsTheMessageOfTheVector) {
  msix_.set_control(kOn);
  set_vector(3, 0x1'FEE0'1000, 0x4021);
  msix_.notify(3);
  EXPECT_EQ(take(), (std::vector<Message>{{0x1'FEE0'1000, 0x4021}}));
  EXPECT_EQ(pending(), 0U);
}

TEST_F(MsixTest, TheTableReadsAsItWasWritten) {
  set_vector(39, 0x1'FEE0'1003, 0x4021);
  EXPECT_EQ(msix_.read(39 * 16, 8), 0x1'FEE0'1000U) << "the low two bits are reserved";
  EXPECT_EQ(msix_.read(39 * 16 + 4, 4), 1U);
  EXPECT_EQ(msix_.read(39 * 16 + 8, 8), 0x4021U);
  EXPECT_EQ(msix_.read(12, 4), 1U) << "vectors are masked at first";
  msix_.write(Msix::kPendingOffset, 8, ~u64{0});
  EXPECT_EQ(pending(), 0U) << "pending bits are read-only";
}

TEST_F(MsixTest, AMaskedVectorWaitsUntilItIsUnmasked) {
  msix_.set_control(kOn);
  set_vector(33, 0xFEE0'0000, 0x22, true);
  msix_.notify(33);
  msix_.notify(33);
  EXPECT_TRUE(take().empty());
  EXPECT_EQ(pending(), u64{1} << 33);
  msix_.write(33 * 16 + 12, 4, 0);
  EXPECT_EQ(take(), (std::vector<Message>{{0xFEE0'0000, 0x22}})) << "once, however often it was asked for";
  EXPECT_EQ(pending(), 0U);
}

TEST_F(MsixTest, AMaskedFunctionOrOneThatIsNoBusMasterWaits) {
  for (const bool bus_master : {false, true}) {
    set_vector(1, 0xFEE0'0000, 0x22);
    msix_.set_control({.enabled = true, .function_masked = bus_master, .bus_master = bus_master});
    msix_.notify(1);
    EXPECT_TRUE(take().empty());
    EXPECT_EQ(pending(), 2U);
    msix_.set_control(kOn);
    EXPECT_EQ(take().size(), 1U);
  }
}

TEST_F(MsixTest, NothingIsKeptWhileItIsOffOrForVectorsBeyondTheTable) {
  set_vector(1, 0xFEE0'0000, 0x22);
  msix_.notify(1);
  msix_.set_control(kOn);
  msix_.notify(40);
  msix_.notify(~0U);
  EXPECT_TRUE(take().empty());
  EXPECT_EQ(pending(), 0U);
}

TEST_F(MsixTest, AccessesOfOtherSizesAndPlacesDoNothing) {
  for (const u64 offset :
       {u64{1}, u64{2}, u64{40 * 16}, u64{Msix::kRegionSize - 1}, u64{Msix::kRegionSize}}) {
    for (const unsigned size : {1U, 2U, 4U, 8U}) {
      msix_.write(offset, size, ~u64{0});
      EXPECT_EQ(msix_.read(offset, size), 0U) << offset << ' ' << size;
    }
  }
  EXPECT_EQ(msix_.read(0, 8), 0U);
}

TEST_F(MsixTest, GoesOnFromItsState) {
  msix_.set_control(kOn);
  set_vector(2, 0xFEE0'0000, 0x22, true);
  msix_.notify(2);
  const auto state = msix_.save();
  msix_.reset();
  EXPECT_EQ(pending(), 0U);
  EXPECT_EQ(msix_.read(2 * 16, 8), 0U);
  ASSERT_TRUE(msix_.restore(state));
  msix_.set_control(kOn);
  msix_.write(2 * 16 + 12, 4, 0);
  EXPECT_EQ(take(), (std::vector<Message>{{0xFEE0'0000, 0x22}}));
  EXPECT_FALSE(msix_.restore({}));
}

}  // namespace
}  // namespace vert::test

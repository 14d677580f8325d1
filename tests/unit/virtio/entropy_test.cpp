// The entropy device, from the driver's request to its bytes.
#include <algorithm>
#include <chrono>
#include <thread>

#include "device/virtio/entropy.hpp"
#include "pci_rig.hpp"

namespace vert::test {
namespace {

using device::virtio::Entropy;
using namespace std::chrono_literals;

constexpr u64 kData = DriverRig::kData;

class EntropyTest : public testing::TestWithParam<QueueFeatures> {
 protected:
  EntropyTest() : rig_(Entropy::create().value(), GetParam()) { rig_.start(feature_bits(GetParam())); }
  std::optional<Used> wait_for_used() { return rig_.driver->wait_for_used(); }
  [[nodiscard]] bool is_zero(u64 address, u32 size) {
    std::vector<u8> bytes(size);
    EXPECT_TRUE(rig_.driver->memory->read(Gpa(address), bytes));
    return std::ranges::all_of(bytes, [](u8 byte) { return byte == 0; });
  }

  PciRig rig_;
};

TEST_P(EntropyTest, FillsBuffersWithRandomBytes) {
  // More than the ring holds, so that the device has to see new ones.
  for (int round = 0; round < 20; ++round) {
    const u64 at = kData + static_cast<u64>(round) * 0x1000;
    const u16 id = rig_.driver->offer({{at, 600, true}, {at + 0x800, 40, true}});
    rig_.doorbell(0);
    ASSERT_EQ(wait_for_used(), (Used{id, 640})) << round;
    EXPECT_FALSE(is_zero(at, 600));
    EXPECT_FALSE(is_zero(at + 0x800, 40));
    EXPECT_TRUE(is_zero(at + 600, 0x800 - 600)) << "nothing beyond the buffer";
  }
}

TEST_P(EntropyTest, AnswersAHugeBufferInPart) {
  const u16 id = rig_.driver->offer({{kData, 0x20000, true}});
  rig_.doorbell(0);
  EXPECT_EQ(wait_for_used(), (Used{id, Entropy::kMaxFill}));
}

TEST_P(EntropyTest, ABrokenRingNeedsReset) {
  rig_.driver->offer({{DriverRig::kRamSize, 16, true}});
  rig_.doorbell(0);
  for (int i = 0; i < 10'000 && (rig_.status() & status::kNeedsReset) == 0; ++i)
    std::this_thread::sleep_for(1ms);
  EXPECT_NE(rig_.status() & status::kNeedsReset, 0);
}

TEST(EntropyReset, AtAnyMomentLeavesGuestMemoryAlone) {
  constexpr u16 kResetControl = 4;
  for (int round = 0; round < 120; ++round) {
    PciRig rig(Entropy::create().value());
    rig.start();
    for (int i = 0; i < 4; ++i) rig.driver->offer({{kData, 0x8000, true}}, false);
    rig.doorbell(0);
    std::this_thread::sleep_for(std::chrono::microseconds(round / 2 * 5));
    if (round % 2 == 0)
      rig.write(PciRig::kStatus, 1, 0);
    else
      rig.pci.config_write(static_cast<u16>(rig.capability(0x13) + kResetControl), 1, 1);
    rig.driver->memory->set_dirty_log(true);
    std::this_thread::sleep_for(500us);
    EXPECT_TRUE(rig.driver->memory->take_dirty().empty()) << round;
  }
}

constexpr QueueFeatures kSplit{};
constexpr QueueFeatures kPackedAll{.packed = true, .indirect = true, .event_index = true};
INSTANTIATE_TEST_SUITE_P(Rings, EntropyTest, testing::Values(kSplit, kPackedAll),
                         [](const auto& parameter) { return parameter.param.packed ? "packed" : "split"; });

}  // namespace
}  // namespace vert::test

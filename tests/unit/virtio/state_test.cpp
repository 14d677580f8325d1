// A device goes on in another machine where it was, and refuses states that it cannot have.
#include <string>

#include "device/virtio/console.hpp"
#include "device/virtio/entropy.hpp"
#include "pci_rig.hpp"

namespace vert::test {
namespace {

using base::Document;
using device::virtio::Console;
using device::virtio::Entropy;
using namespace std::chrono_literals;

constexpr u64 kData = DriverRig::kData;

class StateTest : public testing::TestWithParam<QueueFeatures> {
 protected:
  /// Another machine with the same memory, as after a migration.
  void restore(const Document& document) {
    second_.emplace(Entropy::create().value(), GetParam(), rig_.driver->memory);
    second_->pci.pause();
    const Status restored = second_->pci.restore(document);
    ASSERT_TRUE(restored) << restored.error().message;
    EXPECT_EQ(second_->pci.save().value(), document);
    second_->pci.resume();
  }
  [[nodiscard]] Document save() {
    rig_.pci.pause();
    return rig_.pci.save().value();
  }
  void expect_answer(PciRig& rig) {
    const u16 id = rig_.driver->offer({{kData, 64, true}});
    rig.doorbell(0);
    EXPECT_EQ(rig_.driver->wait_for_used(), (Used{id, 64}));
  }

  PciRig rig_{Entropy::create().value(), GetParam()};
  std::optional<PciRig> second_;
};

TEST_P(StateTest, HalfWayThroughTheDriversStart) {
  ASSERT_TRUE(rig_.negotiate(feature_bits(GetParam())));
  rig_.enable_queue(0);
  rig_.enable_msix();
  restore(save());
  EXPECT_EQ(second_->read(PciRig::kQueueVector, 2), 1U);
  EXPECT_EQ(second_->read(PciRig::kQueueEnable, 2), 1U);
  second_->write(PciRig::kStatus, 1, PciRig::kReady);
  expect_answer(*second_);
  second_->pci.pause();  // the interrupt comes after the answer
  EXPECT_FALSE(second_->messages.empty());
}

TEST_P(StateTest, BeforeTheDriverHasBegun) {
  rig_.write(PciRig::kDriverFeatureSelect, 4, 1);
  rig_.write(PciRig::kDriverFeature, 4, ~u32{0});  // whatever it is, nothing was agreed on
  restore(save());
  second_->start(feature_bits(GetParam()));
  expect_answer(*second_);
}

TEST_P(StateTest, WithBuffersInTheRing) {
  rig_.start(feature_bits(GetParam()));
  for (int i = 0; i < 21; ++i) expect_answer(rig_);  // to somewhere in the ring
  rig_.pci.pause();
  const u16 first = rig_.driver->offer({{kData, 32, true}});
  const u16 second = rig_.driver->offer({{kData + 0x100, 16, true}});
  rig_.doorbell(0);
  restore(save());
  EXPECT_EQ(rig_.driver->wait_for_used(), (Used{first, 32}));
  EXPECT_EQ(rig_.driver->wait_for_used(), (Used{second, 16}));
  expect_answer(*second_);
}

TEST_P(StateTest, WithAPendingInterrupt) {
  rig_.start(feature_bits(GetParam()));
  rig_.enable_msix();
  rig_.write(VirtioPci::kMsix + 16 + 12, 4, 1);  // the queue's vector
  expect_answer(rig_);
  restore(save());
  EXPECT_TRUE(second_->messages.empty());
  second_->write(VirtioPci::kMsix + 16 + 12, 4, 0);
  EXPECT_EQ(second_->messages, (std::vector<std::pair<u64, u32>>{{0xFEE0'0000, 0x41}}));
}

TEST_P(StateTest, WithTheInterruptPinAsserted) {
  rig_.start(feature_bits(GetParam()));
  expect_answer(rig_);
  for (int i = 0; i < 10'000 && !rig_.line.level; ++i) std::this_thread::sleep_for(1ms);
  restore(save());
  EXPECT_TRUE(second_->line.level);
  EXPECT_EQ(second_->read(VirtioPci::kIsr, 1), 1U);
  EXPECT_FALSE(second_->line.level);
}

TEST_P(StateTest, WithAQueueThatBroke) {
  rig_.start(feature_bits(GetParam()));
  rig_.driver->offer({{DriverRig::kRamSize, 16, true}});
  rig_.doorbell(0);
  for (int i = 0; i < 10'000 && (rig_.status() & status::kNeedsReset) == 0; ++i)
    std::this_thread::sleep_for(1ms);
  restore(save());
  EXPECT_NE(second_->status() & status::kNeedsReset, 0);
  second_->write(PciRig::kStatus, 1, 0);
  EXPECT_EQ(second_->status(), 0);
}

TEST_P(StateTest, InTheMiddleOfAConsolesOutput) {
  std::string text;
  const auto print = [&](std::span<const u8> bytes) {
    text.append(bytes.begin(), bytes.end());
    std::this_thread::sleep_for(text.size() < 20 * Console::kChunk ? 10ms : 0ms);
  };
  PciRig first(Console::create(print).value(), GetParam());
  const auto transmit = make_driver(GetParam(), first.driver->memory, 0x8000);
  first.start(feature_bits(GetParam()), {first.driver.get(), transmit.get()});
  std::string expected;
  for (int i = 0; expected.size() < 40 * Console::kChunk; ++i) expected += std::to_string(i);
  ASSERT_TRUE(first.driver->memory->write(Gpa(kData),
                                          {reinterpret_cast<const u8*>(expected.data()), expected.size()}));
  const u16 id = transmit->offer({{kData, static_cast<u32>(expected.size())}});
  first.doorbell(Console::kTransmitQueue);
  std::this_thread::sleep_for(5ms);
  first.pci.pause();
  ASSERT_FALSE(transmit->take_used());

  PciRig second(Console::create(print).value(), GetParam(), first.driver->memory);
  second.pci.pause();
  ASSERT_TRUE(second.pci.restore(first.pci.save().value()));
  second.pci.resume();
  EXPECT_EQ(transmit->wait_for_used(), (Used{id, 0}));
  EXPECT_EQ(text, expected);
}

// Hostile documents.

class HostileStateTest : public StateTest {
 protected:
  HostileStateTest() {
    rig_.start(feature_bits(GetParam()));
    good_ = save();
  }
  /// In one line, and the device can still be used.
  void expect_refused(const Document& document, const char* why) {
    PciRig other(Entropy::create().value(), GetParam());
    other.pci.pause();
    const Status restored = other.pci.restore(document);
    ASSERT_FALSE(restored) << why;
    EXPECT_EQ(restored.error().message.find('\n'), std::string::npos);
    EXPECT_TRUE(other.pci.restore(good_)) << why;
    EXPECT_EQ(other.pci.save().value(), good_) << why;
  }
  void expect_refused_with(const std::string& pointer, const Document& value) {
    Document bad = good_;
    bad[Document::json_pointer(pointer)] = value;
    expect_refused(bad, pointer.c_str());
  }
  Document good_;
};

TEST_P(HostileStateTest, PartsThatAreMissingOrTooMany) {
  expect_refused(Document::array(), "no object");
  for (const char* part : {"transport", "config", "device"}) {
    Document bad = good_;
    bad.erase(part);
    expect_refused(bad, part);
  }
  expect_refused_with("/more", 1);
  expect_refused_with("/transport/state/more", 1);
  expect_refused_with("/device/component", "console-device");
  expect_refused_with("/config/component", "virtio-blk");
}

TEST_P(HostileStateTest, FeaturesAndStatusThatNoDriverCanReach) {
  const auto features = good_["transport"]["state"]["driver_features"].get<u64>();
  expect_refused_with("/transport/state/driver_features", features | 1);
  expect_refused_with("/transport/state/driver_features", features & ~feature::kVersion1);
  expect_refused_with("/transport/state/status", status::kDriverOk);
  expect_refused_with("/transport/state/status", status::kAcknowledge);  // with a queue
  expect_refused_with("/transport/state/isr", 4);
  expect_refused_with("/transport/state/config_vector", 2);
}

TEST_P(HostileStateTest, QueuesThatCannotBe) {
  const std::string queue = "/transport/state/queues/0";
  for (const u64 place : {DriverRig::kRamSize, u64{0x1001}, ~u64{0}, ~u64{0} << 4}) {
    expect_refused_with(queue + "/descriptors", place);
    expect_refused_with(queue + "/driver", place);
    expect_refused_with(queue + "/device", place);
  }
  for (const u32 size : {0U, 32U, 0xFFFFU, 0x10000U}) expect_refused_with(queue + "/size", size);
  expect_refused_with(queue + "/vector", 2);
  expect_refused_with(queue + "/enabled", false);
  expect_refused_with(queue + "/works", false);
  expect_refused_with(queue + "/position/next", 9);
  expect_refused_with(queue + "/position/next", 1);
  expect_refused_with(queue + "/position/used_wrap", false);
  Document bad = good_;
  bad["transport"]["state"]["queues"].push_back(bad["transport"]["state"]["queues"][0]);
  expect_refused(bad, "two queues");
  bad["transport"]["state"]["queues"] = Document::array();
  expect_refused(bad, "no queue");
}

TEST_P(HostileStateTest, MsixTablesThatCannotBe) {
  expect_refused_with("/transport/state/msix/vectors/0/address", 0xFEE0'0001);
  expect_refused_with("/transport/state/msix/vectors", Document::array());
}

constexpr QueueFeatures kSplit{};
constexpr QueueFeatures kPackedAll{.packed = true, .indirect = true, .event_index = true};
constexpr auto kName = [](const auto& parameter) { return parameter.param.packed ? "packed" : "split"; };
INSTANTIATE_TEST_SUITE_P(Rings, StateTest, testing::Values(kSplit, kPackedAll), kName);
INSTANTIATE_TEST_SUITE_P(Rings, HostileStateTest, testing::Values(kSplit, kPackedAll), kName);

}  // namespace
}  // namespace vert::test

// The console device: what the guest prints, what is typed, and the terminal's size.
#include <condition_variable>
#include <mutex>
#include <string>

#include "device/virtio/console.hpp"
#include "pci_rig.hpp"

namespace vert::test {
namespace {

using device::virtio::Console;
using namespace std::chrono_literals;

constexpr u64 kData = DriverRig::kData;
constexpr u64 kRoom = DriverRig::kData + 0x8000;

/// What reads the console; while stopped, it takes nothing.
class Reader {
 public:
  void write(std::span<const u8> bytes) {
    std::unique_lock lock(mutex_);
    ++calls_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !stopped_; });
    changed_.wait_for(lock, delay_, [this] { return delay_ == 0ms; });
    text_.append(bytes.begin(), bytes.end());
    changed_.notify_all();
  }
  void stop(bool on) {
    const std::lock_guard lock(mutex_);
    stopped_ = on;
    changed_.notify_all();
  }
  /// Of each write.
  void set_delay(std::chrono::milliseconds delay) {
    const std::lock_guard lock(mutex_);
    delay_ = delay;
    changed_.notify_all();
  }
  [[nodiscard]] std::string wait_for(std::size_t size) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, 10s, [&] { return text_.size() >= size; });
    return text_;
  }
  [[nodiscard]] bool wait_for_call() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 10s, [&] { return calls_ != 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  int calls_ = 0;
  bool stopped_ = false;
  std::chrono::milliseconds delay_{0};
};

std::span<const u8> bytes_of(std::string_view text) {
  return {reinterpret_cast<const u8*>(text.data()), text.size()};
}

class ConsoleTest : public testing::TestWithParam<QueueFeatures> {
 protected:
  ConsoleTest() {
    auto console = Console::create([this](std::span<const u8> bytes) { reader_.write(bytes); }).value();
    console_ = console.get();
    console_->set_ready_callback([this] { ++readies_; });
    rig_.emplace(std::move(console), GetParam());
    transmit_ = make_driver(GetParam(), rig_->driver->memory, 0x8000);
  }
  ~ConsoleTest() override { reader_.stop(false); }
  void start(u64 own = Console::kSizeFeature) {
    rig_->start(feature_bits(GetParam()) | own, {rig_->driver.get(), transmit_.get()});
  }
  u16 print(const std::string& text, u64 at = kData) {
    EXPECT_TRUE(rig_->driver->memory->write(Gpa(at), bytes_of(text)));
    const u16 id = transmit_->offer({{at, static_cast<u32>(text.size())}});
    rig_->doorbell(Console::kTransmitQueue);
    return id;
  }
  u16 make_room(u32 size, u64 at = kRoom) {
    const u16 id = rig_->driver->offer({{at, size, true}});
    rig_->doorbell(Console::kReceiveQueue);
    return id;
  }
  [[nodiscard]] std::string memory_at(u64 address, std::size_t size) {
    std::vector<u8> bytes(size);
    EXPECT_TRUE(rig_->driver->memory->read(Gpa(address), bytes));
    return {bytes.begin(), bytes.end()};
  }
  [[nodiscard]] bool wait_for_ready(int count) {
    for (int i = 0; i < 10'000 && readies_ < count; ++i) std::this_thread::sleep_for(1ms);
    return readies_ >= count;
  }
  [[nodiscard]] u32 size_in_config() { return static_cast<u32>(rig_->read(VirtioPci::kDeviceConfig, 4)); }
  [[nodiscard]] bool config_interrupt() { return (rig_->read(VirtioPci::kIsr, 1) & 2) != 0; }

  Reader reader_;
  std::atomic<int> readies_ = 0;
  Console* console_ = nullptr;
  std::optional<PciRig> rig_;
  std::unique_ptr<DriverRig> transmit_;
};

TEST_P(ConsoleTest, WhatTheGuestPrintsComesOutInOrder) {
  start();
  std::string expected;
  for (int i = 0; i < 30; ++i) {
    const std::string line = "line " + std::to_string(i) + "\n";
    expected += line;
    const u16 id = print(line);
    ASSERT_EQ(transmit_->wait_for_used(), (Used{id, 0})) << i;
  }
  EXPECT_EQ(reader_.wait_for(expected.size()), expected);
}

TEST_P(ConsoleTest, LongOutputComesOutWhole) {
  start();
  std::string text;
  for (int i = 0; text.size() < 5 * Console::kChunk / 2; ++i) text += std::to_string(i) + " ";
  const u16 id = print(text);
  EXPECT_EQ(transmit_->wait_for_used(), (Used{id, 0}));
  EXPECT_EQ(reader_.wait_for(text.size()), text);
}

TEST_P(ConsoleTest, WhatIsTypedIsInTheDriversBuffers) {
  start();
  const u16 first = make_room(4);
  const u16 second = make_room(4, kRoom + 0x100);
  EXPECT_EQ(console_->receive(bytes_of("abcdef")), 6U);
  EXPECT_EQ(rig_->driver->take_used(), (Used{first, 4}));
  EXPECT_EQ(rig_->driver->take_used(), (Used{second, 2}));
  EXPECT_EQ(memory_at(kRoom, 4), "abcd");
  EXPECT_EQ(memory_at(kRoom + 0x100, 3), std::string("ef\0", 3));
}

TEST_P(ConsoleTest, NothingTypedIsLostWithoutBuffers) {
  start();
  make_room(4);
  EXPECT_EQ(console_->receive(bytes_of("abcdef")), 4U);
  EXPECT_EQ(console_->receive(bytes_of("ef")), 0U);
  readies_ = 0;
  make_room(8, kRoom + 0x100);
  ASSERT_TRUE(wait_for_ready(1)) << "the rest can come now";
  EXPECT_EQ(console_->receive(bytes_of("ef")), 2U);
  EXPECT_EQ(memory_at(kRoom + 0x100, 2), "ef");
}

TEST_P(ConsoleTest, BuffersWithoutRoomHoldNobodyUp) {
  start();
  for (u16 i = 0; i < rig_->driver->size(); ++i) rig_->driver->offer({{kRoom, 1}});
  EXPECT_EQ(console_->receive(bytes_of("a")), 0U);
  EXPECT_TRUE(rig_->driver->take_used());
  EXPECT_EQ(rig_->status(), PciRig::kReady);
}

TEST_P(ConsoleTest, TakesInputOnlyWhileThereIsADriver) {
  EXPECT_FALSE(console_->is_driven());
  EXPECT_EQ(console_->receive(bytes_of("a")), 0U);
  readies_ = 0;
  start();
  EXPECT_TRUE(console_->is_driven());
  EXPECT_GE(readies_, 1) << "who has typed already is to try again";
  readies_ = 0;
  rig_->write(PciRig::kStatus, 1, 0);
  EXPECT_FALSE(console_->is_driven());
  EXPECT_GE(readies_, 1);
}

TEST_P(ConsoleTest, InputWaitsWhileTheMachineIsPaused) {
  start();
  make_room(4);
  rig_->pci.pause();
  rig_->driver->memory->set_dirty_log(true);
  EXPECT_EQ(console_->receive(bytes_of("abc")), 0U);
  EXPECT_TRUE(rig_->driver->memory->take_dirty().empty());
  readies_ = 0;
  rig_->pci.resume();
  ASSERT_TRUE(wait_for_ready(1));
  EXPECT_EQ(console_->receive(bytes_of("abc")), 3U);
}

TEST_P(ConsoleTest, OutputThatAPauseInterruptsGoesOnWhereItWas) {
  start();
  reader_.set_delay(10ms);
  std::string text(100 * Console::kChunk, 'x');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i / 100 % 26);
  const u16 id = print(text);
  ASSERT_TRUE(reader_.wait_for_call());
  rig_->pci.pause();
  EXPECT_FALSE(transmit_->take_used());
  EXPECT_LT(reader_.wait_for(0).size(), text.size());
  reader_.set_delay(0ms);
  rig_->pci.resume();
  EXPECT_EQ(transmit_->wait_for_used(), (Used{id, 0}));
  EXPECT_EQ(reader_.wait_for(text.size()), text);
}

TEST_P(ConsoleTest, NeitherADoorbellNorAResetWaitsForTheReader) {
  start();
  reader_.stop(true);
  print("one");
  ASSERT_TRUE(reader_.wait_for_call());
  print("two", kData + 0x100);
  rig_->write(PciRig::kStatus, 1, 0);  // hangs if it waits
  EXPECT_EQ(rig_->status(), 0);
  rig_->driver->memory->set_dirty_log(true);
  reader_.stop(false);
  EXPECT_EQ(reader_.wait_for(3), "one");
  std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(rig_->driver->memory->take_dirty().empty()) << "the queue is the driver's again";
}

TEST_P(ConsoleTest, TellsTheSizeAndItsChanges) {
  console_->set_size(80, 24);
  start();
  EXPECT_EQ(size_in_config(), 24U << 16 | 80);
  EXPECT_TRUE(config_interrupt()) << "Linux reads it only then";
  const u64 generation = rig_->read(0x15, 1);
  console_->set_size(132, 43);
  EXPECT_NE(rig_->read(0x15, 1), generation);
  EXPECT_EQ(size_in_config(), 43U << 16 | 132);
  EXPECT_TRUE(config_interrupt());
  EXPECT_FALSE(config_interrupt());
}

TEST_P(ConsoleTest, TellsTheSizeAgainOnceTheDriverTakesInput) {
  console_->set_size(80, 24);
  start();
  make_room(4);
  EXPECT_TRUE(config_interrupt());
  EXPECT_EQ(console_->receive(bytes_of("a")), 1U);
  EXPECT_TRUE(config_interrupt());
  make_room(4);
  EXPECT_EQ(console_->receive(bytes_of("b")), 1U);
  EXPECT_FALSE(config_interrupt()) << "once";
}

TEST_P(ConsoleTest, TellsNoSizeToADriverThatDidNotAskForIt) {
  console_->set_size(80, 24);
  start(0);
  console_->set_size(132, 43);
  EXPECT_FALSE(config_interrupt());
}

TEST_P(ConsoleTest, EmergencyWritesComeOutWithoutADriver) {
  for (const char letter : {'O', 'o', 'p', 's'})
    rig_->write(VirtioPci::kDeviceConfig + 8, 4, static_cast<u8>(letter));
  rig_->write(VirtioPci::kDeviceConfig + 4, 4, 'x');
  EXPECT_EQ(reader_.wait_for(4), "Oops");
  EXPECT_EQ(rig_->read(VirtioPci::kDeviceConfig + 8, 8), 0U);
}

TEST_P(ConsoleTest, ABrokenRingNeedsReset) {
  start();
  transmit_->offer({{DriverRig::kRamSize, 16}});
  rig_->doorbell(Console::kTransmitQueue);
  for (int i = 0; i < 10'000 && (rig_->status() & status::kNeedsReset) == 0; ++i)
    std::this_thread::sleep_for(1ms);
  EXPECT_NE(rig_->status() & status::kNeedsReset, 0);
}

constexpr QueueFeatures kSplit{};
constexpr QueueFeatures kPackedAll{.packed = true, .indirect = true, .event_index = true};
INSTANTIATE_TEST_SUITE_P(Rings, ConsoleTest, testing::Values(kSplit, kPackedAll),
                         [](const auto& parameter) { return parameter.param.packed ? "packed" : "split"; });

}  // namespace
}  // namespace vert::test

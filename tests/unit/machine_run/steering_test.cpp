// A machine that is paused, looked into and pressed upon while it runs.
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <thread>

#include "base/host_tsc.hpp"
#include "unit/machine_run/kernel_file.hpp"

namespace vert::machine {
namespace {

using namespace std::chrono_literals;

constexpr u64 kNotes = 0x300000;  // where guests note what they do

// loop: inc dword [kNotes]; rdtsc; mov [kNotes + 4], eax; mov [kNotes + 8], edx; jmp loop
const Code kCounting = {0xFF, 0x05, 0x00, 0x00, 0x30, 0x00, 0x0F, 0x31, 0xA3, 0x04, 0x00,
                        0x30, 0x00, 0x89, 0x15, 0x08, 0x00, 0x30, 0x00, 0xEB, 0xEB};

struct Notes {
  u32 count;
  u32 tsc_low;
  u32 tsc_high;
  [[nodiscard]] u64 tsc() const { return u64{tsc_high} << 32 | tsc_low; }
};

/// A machine that runs in a thread of its own.
class RunningMachine {
 public:
  explicit RunningMachine(const MachineConfig& config)
      : machine_(Machine::create(config).value()), thread_([this] { outcome_ = machine_->run(); }) {}
  ~RunningMachine() {
    machine_->stop();
    if (thread_.joinable()) thread_.join();
  }
  RunningMachine(const RunningMachine&) = delete;
  RunningMachine& operator=(const RunningMachine&) = delete;

  Machine& operator*() { return *machine_; }
  Machine* operator->() { return machine_.get(); }
  Outcome::Reason end() {
    thread_.join();
    return outcome_->reason;
  }
  [[nodiscard]] const Outcome& outcome() const { return *outcome_; }

  Notes notes() {
    const GuestBytes found = machine_->read_guest(0, kNotes, sizeof(Notes)).value();
    Notes notes{};
    std::memcpy(&notes, found.bytes.data(), sizeof notes);
    return notes;
  }
  /// Whether the guest counts on.
  bool counts() {
    const u32 before = notes().count;
    for (int i = 0; i < 1000; ++i) {
      if (notes().count != before) return true;
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }

 private:
  std::unique_ptr<Machine> machine_;
  std::optional<Outcome> outcome_;
  std::thread thread_;
};

class SteeringTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    for (const EngineInfo& engine : engines())
      if (engine.name == GetParam() && !engine.available) GTEST_SKIP() << engine.why;
  }
  static MachineConfig config(const KernelFile& kernel) {
    MachineConfig config = config_for(kernel);
    config.engine = GetParam();
    config.cpus = 2;
    config.devices = {"isa-debug-exit"};
    return config;
  }
};

INSTANTIATE_TEST_SUITE_P(Engines, SteeringTest, testing::Values("interp", "bt"),
                         [](const auto& parameter) { return std::string(parameter.param); });

TEST_P(SteeringTest, PauseStopsTheGuestAndItsTime) {
  const KernelFile kernel(kCounting);
  RunningMachine machine(config(kernel));
  ASSERT_TRUE(machine.counts());
  EXPECT_EQ(machine->state(), Machine::State::kRunning);
  EXPECT_TRUE(machine->pause());
  EXPECT_EQ(machine->state(), Machine::State::kPaused);
  const Notes before = machine.notes();
  std::this_thread::sleep_for(500ms);
  EXPECT_EQ(machine.notes().count, before.count);
  machine->resume();
  ASSERT_TRUE(machine.counts());
  EXPECT_TRUE(machine->pause());
  const u64 passed = machine.notes().tsc() - before.tsc();
  EXPECT_LT(passed, base::host_tsc_frequency() / 1000 * 450);
  EXPECT_GT(passed, 0U);
  machine->resume();
}

/// Takes no output until it is told to: whoever writes waits.
class StuckSerial final : public SerialBackend {
 public:
  void write(std::span<const u8> /*bytes*/) override {
    reached = true;
    while (stuck) std::this_thread::sleep_for(1ms);
  }
  std::atomic<bool> reached = false;
  std::atomic<bool> stuck = true;
};

TEST_P(SteeringTest, AVcpuThatDoesNotStopIsNamedAndNotWaitedForWithoutEnd) {
  Code code = out_byte(0x3F8, 'x');
  code.back() = 0x90;
  code.insert(code.end(), {0xEB, 0xFD});
  const KernelFile kernel(code);
  MachineConfig slow = config(kernel);
  StuckSerial serial;
  slow.serial = &serial;
  slow.patience = 20ms;
  RunningMachine machine(slow);
  while (!serial.reached) std::this_thread::sleep_for(1ms);
  const Status paused = machine->pause();
  ASSERT_FALSE(paused);
  EXPECT_TRUE(paused.error().message.starts_with("vCPU 0 has not stopped within 20 ms"))
      << paused.error().message;
  EXPECT_EQ(paused.error().message.find('\n'), std::string::npos);
  EXPECT_EQ(machine->state(), Machine::State::kRunning);
  EXPECT_FALSE(machine->engine_counters());
  machine->stop();
  EXPECT_EQ(machine.end(), Outcome::Reason::kStopped);
  EXPECT_TRUE(machine.outcome().unanswered.starts_with("vCPU 0")) << machine.outcome().unanswered;
  serial.stuck = false;
}

TEST_P(SteeringTest, AFailedPauseLeavesItRunning) {
  const KernelFile kernel([] {
    Code code = out_byte(0x3F8, 'x');
    code.pop_back();
    code.insert(code.end(), kCounting.begin(), kCounting.end());
    return code;
  }());
  MachineConfig slow = config(kernel);
  StuckSerial serial;
  slow.serial = &serial;
  slow.patience = 20ms;
  RunningMachine machine(slow);
  while (!serial.reached) std::this_thread::sleep_for(1ms);
  EXPECT_FALSE(machine->pause());
  serial.stuck = false;
  std::optional<Status> paused;
  for (int i = 0; i < 1000 && !(paused && *paused); ++i) paused = machine->pause();
  EXPECT_TRUE(*paused);
  EXPECT_TRUE(machine->engine_counters());
}

TEST_P(SteeringTest, StopEndsAPausedMachine) {
  const KernelFile kernel(kCounting);
  RunningMachine machine(config(kernel));
  EXPECT_TRUE(machine->pause());
  machine->stop();
  EXPECT_EQ(machine.end(), Outcome::Reason::kStopped);
  EXPECT_EQ(machine->state(), Machine::State::kEnded);
  machine->resume();
  EXPECT_TRUE(machine->pause());
  EXPECT_EQ(machine->state(), Machine::State::kEnded);
  EXPECT_EQ(machine->engine_counters()->size(), 2U);
}

TEST_P(SteeringTest, PauseBeforeTheStartHolds) {
  const KernelFile kernel(kCounting);
  const auto machine = Machine::create(config(kernel)).value();
  EXPECT_EQ(machine->state(), Machine::State::kCreated);
  EXPECT_EQ(machine->engine_counters()->size(), 2U);
  EXPECT_TRUE(machine->pause());
  std::thread running([&] { static_cast<void>(machine->run()); });
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(machine->statistics().instructions, 0U);
  machine->resume();
  EXPECT_EQ(machine->state(), Machine::State::kRunning);
  machine->stop();
  running.join();
}

TEST_P(SteeringTest, PowerButtonReachesAGuestThatListens) {
  // Switches ACPI on, waits for PWRBTN_STS, goes to S5.
  const KernelFile kernel({0xB0, 0x02, 0xE6, 0xB2,              // mov al, 2; out 0xb2, al
                           0x66, 0xBA, 0x00, 0x06,              // mov dx, 0x600
                           0x66, 0xED, 0x66, 0xA9, 0x00, 0x01,  // wait: in ax, dx; test ax, 0x100
                           0x74, 0xF8,                          // jz wait
                           0x66, 0xBA, 0x04, 0x06, 0x66, 0xB8, 0x00, 0x20, 0x66, 0xEF, 0xF4});
  RunningMachine machine(config(kernel));
  machine->press_power_button();
  EXPECT_EQ(machine.end(), Outcome::Reason::kPowerOff);
}

// The first time: notes that in CMOS RAM, then counts. The second time: exits with the status 1.
const Code kCountsOnce = [] {
  Code code = {0xB0, 0x50, 0xE6, 0x70,              // mov al, 0x50; out 0x70, al
               0xE4, 0x71, 0x3C, 0x77, 0x75, 0x05,  // in al, 0x71; cmp al, 0x77; jne first
               0x30, 0xC0, 0xE6, 0xF4, 0xF4,        // xor al, al; out 0xf4, al; hlt
               0xB0, 0x77, 0xE6, 0x71};             // first: mov al, 0x77; out 0x71, al
  code.insert(code.end(), kCounting.begin(), kCounting.end());
  return code;
}();

TEST_P(SteeringTest, ResetStartsTheGuestAgain) {
  const KernelFile kernel(kCountsOnce);
  RunningMachine machine(config(kernel));
  ASSERT_TRUE(machine.counts());
  machine->reset();
  EXPECT_EQ(machine.end(), Outcome::Reason::kDebugExit);
}

TEST_P(SteeringTest, ResetLeavesAPausedMachinePaused) {
  const KernelFile kernel(kCountsOnce);
  RunningMachine machine(config(kernel));
  ASSERT_TRUE(machine.counts());
  EXPECT_TRUE(machine->pause());
  machine->reset();
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(machine->state(), Machine::State::kPaused);
  machine->resume();
  EXPECT_EQ(machine.end(), Outcome::Reason::kDebugExit);
}

TEST_P(SteeringTest, CountersAreToBeHadWhileItRuns) {
  const KernelFile kernel(kCounting);
  RunningMachine machine(config(kernel));
  ASSERT_TRUE(machine.counts());
  const auto counters = machine->engine_counters().value();
  EXPECT_EQ(counters.size(), 2U);
  EXPECT_EQ(counters[0].empty(), machine->engine_name() == "interp");
  EXPECT_TRUE(machine.counts());
}

TEST_P(SteeringTest, SamplesAreTakenOnDemand) {
  const KernelFile kernel(kCounting);
  RunningMachine machine(config(kernel));
  ASSERT_TRUE(machine.counts());
  EXPECT_TRUE(machine->engine_samples(3)->at(0).groups.empty());
  if (!machine->start_sampling().value()) {
    EXPECT_EQ(machine->engine_name(), "interp");
    return;
  }
  std::string listing;
  for (int i = 0; i < 500 && listing.empty(); ++i) {
    std::this_thread::sleep_for(20ms);
    listing = machine->engine_samples(3)->at(0).listing;
  }
  EXPECT_NE(listing.find("rdtsc"), std::string::npos) << listing;
  EXPECT_TRUE(machine->stop_sampling());
  EXPECT_TRUE(machine->engine_samples(3)->at(0).groups.empty());
  EXPECT_TRUE(machine.counts());
}

TEST_P(SteeringTest, GuestMemoryIsReadAsFarAsItIsMapped) {
  const KernelFile kernel(kCounting);
  RunningMachine machine(config(kernel));
  ASSERT_TRUE(machine.counts());
  const auto code = machine->read_guest(0, 0x200080, kCounting.size());
  ASSERT_TRUE(code) << code.error().message;
  EXPECT_EQ(code->bytes, kCounting);
  EXPECT_EQ(code->kind, CodeKind::kUser32);
  constexpr u64 kEnd = u64{32} << 20;
  EXPECT_EQ(machine->read_guest(0, kEnd - 5, 100)->bytes.size(), 5U);
  EXPECT_FALSE(machine->read_guest(0, kEnd, 1));
  EXPECT_FALSE(machine->read_guest(0, ~u64{0}, 16));
  EXPECT_FALSE(machine->read_guest(2, kNotes, 1));
}

TEST_P(SteeringTest, AllOfItAtOnceUnderResets) {
  const KernelFile kernel(out_byte(0xCF9, 6));  // resets itself again and again
  RunningMachine machine(config(kernel));
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) {
      static_cast<void>(machine->engine_counters());
      static_cast<void>(machine->start_sampling());
      static_cast<void>(machine->engine_samples(1));
      EXPECT_TRUE(machine->stop_sampling());
    }
  });
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(machine->pause());
    machine->reset();
    machine->resume();
  }
  other.join();
  machine->resume();
  machine->stop();
  EXPECT_EQ(machine.end(), Outcome::Reason::kStopped);
}

}  // namespace
}  // namespace vert::machine

// KVM's paravirtual clock as a guest reads it (Linux, Documentation/virt/kvm/x86/msr.rst).
#include <x86intrin.h>

#include <chrono>

#include "insn/system/system_test.hpp"

namespace vert::test {
namespace {

constexpr u64 kSecond = 1'000'000'000;

struct ClockPage {
  u32 version = 0;
  u32 padding = 0;
  u64 tsc_timestamp = 0;
  u64 system_time = 0;
  u32 multiplier = 0;
  i8 shift = 0;
  u8 flags = 0;

  /// As the guest's pvclock_clocksource_read() has it.
  [[nodiscard]] u64 at(u64 tsc) const {
    u64 delta = tsc - tsc_timestamp;
    delta = shift < 0 ? delta >> -shift : delta << shift;
    return system_time + static_cast<u64>(u128{delta} * multiplier >> 32);
  }
};

struct WallClock {
  u32 version = 0;
  u32 seconds = 0;
  u32 nanoseconds = 0;
};

class KvmClockTest : public SystemTest {
 protected:
  static constexpr u64 kTscAdjust = 0x3B, kWallClock = 0x4B564D00, kSystemTime = 0x4B564D01;

  /// WRMSR as the guest's kernel; the state afterwards is the next one's.
  void write_msr(u64 index, u64 value) {
    load_kernel(std::array<u8, 3>{0x0F, 0x30, 0xF4});  // wrmsr; hlt
    cpu::CpuState state = kernel_state();
    state.msr = rig().state().msr;
    state.tsc_offset = rig().state().tsc_offset;
    state.gpr[x86::kRcx] = index;
    state.gpr[x86::kRax] = value & 0xFFFF'FFFF;
    state.gpr[x86::kRdx] = value >> 32;
    run(state);
    EXPECT_FALSE(rig().caught().has_value());
  }
  template <typename T>
  [[nodiscard]] T load(Gpa at) {
    return rig().memory().load<T>(at).value();
  }
};

TEST_P(KvmClockTest, RunsAtTheRateOfTheTsc) {
  const Gpa page = rig().allocate_page();
  write_msr(kSystemTime, page.value() | 1);
  const auto clock = load<ClockPage>(page);
  EXPECT_NE(clock.version, 0U);
  EXPECT_EQ(clock.version % 2, 0U) << "half written";
  EXPECT_EQ(clock.flags & 1, 1) << "the vCPUs' clocks agree";
  const u64 frequency = rig().model().tsc_frequency();
  EXPECT_NEAR(static_cast<double>(clock.at(1000 * frequency)), 1e3 * kSecond, 1e3);
}

TEST_P(KvmClockTest, GoesOnWhenTheGuestMovesItsTsc) {
  const Gpa page = rig().allocate_page();
  write_msr(kSystemTime, page.value() | 1);
  const auto before = load<ClockPage>(page);
  constexpr u64 kMove = 123'456'789'012;
  write_msr(kTscAdjust, kMove);
  const auto after = load<ClockPage>(page);
  EXPECT_NE(after.version, before.version);
  EXPECT_EQ(after.at(kSecond + kMove), before.at(kSecond));
}

TEST_P(KvmClockTest, IsWrittenOnlyWhereTheGuestAskedAndToRam) {
  const Gpa page = rig().allocate_page();
  write_msr(kSystemTime, page.value());
  EXPECT_EQ(load<u32>(page), 0U) << "not enabled";
  for (const u64 outside : {u64{0xFFFF'FFFF'FFFF'FFF0}, GuestRig::kRamSize - 4, u64{0xFEE0'0000}}) {
    write_msr(kSystemTime, outside | 1);
    write_msr(kWallClock, outside);
  }
}

TEST_P(KvmClockTest, TheWallClockAndTheTscTellTheTimeOfDay) {
  const Gpa page = rig().allocate_page();
  write_msr(kWallClock, page.value());
  const auto wall = load<WallClock>(page);
  EXPECT_NE(wall.version, 0U);
  EXPECT_EQ(wall.version % 2, 0U);
  EXPECT_LT(wall.nanoseconds, kSecond);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const u64 ticks = __rdtsc() + rig().state().tsc_offset;
  const double started = wall.seconds + wall.nanoseconds * 1e-9;
  const double running = static_cast<double>(ticks) / static_cast<double>(rig().model().tsc_frequency());
  EXPECT_NEAR(started + running, std::chrono::duration<double>(now).count(), 5.0);
}

INSTANTIATE_TEST_SUITE_P(Engines, KvmClockTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

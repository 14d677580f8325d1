// The timer's three modes on a fake clock (SDM 3A, 10.5.4). One tick of the bus is a nanosecond.
#include <gtest/gtest.h>

#include "unit/cpu_apic/apic_machine.hpp"

namespace vert::test {
namespace {

using M = ApicMachine;

constexpr u32 kPeriodic = 1U << 17;
constexpr u32 kDeadline = 2U << 17;
constexpr u32 kDivideBy1 = 0xB;
constexpr u32 kDivideBy16 = 0x3;

struct Timer : testing::Test {
  Timer() : m(1), apic(m.apic()) {
    m.enable();
    apic.mmio_write(M::kTimerDivide, kDivideBy1);
  }
  /// Whether the timer's interrupt came since the last time.
  bool fired() { return !m.drain().empty(); }

  M m;
  cpu::LocalApic& apic;
};

TEST_F(Timer, OneShotCountsDownAndFiresOnce) {
  apic.mmio_write(M::kLvtTimer, 0x40);
  apic.mmio_write(M::kTimerInitial, 1000);
  m.time.advance(400);
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 600U);
  m.time.advance(599);
  EXPECT_FALSE(fired());
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 1U);
  m.time.advance(1);
  EXPECT_TRUE(fired());
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 0U);
  m.time.advance(100'000);
  EXPECT_FALSE(fired());
  EXPECT_EQ(apic.mmio_read(M::kTimerInitial), 1000U);
}

TEST_F(Timer, DividerScalesAndMayChangeOnTheWay) {
  constexpr struct {
    u32 code, divider;
  } kCodes[] = {{0x0, 2}, {0x1, 4}, {0x2, 8}, {0x3, 16}, {0x8, 32}, {0x9, 64}, {0xA, 128}, {0xB, 1}};
  apic.mmio_write(M::kLvtTimer, 0x40);
  for (const auto& [code, divider] : kCodes) {
    apic.mmio_write(M::kTimerDivide, code);
    apic.mmio_write(M::kTimerInitial, 100);
    m.time.advance(100 * divider - 1);
    EXPECT_FALSE(fired()) << divider;
    m.time.advance(1);
    EXPECT_TRUE(fired()) << divider;
  }
  apic.mmio_write(M::kTimerInitial, 1000);
  m.time.advance(500);
  apic.mmio_write(M::kTimerDivide, kDivideBy16);
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 500U);
  m.time.advance(500 * 16 - 1);
  EXPECT_FALSE(fired());
  m.time.advance(1);
  EXPECT_TRUE(fired());
}

TEST_F(Timer, ZeroStopsAndMaskSilences) {
  apic.mmio_write(M::kLvtTimer, 0x40);
  apic.mmio_write(M::kTimerInitial, 1000);
  apic.mmio_write(M::kTimerInitial, 0);
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 0U);
  m.time.advance(2000);
  EXPECT_FALSE(fired());
  apic.mmio_write(M::kLvtTimer, 0x10040);
  apic.mmio_write(M::kTimerInitial, 1000);
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 1000U);
  m.time.advance(2000);
  EXPECT_FALSE(fired());
}

TEST_F(Timer, PeriodicDoesNotDrift) {
  constexpr u64 kPeriod = 999'983;
  apic.mmio_write(M::kLvtTimer, kPeriodic | 0x40);
  apic.mmio_write(M::kTimerInitial, kPeriod);
  unsigned count = 0;
  for (u64 step = 0; step < 1000; ++step) {
    m.time.advance_to((step + 1) * kPeriod - 1);
    EXPECT_FALSE(fired());
    EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 1U);
    m.time.advance(1);
    count += fired() ? 1 : 0;
  }
  EXPECT_EQ(count, 1000U);
}

/// A timer thread that runs late: callbacks only when told to.
class LateTime final : public base::TimeService {
 public:
  [[nodiscard]] u64 now_ns() const override { return now; }
  [[nodiscard]] std::unique_ptr<base::Timer> make_timer(std::function<void()> callback) override {
    callback_ = std::move(callback);
    return std::make_unique<LateTimer>(*this);
  }
  void run() { callback_(); }

  u64 now = 0;
  u64 armed = 0;
  unsigned arms = 0;

 private:
  struct LateTimer final : base::Timer {
    explicit LateTimer(LateTime& time) : owner(time) {}
    void arm(u64 deadline_ns) override {
      owner.armed = deadline_ns;
      ++owner.arms;
    }
    void cancel() override { owner.armed = 0; }
    LateTime& owner;
  };
  std::function<void()> callback_;
};

TEST(LateTimer, MissedPeriodsAreOneAndTheGridStays) {
  LateTime time;
  cpu::VcpuEvents events;
  cpu::ApicFabric fabric;
  cpu::LocalApic apic(0, true, events, fabric, time, 1'000'000'000, nullptr, [] { return u64{0}; });
  apic.mmio_write(M::kSvr, 0x1FF);
  apic.mmio_write(M::kTimerDivide, kDivideBy1);
  apic.mmio_write(M::kLvtTimer, kPeriodic | 0x40);
  apic.mmio_write(M::kTimerInitial, 1'000'000);
  EXPECT_EQ(time.armed, 1'000'000U);
  time.now = 7'300'000;
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 700'000U);
  time.run();
  EXPECT_EQ(time.armed, 8'000'000U);
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 700'000U);
  EXPECT_EQ(apic.acknowledge(), 0x40);
  time.run();  // a callback too many
  EXPECT_EQ(time.armed, 8'000'000U);
  apic.mmio_write(M::kEoi, 0);
  EXPECT_EQ(apic.acknowledge(), std::nullopt);
}

TEST_F(Timer, ShortestPeriodsAreBounded) {
  apic.mmio_write(M::kLvtTimer, kPeriodic | 0x40);
  apic.mmio_write(M::kTimerInitial, 1);
  unsigned count = 0;
  for (unsigned step = 0; step < 1000; ++step) {
    m.time.advance(1000);
    count += fired() ? 1 : 0;
  }
  EXPECT_GE(count, 49U);  // of a millisecond, at most one in 20 us
  EXPECT_LE(count, 51U);
}

TEST_F(Timer, ShortPeriodsKeepTheirGrid) {
  apic.mmio_write(M::kLvtTimer, kPeriodic | 0x40);
  apic.mmio_write(M::kTimerInitial, 7000);
  m.time.advance(7000);
  EXPECT_TRUE(fired());
  m.time.advance(20'999);
  EXPECT_FALSE(fired());
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 1U);
  m.time.advance(1);
  EXPECT_TRUE(fired());
}

TEST_F(Timer, FromPeriodicToOneShotOnTheWay) {
  apic.mmio_write(M::kLvtTimer, kPeriodic | 0x40);
  apic.mmio_write(M::kTimerInitial, 100'000);
  m.time.advance(150'000);
  EXPECT_TRUE(fired());
  apic.mmio_write(M::kLvtTimer, 0x40);
  m.time.advance(50'000);
  EXPECT_TRUE(fired());
  m.time.advance(500'000);
  EXPECT_FALSE(fired());
}

TEST_F(Timer, TscDeadlineFiresWhenTheGuestTscIsThere) {
  constexpr u64 kOffset = ~u64{0} - 500;  // wraps
  apic.mmio_write(M::kLvtTimer, kDeadline | 0x40);
  m.time.advance(1000);
  const u64 deadline = m.tsc() + kOffset + 3000;
  apic.set_tsc_deadline(deadline, kOffset);
  EXPECT_EQ(apic.tsc_deadline(), deadline);
  EXPECT_EQ(apic.mmio_read(M::kTimerCurrent), 0U);
  m.time.advance(999);
  EXPECT_FALSE(fired());
  m.time.advance(1);
  EXPECT_TRUE(fired());
  EXPECT_EQ(apic.tsc_deadline(), 0U);
}

TEST_F(Timer, TscDeadlineInThePastFiresAtOnceAndZeroDisarms) {
  apic.mmio_write(M::kLvtTimer, kDeadline | 0x40);
  m.time.advance(1000);
  apic.set_tsc_deadline(m.tsc(), 0);
  EXPECT_TRUE(fired());
  EXPECT_EQ(apic.tsc_deadline(), 0U);
  apic.set_tsc_deadline(m.tsc() + 300, 0);
  apic.set_tsc_deadline(0, 0);
  m.time.advance(1000);
  EXPECT_FALSE(fired());
}

TEST_F(Timer, TscDeadlineBearsTheFarthestFuture) {
  apic.mmio_write(M::kLvtTimer, kDeadline | 0x40);
  apic.set_tsc_deadline(~u64{0}, 0);
  m.time.advance(u64{1} << 50);
  EXPECT_FALSE(fired());
  EXPECT_EQ(apic.tsc_deadline(), ~u64{0});
}

TEST_F(Timer, TscDeadlineWaitsForTheTscWhenTheClockIsAhead) {
  apic.mmio_write(M::kLvtTimer, kDeadline | 0x40);
  m.tsc_error = 600;
  apic.set_tsc_deadline(3600, 0);
  m.tsc_error = 0;
  m.time.advance(1000);
  EXPECT_FALSE(fired());  // the TSC is at 3000
  m.time.advance(200);
  EXPECT_TRUE(fired());
}

TEST_F(Timer, ModeChangesDisarmTheDeadline) {
  apic.mmio_write(M::kLvtTimer, 0x40);
  apic.set_tsc_deadline(3000, 0);  // ignored outside its mode
  EXPECT_EQ(apic.tsc_deadline(), 0U);
  apic.mmio_write(M::kTimerInitial, 1000);
  apic.mmio_write(M::kLvtTimer, kDeadline | 0x40);
  apic.mmio_write(M::kTimerInitial, 500);  // ignored in it
  m.time.advance(2000);
  EXPECT_FALSE(fired());
  apic.set_tsc_deadline(m.tsc() + 3000, 0);
  apic.mmio_write(M::kLvtTimer, kPeriodic | 0x40);
  EXPECT_EQ(apic.tsc_deadline(), 0U);
  m.time.advance(2000);
  EXPECT_FALSE(fired());
}

TEST_F(Timer, ReservedModeStaysStill) {
  apic.mmio_write(M::kLvtTimer, kPeriodic | kDeadline | 0x40);
  apic.mmio_write(M::kTimerInitial, 1000);
  m.time.advance(5000);
  EXPECT_FALSE(fired());
  EXPECT_TRUE(apic.restore(apic.save()));
}

}  // namespace
}  // namespace vert::test

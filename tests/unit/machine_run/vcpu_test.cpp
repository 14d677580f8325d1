// The vCPU's thread with an engine that does as it is told.
#include "machine/vcpu.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>

#include "base/fake_time.hpp"

namespace vert::machine {
namespace {

using cpu::Activity;
using cpu::Exit;
using cpu::VcpuEvents;
using namespace std::chrono_literals;

constexpr auto kLong = 10s;

std::chrono::steady_clock::time_point soon() { return std::chrono::steady_clock::now() + kLong; }

/// Takes interrupts as engines do, and tells the test of every run.
class ScriptedEngine final : public cpu::Engine {
 public:
  using Step = std::function<Exit(cpu::CpuState&)>;
  ScriptedEngine(VcpuEvents& events, Step step) : events_(events), step_(std::move(step)) {}
  cpu::ExitInfo run(cpu::CpuState& state, u64) override {
    if ((events_.pending() & (VcpuEvents::kKick | VcpuEvents::kInit | VcpuEvents::kSipi)) != 0)
      return {Exit::kKick, 0, {}};
    const Exit exit = step_(state);
    return {exit, 1, exit == Exit::kShutdown ? "fault on fault" : ""};
  }
  void state_changed() override {}

 private:
  VcpuEvents& events_;
  Step step_;
};

class VcpuTest : public testing::Test, public VcpuOwner {
 protected:
  void vcpu_shut_down(const Vcpu&, const std::string& faults) override { note("shutdown: " + faults); }
  void vcpu_reset(const Vcpu&) override { note("reset"); }
  void vcpu_sleeps(const Vcpu&, u32 wakers) override { sleeping_until_ = wakers; }
  void vcpu_wakes(const Vcpu&) override { sleeping_until_ = 0; }

  void note(std::string what) {
    const std::scoped_lock lock(mutex_);
    notes_.push_back(std::move(what));
    changed_.notify_all();
  }
  /// Waits for the next note.
  std::string next() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kLong, [this] { return !notes_.empty(); })) return "nothing";
    std::string first = notes_.front();
    notes_.pop_front();
    return first;
  }
  bool quiet() {
    std::unique_lock lock(mutex_);
    return !changed_.wait_for(lock, 2ms, [this] { return !notes_.empty(); });
  }

  /// A busy host may be slow to run the vCPU's thread: requests must not meet there.
  void wait_until_taken(u32 events) {
    for (int i = 0; i < 10000 && (events_.pending() & events) != 0; ++i) std::this_thread::sleep_for(1ms);
  }

  void make(unsigned index, ScriptedEngine::Step step) {
    const cpu::VcpuContext context = {
        .index = index, .topology = {2}, .apic = &apic_, .events = &events_, .model = &model_};
    vcpu_ = std::make_unique<Vcpu>(context, std::make_unique<ScriptedEngine>(events_, std::move(step)),
                                   vcpu_time_, *this);
    ASSERT_TRUE(vcpu_->start());
  }
  /// An engine that halts, and takes interrupts and NMIs out of a halt.
  void make_halting(unsigned index = 0) {
    make(index, [this](cpu::CpuState& state) {
      const bool enabled = (state.rflags & x86::rflags::IF) != 0;
      if (enabled && events_.take(VcpuEvents::kInterrupt) != 0) note("interrupt");
      if (!state.nmi_blocked && events_.take(VcpuEvents::kNmi) != 0) note("nmi");
      state.activity = Activity::kHalted;
      note("halt");
      return Exit::kHalt;
    });
  }

  x86::CpuModel model_ = x86::CpuModel::make("host").value();
  base::FakeTime time_;
  cpu::ApicFabric fabric_;
  VcpuEvents events_;
  cpu::LocalApic apic_{1, false, events_, fabric_, time_, 1'000'000'000, nullptr};
  std::unique_ptr<base::EventLoop> loop_ = base::EventLoop::create().value();
  VcpuTime vcpu_time_{*loop_, events_};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> notes_;
  std::atomic<u32> sleeping_until_ = 0;
  std::unique_ptr<Vcpu> vcpu_;
};

TEST_F(VcpuTest, StartsPausedAndRunsWhenResumed) {
  make_halting();
  EXPECT_TRUE(quiet());
  vcpu_->resume();
  EXPECT_EQ(next(), "halt");
  EXPECT_TRUE(quiet()) << "a halted processor takes no host time";
}

TEST_F(VcpuTest, InterruptWakesIfEnabled) {
  make_halting();
  vcpu_->state().rflags |= x86::rflags::IF;
  vcpu_->resume();
  EXPECT_EQ(next(), "halt");
  for (int i = 0; i < 1000; ++i) {  // a lost wake-up would hang
    events_.request(VcpuEvents::kInterrupt);
    ASSERT_EQ(next(), "interrupt");
    ASSERT_EQ(next(), "halt");
  }
}

// SDM 3A, 6.8.1: with IF = 0 only NMI, INIT and the like end a halt.
TEST_F(VcpuTest, MaskedInterruptDoesNotWakeButNmiDoes) {
  make_halting();
  vcpu_->resume();
  EXPECT_EQ(next(), "halt");
  events_.request(VcpuEvents::kInterrupt);
  EXPECT_TRUE(quiet());
  events_.request(VcpuEvents::kNmi);
  EXPECT_EQ(next(), "nmi");
  EXPECT_EQ(next(), "halt");
}

TEST_F(VcpuTest, BlockedNmiDoesNotWake) {
  make_halting();
  vcpu_->state().nmi_blocked = true;
  vcpu_->resume();
  EXPECT_EQ(next(), "halt");
  events_.request(VcpuEvents::kNmi);
  EXPECT_TRUE(quiet());
}

TEST_F(VcpuTest, TellsWhatItSleepsUntil) {
  const auto told = [this](u64 rflags, bool nmi_blocked) {
    make_halting();
    vcpu_->state().rflags |= rflags;
    vcpu_->state().nmi_blocked = nmi_blocked;
    vcpu_->resume();
    EXPECT_EQ(next(), "halt");
    for (int i = 0; i < 10000 && sleeping_until_ == 0; ++i) std::this_thread::sleep_for(1ms);
    const u32 wakers = sleeping_until_;
    vcpu_.reset();
    EXPECT_EQ(sleeping_until_, 0U) << "it has woken to end";
    return wakers;
  };
  constexpr u32 kAlways = VcpuEvents::kKick | VcpuEvents::kInit | VcpuEvents::kSipi | VcpuEvents::kSmi;
  EXPECT_EQ(told(0, false), kAlways | VcpuEvents::kNmi);
  EXPECT_EQ(told(0, true), kAlways);
  EXPECT_EQ(told(x86::rflags::IF, true), kAlways | VcpuEvents::kInterrupt);
}

TEST_F(VcpuTest, PausesWhileHaltedAndGoesOn) {
  make_halting();
  vcpu_->resume();
  EXPECT_EQ(next(), "halt");
  vcpu_->pause();
  EXPECT_TRUE(vcpu_->wait_until_idle(soon()));
  vcpu_->state().rflags |= x86::rflags::IF;
  events_.request(VcpuEvents::kInterrupt);
  EXPECT_TRUE(quiet());
  vcpu_->resume();
  EXPECT_EQ(next(), "interrupt");
}

TEST_F(VcpuTest, PausesWhileItRuns) {
  std::atomic<u64> turns = 0;
  make(0, [&](cpu::CpuState&) {
    ++turns;
    return Exit::kBudget;
  });
  vcpu_->resume();
  while (turns == 0) std::this_thread::yield();
  vcpu_->pause();
  EXPECT_TRUE(vcpu_->wait_until_idle(soon()));
  const u64 at_pause = turns;
  std::this_thread::sleep_for(1ms);
  EXPECT_EQ(turns, at_pause);
  EXPECT_EQ(vcpu_->instructions(), at_pause);
}

TEST_F(VcpuTest, WaitingForOneThatDoesNotStopHasAnEnd) {
  std::atomic<bool> stuck = true;
  make(0, [&](cpu::CpuState& state) {
    state.rip = 0x1234;
    note("stuck");
    while (stuck) std::this_thread::yield();
    return Exit::kBudget;
  });
  vcpu_->resume();
  EXPECT_EQ(next(), "stuck");
  vcpu_->pause();
  EXPECT_FALSE(vcpu_->wait_until_idle(std::chrono::steady_clock::now() + 2ms));
  EXPECT_EQ(vcpu_->seen_at(), 0x1234U);
  stuck = false;
  EXPECT_TRUE(vcpu_->wait_until_idle(soon()));
}

// SDM 3A, 8.4.
TEST_F(VcpuTest, ApplicationProcessorStartsBySipiOnly) {
  make(1, [this](cpu::CpuState& state) {
    note(fmt::format("at {:x}", state.seg(x86::kCs).base + state.rip));
    state.activity = Activity::kHalted;
    return Exit::kHalt;
  });
  vcpu_->state().activity = Activity::kWaitForSipi;
  vcpu_->resume();
  events_.request(VcpuEvents::kInterrupt);
  events_.request(VcpuEvents::kNmi);
  EXPECT_TRUE(quiet());
  static_cast<void>(events_.take(VcpuEvents::kInterrupt | VcpuEvents::kNmi));
  events_.sipi_vector = 0x9A;
  events_.request(VcpuEvents::kSipi);
  EXPECT_EQ(next(), "at 9a000");
  events_.sipi_vector = 0x10;
  events_.request(VcpuEvents::kSipi);
  wait_until_taken(VcpuEvents::kSipi);
  EXPECT_TRUE(quiet()) << "a second SIPI is ignored";
  events_.request(VcpuEvents::kInit);
  wait_until_taken(VcpuEvents::kInit);
  EXPECT_TRUE(quiet());
  events_.request(VcpuEvents::kSipi);
  EXPECT_EQ(next(), "at 10000");
}

TEST_F(VcpuTest, InitOfTheBootProcessorIsAReset) {
  make_halting(0);
  vcpu_->resume();
  EXPECT_EQ(next(), "halt");
  events_.request(VcpuEvents::kInit);
  EXPECT_EQ(next(), "reset");
  EXPECT_TRUE(vcpu_->wait_until_idle(soon()));
}

TEST_F(VcpuTest, TripleFaultIsToldOnce) {
  make(0, [](cpu::CpuState& state) {
    state.activity = Activity::kShutdown;
    return Exit::kShutdown;
  });
  vcpu_->resume();
  EXPECT_EQ(next(), "shutdown: fault on fault");
  EXPECT_TRUE(vcpu_->wait_until_idle(soon()));
  EXPECT_TRUE(quiet());
}

TEST_F(VcpuTest, FinishesInEveryState) {
  make_halting();
  vcpu_.reset();  // paused
  make_halting();
  vcpu_->resume();
  EXPECT_EQ(next(), "halt");
  vcpu_.reset();  // halted
  make(0, [](cpu::CpuState&) { return Exit::kBudget; });
  vcpu_->resume();
  vcpu_.reset();  // running
}

/// The event loop's thread is held up, as on a host whose processors all run vCPUs.
class VcpuTimerTest : public VcpuTest {
 protected:
  void SetUp() override {
    std::promise<void> held;
    loop_->post([&, hold = hold_.get_future().share()] {
      held.set_value();
      hold.wait();
    });
    held.get_future().wait();
  }
  void TearDown() override {
    vcpu_.reset();
    let_go();
  }
  void let_go() {
    if (!std::exchange(free_, true)) hold_.set_value();
  }
  void make_running() {
    make(0, [this](cpu::CpuState&) {
      while ((events_.pending() & VcpuEvents::kKick) == 0) std::this_thread::yield();
      return Exit::kKick;
    });
  }
  void arm_in(std::chrono::nanoseconds wait) {
    timer_->arm(loop_->now_ns() + static_cast<u64>(wait.count()));
  }

  std::promise<void> hold_;
  bool free_ = false;
  std::unique_ptr<base::Timer> timer_ = vcpu_time_.make_timer([this] { note("timer"); });
};

TEST_F(VcpuTimerTest, ATimerInterruptsARunningGuest) {
  make_running();
  arm_in(5ms);
  vcpu_->resume();
  EXPECT_EQ(next(), "timer");
  EXPECT_TRUE(quiet()) << "a timer fires once";
}

TEST_F(VcpuTimerTest, ATimerWakesAHaltedGuest) {
  make_halting();
  arm_in(50ms);
  vcpu_->resume();
  EXPECT_EQ(next(), "halt");
  EXPECT_EQ(next(), "timer");
}

TEST_F(VcpuTimerTest, ATimerArmedAgainByItsCallbackGoesOn) {
  timer_.reset();
  timer_ = vcpu_time_.make_timer([this] {
    note("timer");
    arm_in(1ms);
  });
  make_running();
  arm_in(1ms);
  vcpu_->resume();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(next(), "timer");
}

TEST_F(VcpuTimerTest, ACancelledTimerDoesNotFire) {
  make_running();
  arm_in(1ms);
  timer_->cancel();
  vcpu_->resume();
  std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(quiet());
}

TEST_F(VcpuTimerTest, ATimerStandsStillWithTheClock) {
  let_go();
  make_running();
  vcpu_->resume();
  vcpu_->pause();
  ASSERT_TRUE(vcpu_->wait_until_idle(soon()));
  arm_in(30ms);
  loop_->pause();
  const u64 stood_at = loop_->now_ns();
  std::this_thread::sleep_for(60ms);
  loop_->resume();
  vcpu_->resume();
  EXPECT_EQ(next(), "timer");
  EXPECT_GE(loop_->now_ns(), stood_at + 20'000'000);
}

TEST_F(VcpuTimerTest, WithoutSignalsTheEventLoopFiresTheTimer) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &before), 0);
  const rlimit none = {0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &none), 0);
  make_running();
  arm_in(5ms);
  vcpu_->resume();
  let_go();
  EXPECT_EQ(next(), "timer");
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &before), 0);
}

}  // namespace
}  // namespace vert::machine

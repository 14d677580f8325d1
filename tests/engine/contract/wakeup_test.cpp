// No event is left behind: whatever a vCPU could act on, it does, and none falls between a check and HLT.
//
// Engines run without a budget here, as machines run them: with one, bt takes other ways.
#include <atomic>
#include <chrono>
#include <thread>

#include "engine/contract/engine_test.hpp"

namespace vert::test {
namespace {

using namespace std::chrono_literals;

constexpr u8 kSti = 0xFB;
constexpr u8 kCli = 0xFA;

class WakeupTest : public EngineTest {
 protected:
  using Clock = std::chrono::steady_clock;

  /// Runs a vCPU as machine/ does. False if it halted and nothing woke it in time, or did not halt at all.
  [[nodiscard]] bool run_until_halt(unsigned vcpu = 0) {
    std::atomic<bool> done = false;
    std::thread watchdog([&] {
      const auto limit = Clock::now() + 20s;
      while (!done && Clock::now() < limit) std::this_thread::sleep_for(1ms);
      if (!done) rig().events(vcpu).request(cpu::VcpuEvents::kKick);
    });
    const cpu::ExitInfo exit = rig().run(cpu::kNoBudget, vcpu);
    done = true;
    watchdog.join();
    return exit.reason == cpu::Exit::kHalt;
  }
};

/// What IRETQ to user code needs, pushed with IF as `flags` has it.
void return_to_user(Assembler& a, u64 rip, u64 rsp, u32 flags) {
  a.bytes({0x6A, kUserDs}).load(0, rsp).bytes({0x50});  // push ss; push rsp
  a.bytes({0x68}).value(flags).bytes({0x6A, kUserCs});  // push flags; push cs
  a.load(0, rip).bytes({0x50}).bytes({0x48, 0xCF});     // push rip; iretq
}

class UserLoopTest : public WakeupTest {
 protected:
  static constexpr u64 kUser = 0x40'0000;
  static constexpr u64 kUserStack = 0x50'0000;

  void map_user_loop() {
    const std::array<u8, 2> loop = {0xEB, 0xFE};
    rig().write_host(rig().map(kUser, 1, {true, false, true}), loop);
    rig().map(kUserStack, 1, {true, true, false});
  }
  void expect_interrupted_user_loop() {
    ASSERT_TRUE(run_until_halt());
    const auto caught = rig().caught();
    ASSERT_TRUE(caught.has_value());
    EXPECT_EQ(caught->vector, kVector);
    EXPECT_EQ(caught->rip, kUser);
    EXPECT_EQ(caught->cs, kUserCs);
  }
};

TEST_P(UserLoopTest, AnInterruptHeldBackComesAfterIretToUserMode) {
  make_rig();
  map_user_loop();
  Assembler a(code());
  a.nop(5);
  return_to_user(a, kUser, kUserStack + 0x800, 0x202);
  start(a);
  enable_apic();
  interrupt(kVector);
  expect_interrupted_user_loop();
}

TEST_P(UserLoopTest, AnInterruptHeldBackComesAfterSysret) {
  make_rig();
  map_user_loop();
  Assembler a(code());
  a.nop(5).load(1, kUser).load(11, 0x202).bytes({0x48, 0x0F, 0x07});  // rcx, r11; sysretq
  start(a);
  cpu::CpuState state = rig().state();
  state.msr.star = u64{kUserCs32} << 48 | u64{kKernelCs} << 32;
  rig().set_state(state);
  enable_apic();
  interrupt(kVector);
  expect_interrupted_user_loop();
}

TEST_P(UserLoopTest, AnInterruptHeldBackComesAfterPopf) {
  make_rig();
  Assembler a(code());
  a.nop(5).bytes({0x68}).value(u32{0x202}).bytes({0x9D}).label("loop").branch({0xE9}, "loop");
  start(a);
  enable_apic();
  interrupt(kVector);
  ASSERT_TRUE(run_until_halt());
  ASSERT_TRUE(rig().caught().has_value());
  EXPECT_EQ(rig().caught()->rip, a.address("loop"));
}

/// A guest that announces a round, looks at its flag with interrupts off, takes its time, and halts unless
/// the flag is set; the handler sets the flag.
class HaltRaceTest : public WakeupTest {
 protected:
  static constexpr u32 kRounds = 100;
  static constexpr u8 kRound = 0;
  static constexpr u8 kFlag = 4;
  static constexpr u64 kApic = 0x60'0000;
  static constexpr u64 kEoi = 0xB0;

  void load_guest() {
    Assembler a(code());
    a.load(3, data()).label("round");
    a.bytes({kCli, 0xF0, 0xFF, 0x03});                  // lock inc dword [rbx]
    a.label("check").bytes({0x83, 0x7B, kFlag, 0x00});  // cmp dword [rbx+4], 0
    a.branch({0x0F, 0x85}, "work");
    for (int i = 0; i < 400; ++i) a.bytes({0xF0, 0xFF, 0x43, 0x40});  // lock inc dword [rbx+64]
    a.bytes({kSti}).hlt().bytes({kCli}).branch({0xE9}, "check");
    a.label("work").bytes({0xC7, 0x43, kFlag}).value(u32{0});                  // mov dword [rbx+4], 0
    a.bytes({0x81, 0x3B}).value(kRounds).branch({0x0F, 0x82}, "round").hlt();  // cmp dword [rbx]; jb
    a.label("handler").bytes({0xC7, 0x43, kFlag}).value(u32{1});
    a.bytes({0x50}).load(0, kApic + kEoi).bytes({0xC7, 0x00}).value(u32{0});  // push rax; mov dword [rax]
    a.bytes({0x58, 0x48, 0xCF});
    start(a);
    rig().map_page(kApic, Gpa(cpu::LocalApic::kDefaultBase), {false, true, false});
    rig().set_gate(kVector, a.address("handler"));
    end_ = a.address("handler");
  }
  [[nodiscard]] bool at_end() { return rig().state().rip == end_; }

  u64 end_ = 0;
};

TEST_P(HaltRaceTest, NoInterruptFallsBetweenStiAndHlt) {
  make_rig();
  load_guest();
  enable_apic();
  std::atomic<bool> over = false;
  std::thread device([&] {
    for (u32 round = 1; round <= kRounds && !over; ++round) {
      while (counter(kRound) < round && !over) std::this_thread::yield();
      interrupt(kVector);
    }
  });
  unsigned lost = 0;
  while (true) {
    ASSERT_TRUE(run_until_halt());
    if (at_end()) break;
    if (counter(kFlag) != 0) {
      // Asleep with its work waiting: goes on behind the HLT all the same.
      ++lost;
      rig().state().activity = cpu::Activity::kRunning;
      continue;
    }
    while (rig().events().pending() == 0) std::this_thread::yield();
  }
  over = true;
  device.join();
  EXPECT_EQ(lost, 0U) << "of " << kRounds;
}

INSTANTIATE_TEST_SUITE_P(Engines, UserLoopTest, testing::ValuesIn(engine_names()));
INSTANTIATE_TEST_SUITE_P(Engines, HaltRaceTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

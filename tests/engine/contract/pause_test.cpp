// vCPUs that wait for each other by PAUSE, on one processor of the host.
#include <sched.h>
#include <time.h>

#include <thread>

#include "engine/contract/engine_test.hpp"

namespace vert::test {
namespace {

class PauseTest : public EngineTest {
 protected:
  /// Of the thread, since it began.
  static u64 processor_time_ns() {
    timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<u64>(time.tv_sec) * 1'000'000'000 + static_cast<u64>(time.tv_nsec);
  }
  /// Runs a vCPU on a thread that stays on the processor `host`; returns the time that it took there.
  u64 run_on(int host, unsigned vcpu) {
    u64 taken = 0;
    std::thread([&] {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(host, &set);
      ASSERT_EQ(::sched_setaffinity(0, sizeof set, &set), 0);
      const u64 before = processor_time_ns();
      EXPECT_EQ(rig().run(cpu::kNoBudget, vcpu).reason, cpu::Exit::kHalt);
      taken = processor_time_ns() - before;
    }).join();
    return taken;
  }
};

TEST_P(PauseTest, AVcpuThatSpinsLeavesTheProcessorToTheOther) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "SKIP: a turn takes as long under ThreadSanitizer as a lost one does without";
#endif
  constexpr u32 kTurns = 100;
  make_rig(2);
  Assembler a(code());
  // They take turns to add 1 to the dword at rbx: vCPU 0 while it is even, vCPU 1 while it is odd.
  a.label("start").load(3, data()).load(6, kTurns).label("wait");
  a.bytes(
      {0xF3, 0x90, 0x8B, 0x03, 0x44, 0x31, 0xF0, 0xA8, 0x01});  // pause; mov eax, [rbx]; xor eax, r14d; test
  a.branch({0x0F, 0x85}, "wait");                               // jnz
  a.bytes({0xFF, 0x03, 0xFF, 0xCE}).branch({0x0F, 0x85}, "wait").hlt();  // inc dword [rbx]; dec esi
  start(a);
  place(code(), 1);
  rig().state(1).gpr[x86::kR14] = 1;
  const int host = ::sched_getcpu();
  u64 other_took = 0;
  std::thread other([&] { other_took = run_on(host, 1); });
  const u64 took = run_on(host, 0);
  other.join();
  EXPECT_EQ(counter(), 2 * kTurns);
  // Who keeps the processor until the host takes it away has it for a millisecond or several a turn.
  EXPECT_LT((took + other_took) / (2 * kTurns), 250'000U);
}

INSTANTIATE_TEST_SUITE_P(Engines, PauseTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

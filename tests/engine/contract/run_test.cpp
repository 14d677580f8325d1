// Budgets, halts, kicks and the precision of the state on return.
#include <chrono>
#include <thread>

#include "base/archive.hpp"
#include "engine/contract/engine_test.hpp"

namespace vert::test {
namespace {

class RunTest : public EngineTest {
 protected:
  /// A computation of many instructions that ends with HLT: RAX holds a hash of all steps.
  void start_hash(u32 turns) {
    Assembler a(code());
    a.load(0, 0x1234'5678).load(3, data()).bytes({0xB9}).value(turns);  // rax, rbx, mov ecx
    a.label("loop");
    a.bytes({0x48, 0x69, 0xC0}).value(u32{0x0101'01B3});       // imul rax, rax, 10101B3h
    a.bytes({0x48, 0x31, 0xC8});                               // xor rax, rcx
    a.bytes({0x48, 0x11, 0x03});                               // adc [rbx], rax
    a.bytes({0x48, 0xC1, 0xC0, 0x07});                         // rol rax, 7
    a.bytes({0xFF, 0xC9}).branch({0x0F, 0x85}, "loop").hlt();  // dec ecx; jnz
    start(a);
  }
  [[nodiscard]] cpu::CpuState finish() {
    const cpu::ExitInfo exit = rig().run(10'000'000);
    EXPECT_EQ(exit.reason, cpu::Exit::kHalt);
    return rig().state();
  }
};

TEST_P(RunTest, BudgetIsExact) {
  make_rig();
  Assembler a(code());
  a.nop(1000).hlt();
  start(a);
  u64 done = 0;
  for (const u64 budget : {1U, 2U, 3U, 10U, 100U, 500U}) {
    const cpu::ExitInfo exit = rig().run(budget);
    done += budget;
    EXPECT_EQ(exit.reason, cpu::Exit::kBudget);
    EXPECT_EQ(exit.instructions, budget);
    EXPECT_EQ(rig().state().rip, code() + done);
  }
  const cpu::ExitInfo exit = rig().run(10'000);
  EXPECT_EQ(exit.reason, cpu::Exit::kHalt);
  EXPECT_EQ(exit.instructions, 1000 - done + 1);
}

TEST_P(RunTest, BudgetIsExactInALoop) {
  make_rig();
  Assembler a(code());
  a.label("loop").bytes({0x48, 0xFF, 0xC0}).branch({0xE9}, "loop");  // inc rax; jmp
  start(a);
  EXPECT_EQ(rig().run(100'001).instructions, 100'001U);
  EXPECT_EQ(reg(x86::kRax), 50'001U);
  EXPECT_EQ(rig().state().rip, code() + 3);
}

TEST_P(RunTest, AFaultDoesNotCountAsAnInstruction) {
  make_rig();
  Assembler a(code());
  a.nop(3).bytes({0x0F, 0x0B});  // ud2
  start(a);
  const cpu::ExitInfo exit = rig().run(100);
  EXPECT_EQ(exit.reason, cpu::Exit::kHalt);
  EXPECT_EQ(exit.instructions, 4U);  // three NOPs, and the handler's HLT
  const auto caught = rig().caught();
  ASSERT_TRUE(caught.has_value());
  EXPECT_EQ(caught->vector, x86::kUD);
  EXPECT_EQ(caught->rip, code() + 3);
}

TEST_P(RunTest, HaltIsLeftBehindByTheInstructionPointer) {
  make_rig();
  Assembler a(code());
  a.hlt();
  start(a);
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  EXPECT_EQ(rig().state().activity, cpu::Activity::kHalted);
  EXPECT_EQ(rig().state().rip, code() + 1);
  // Nothing woke it: it stays halted.
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  EXPECT_EQ(rig().state().rip, code() + 1);
}

TEST_P(RunTest, TripleFaultShutsDownAndSaysWhy) {
  make_rig();
  Assembler a(code());
  a.bytes({0x0F, 0x0B});
  start(a);
  cpu::CpuState state = rig().state();
  state.idtr.limit = 0;
  rig().set_state(state);
  const cpu::ExitInfo exit = rig().run(100);
  EXPECT_EQ(exit.reason, cpu::Exit::kShutdown);
  EXPECT_EQ(rig().state().activity, cpu::Activity::kShutdown);
  EXPECT_FALSE(exit.description.empty());
}

TEST_P(RunTest, KickFromAnotherThreadEndsATightLoop) {
  make_rig();
  Assembler a(code());
  a.bytes({0xEB, 0xFE});  // jmp to itself
  start(a);
  std::thread kicker([&] { rig().events().request(cpu::VcpuEvents::kKick); });
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kKick);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  kicker.join();
  EXPECT_EQ(rig().state().rip, code());
  // The engine does not take the bit: that is the machine's.
  EXPECT_EQ(rig().events().take(cpu::VcpuEvents::kKick), cpu::VcpuEvents::kKick);
}

/// Calls without end, of which only other threads can make one.
class EndlessCalls : public RunTest {
 protected:
  /// Kicks code that is never done, again and again.
  void run(Assembler& a) {
    start(a);
    rig().state().gpr[x86::kRbp] = reg(x86::kRsp);
    rig().state().gpr[x86::kRbx] = code();
    for (int turn = 0; turn < 20; ++turn) {
      std::thread kicker([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        rig().events().request(cpu::VcpuEvents::kKick);
      });
      const cpu::ExitInfo exit = rig().run(cpu::kNoBudget);
      kicker.join();
      ASSERT_EQ(exit.reason, cpu::Exit::kKick) << exit.description;
      EXPECT_EQ(rig().events().take(cpu::VcpuEvents::kKick), cpu::VcpuEvents::kKick);
    }
  }
};

TEST_P(EndlessCalls, DirectOnesThatDoNotReturn) {
  make_rig();
  Assembler a(code());
  a.label("again").bytes({0x48, 0x89, 0xEC}).branch({0xE8}, "again");  // mov rsp, rbp; call
  run(a);
}

TEST_P(EndlessCalls, IndirectOnesThatDoNotReturn) {
  make_rig();
  Assembler a(code());
  a.bytes({0x48, 0x89, 0xEC, 0xFF, 0xD3});  // mov rsp, rbp; call rbx
  run(a);
}

/// The call's target lies where it puts its return address: it cannot be made twice.
TEST_P(EndlessCalls, IndirectOnesThroughTheStack) {
  make_rig();
  Assembler a(code());
  a.bytes({0x48, 0x89, 0xEC, 0x48, 0x89, 0x5C, 0x24, 0xF8});  // mov rsp, rbp; mov [rsp-8], rbx
  a.bytes({0xFF, 0x54, 0x24, 0xF8, 0x0F, 0x0B});              // call [rsp-8]; ud2
  run(a);
}

/// 2^64 of them, never deeper than 64.
TEST_P(EndlessCalls, ThatAllReturn) {
  make_rig();
  Assembler a(code());
  a.bytes({0xB9, 64, 0, 0, 0}).branch({0xE8}, "f").bytes({0x0F, 0x0B});  // mov ecx, 64; call; ud2
  a.label("f").bytes({0xFF, 0xC9}).branch({0x0F, 0x84}, "out");          // dec ecx; jz
  a.branch({0xE8}, "f").branch({0xE8}, "f");
  a.label("out").bytes({0xFF, 0xC1, 0xC3});  // inc ecx; ret
  run(a);
}

INSTANTIATE_TEST_SUITE_P(Engines, EndlessCalls, testing::ValuesIn(engine_names()));

TEST_P(RunTest, KickEndsALongRepetition) {
  constexpr u64 kCount = u64{8} << 20;
  make_rig();
  Assembler a(code());
  a.label("again").load(6, GuestRig::direct(Gpa(0))).load(1, kCount);
  a.label("rep").bytes({0xF3, 0xAC}).branch({0xE9}, "again");  // rep lodsb
  start(a);
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kBudget);
  std::thread kicker([&] { rig().events().request(cpu::VcpuEvents::kKick); });
  EXPECT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kKick);
  kicker.join();
  // Wherever it was: registers say how far it came.
  if (rig().state().rip == a.address("rep")) {
    EXPECT_EQ(reg(x86::kRsi) - GuestRig::direct(Gpa(0)) + reg(x86::kRcx), kCount);
  }
}

TEST_P(RunTest, InitAndSipiAreTheMachinesToSettle) {
  make_rig();
  Assembler a(code());
  a.bytes({0xEB, 0xFE});
  start(a);
  rig().events().request(cpu::VcpuEvents::kInit);
  EXPECT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kKick);
  EXPECT_EQ(rig().events().pending() & cpu::VcpuEvents::kInit, cpu::VcpuEvents::kInit);
}

TEST_P(RunTest, PiecesGiveTheSameAsOneRun) {
  make_rig();
  start_hash(5000);
  const cpu::CpuState whole = finish();
  const auto memory = rig().memory().load<u64>(kData);
  for (const u64 piece : {1U, 7U, 1000U}) {
    rig().write(kData, std::vector<u8>(8));
    start_hash(5000);
    u64 guard = 0;
    while (rig().run(piece).reason == cpu::Exit::kBudget && ++guard < 100'000) {
    }
    EXPECT_EQ(rig().state(), whole) << "in pieces of " << piece;
    EXPECT_EQ(rig().memory().load<u64>(kData), memory);
  }
}

TEST_P(RunTest, SaveAndRestoreInMidRunChangesNothing) {
  make_rig();
  start_hash(2000);
  const cpu::CpuState whole = finish();
  rig().write(kData, std::vector<u8>(8));
  start_hash(2000);
  EXPECT_EQ(rig().run(4321).reason, cpu::Exit::kBudget);
  const auto bytes = base::to_bytes(base::save("cpu", 1, rig().state()));
  rig().set_state(cpu::CpuState{});
  const auto document = base::from_bytes(bytes);
  ASSERT_TRUE(document.has_value());
  const auto restored = base::restore<cpu::CpuState>("cpu", 1, *document);
  ASSERT_TRUE(restored.has_value()) << restored.error().message;
  rig().set_state(*restored);
  EXPECT_EQ(finish(), whole);
}

TEST_P(RunTest, EveryEngineCanTakeOverInMidRun) {
  make_rig();
  start_hash(2000);
  const cpu::CpuState whole = finish();
  const auto memory = rig().memory().load<u64>(kData);
  rig().write(kData, std::vector<u8>(8));
  start_hash(2000);
  const std::vector<std::string> names = engine_names();
  for (u64 turn = 0; rig().run(997).reason == cpu::Exit::kBudget && turn < 1000; ++turn)
    rig().replace_engine(names[turn % names.size()]);
  EXPECT_EQ(rig().state(), whole);
  EXPECT_EQ(rig().memory().load<u64>(kData), memory);
}

INSTANTIATE_TEST_SUITE_P(Engines, RunTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

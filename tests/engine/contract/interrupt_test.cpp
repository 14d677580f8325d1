// Interrupts, NMIs, and what holds them off.
#include "engine/contract/engine_test.hpp"

namespace vert::test {
namespace {

class InterruptTest : public EngineTest {};

constexpr u8 kSti = 0xFB;
constexpr u8 kCli = 0xFA;

TEST_P(InterruptTest, WakesAHaltedProcessor) {
  make_rig();
  Assembler a(code());
  a.bytes({kSti}).hlt().load(0, 77).bytes({kCli}).hlt();
  counting_handler(a, "handler", 0);
  start(a);
  rig().set_gate(kVector, a.address("handler"));
  enable_apic();
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  EXPECT_EQ(counter(), 0U);
  interrupt(kVector);
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  EXPECT_EQ(counter(), 1U);
  EXPECT_EQ(reg(x86::kRax), 77U);
}

TEST_P(InterruptTest, WaitsForIf) {
  make_rig();
  Assembler a(code());
  a.nop(10).bytes({kSti}).nop(10).hlt();
  start(a);
  enable_apic();
  interrupt(kVector);
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  const auto caught = rig().caught();
  ASSERT_TRUE(caught.has_value());
  EXPECT_EQ(caught->vector, kVector);
  EXPECT_EQ(caught->rip, code() + 12);  // STI, and one more (SDM 2B, STI)
  EXPECT_NE(caught->rflags & x86::rflags::IF, 0U);
}

TEST_P(InterruptTest, StiThenCliLetsNothingThrough) {
  make_rig();
  Assembler a(code());
  a.bytes({kSti, kCli}).nop(5).hlt();
  start(a);
  enable_apic();
  interrupt(kVector);
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  EXPECT_FALSE(rig().caught().has_value());
  EXPECT_EQ(rig().state().rip, code() + 8);
}

TEST_P(InterruptTest, ASecondStiDoesNotProlongTheShadow) {
  make_rig();
  Assembler a(code());
  a.bytes({kSti, kSti, kSti}).nop(5).hlt();
  start(a);
  enable_apic();
  interrupt(kVector);
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  ASSERT_TRUE(rig().caught().has_value());
  EXPECT_EQ(rig().caught()->rip, code() + 2);
}

TEST_P(InterruptTest, MovToSsHoldsOffForOneInstruction) {
  make_rig();
  Assembler a(code());
  a.bytes({0xB8}).value(u32{kKernelDs});  // mov eax
  a.bytes({0x8E, 0xD0}).nop(5).hlt();     // mov ss, eax
  start(a);
  cpu::CpuState state = rig().state();
  state.rflags |= x86::rflags::IF;
  rig().set_state(state);
  enable_apic();
  EXPECT_EQ(rig().run(2).reason, cpu::Exit::kBudget);
  EXPECT_TRUE(rig().state().mov_ss_shadow);
  interrupt(kVector);
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  ASSERT_TRUE(rig().caught().has_value());
  EXPECT_EQ(rig().caught()->rip, code() + 8);
}

TEST_P(InterruptTest, TaskPriorityHoldsOff) {
  make_rig();
  Assembler a(code());
  a.bytes({kSti}).nop(5);
  a.bytes({0x31, 0xC0}).bytes({0x44, 0x0F, 0x22, 0xC0}).nop(5).hlt();  // xor eax, eax; mov cr8, rax
  start(a);
  enable_apic();
  rig().apic().set_cr8(kVector >> 4);
  interrupt(kVector);
  EXPECT_EQ(rig().run(100).reason, cpu::Exit::kHalt);
  ASSERT_TRUE(rig().caught().has_value());
  EXPECT_GE(rig().caught()->rip, code() + 12);
}

TEST_P(InterruptTest, AHotLoopIsInterruptedSoon) {
  make_rig();
  Assembler a(code());
  a.bytes({kSti}).label("loop").bytes({0x48, 0xFF, 0xC0}).branch({0xE9}, "loop");
  start(a);
  enable_apic();
  EXPECT_EQ(rig().run(200'000).reason, cpu::Exit::kBudget);
  interrupt(kVector);
  const cpu::ExitInfo exit = rig().run(1'000'000);
  EXPECT_EQ(exit.reason, cpu::Exit::kHalt);
  EXPECT_LT(exit.instructions, 100'000U);
  ASSERT_TRUE(rig().caught().has_value());
  EXPECT_EQ(rig().caught()->vector, kVector);
}

TEST_P(InterruptTest, NmiNeedsNoIfAndIsBlockedUntilIret) {
  make_rig();
  Assembler a(code());
  a.nop(5).hlt().hlt();
  a.label("handler").bytes({0x50}).load(0, data()).bytes({0xFF, 0x00}).nop(20).bytes({0x58, 0x48, 0xCF});
  start(a);
  rig().set_gate(x86::kNMI, a.address("handler"));
  nmi();
  EXPECT_EQ(rig().run(2).reason, cpu::Exit::kBudget);
  EXPECT_TRUE(rig().state().nmi_blocked);
  EXPECT_EQ(counter(), 0U);
  nmi();
  // Inside the handler the second one waits; after IRET it comes.
  EXPECT_EQ(rig().run(10).reason, cpu::Exit::kBudget);
  EXPECT_EQ(counter(), 1U);
  EXPECT_EQ(rig().run(1000).reason, cpu::Exit::kHalt);
  EXPECT_EQ(counter(), 2U);
  EXPECT_FALSE(rig().state().nmi_blocked);
}

TEST_P(InterruptTest, OneNmiIsKeptBesidesTheOneThatIsServed) {
  make_rig();
  Assembler a(code());
  a.nop(5).hlt().hlt();
  counting_handler(a, "handler", 0);
  start(a);
  rig().set_gate(x86::kNMI, a.address("handler"));
  for (int i = 0; i < 3; ++i) nmi();
  EXPECT_EQ(rig().run(1000).reason, cpu::Exit::kHalt);
  EXPECT_EQ(counter(), 2U);
}

TEST_P(InterruptTest, NmisDuringAnNmiBecomeOne) {
  make_rig();
  Assembler a(code());
  a.nop(5).hlt().hlt();
  a.label("handler").nop(20);
  counting_handler(a, "count", 0);
  start(a);
  rig().set_gate(x86::kNMI, a.address("handler"));
  nmi();
  EXPECT_EQ(rig().run(2).reason, cpu::Exit::kBudget);
  for (int i = 0; i < 3; ++i) nmi();
  EXPECT_EQ(rig().run(1000).reason, cpu::Exit::kHalt);
  EXPECT_EQ(counter(), 2U);
}

TEST_P(InterruptTest, InterruptsUserModeOnTheKernelStack) {
  make_rig();
  constexpr u64 kUser = 0x40'0000;
  const std::array<u8, 4> loop = {0x90, 0x90, 0xEB, 0xFC};
  rig().write_host(rig().map(kUser, 1, {true, false, true}), loop);
  rig().set_state(rig().initial_state(kUser, 0x1234'5678, 3));
  enable_apic();
  EXPECT_EQ(rig().run(1000).reason, cpu::Exit::kBudget);
  interrupt(kVector);
  EXPECT_EQ(rig().run(100'000).reason, cpu::Exit::kHalt);
  const auto caught = rig().caught();
  ASSERT_TRUE(caught.has_value());
  EXPECT_EQ(caught->vector, kVector);
  EXPECT_EQ(caught->cs, kUserCs);
  EXPECT_EQ(caught->ss, kUserDs);
  EXPECT_EQ(caught->rsp, 0x1234'5678U);
  EXPECT_EQ(rig().state().cpl, 0);
  EXPECT_EQ(reg(x86::kRsp), GuestRig::kernel_stack_top() - 40);
}

INSTANTIATE_TEST_SUITE_P(Engines, InterruptTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

// Single step, breakpoints, and the modes before long mode.
#include "insn/system/system_test.hpp"

namespace vert::test {
namespace {

namespace dr6 = x86::dr6;
namespace dr7 = x86::dr7;

class DebugTest : public SystemTest {
 protected:
  // DR7: breakpoint 0 local, its kind in bits 16..17, its length in bits 18..19 (SDM 3B, 17.2.4).
  static constexpr u64 kExecute = 1;
  static constexpr u64 kWrite8 = 1 | 1U << 16 | 2U << 18;
  static constexpr u64 kReadWrite1 = 1 | 3U << 16;
};

TEST_P(DebugTest, SingleStepTrapsAfterEachInstruction) {
  load_user(SNIPPET(nops));
  cpu::CpuState state = user_state();
  state.rflags |= x86::rflags::TF;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kDB);
  EXPECT_EQ(caught.rip, kUserCode + 1);
  EXPECT_NE(caught.rflags & x86::rflags::TF, 0U);
  EXPECT_EQ(rig().state().dr6 & (dr6::BS | dr6::kBreakpoints), dr6::BS);
  EXPECT_EQ(rig().state().rflags & x86::rflags::TF, 0U);
}

TEST_P(DebugTest, PopfOfTfTrapsAfterTheNextInstruction) {
  load_user(SNIPPET(popf_trap));
  const Caught caught = run_to_exception(user_state());
  EXPECT_EQ(caught.vector, x86::kDB);
  // pushfq, or qword [rsp], imm32, popfq, nop
  EXPECT_EQ(caught.rip, kUserCode + 1 + 8 + 1 + 1);
}

TEST_P(DebugTest, InstructionBreakpointFaultsBefore) {
  load_user(SNIPPET(nops));
  cpu::CpuState state = user_state();
  state.dr[0] = kUserCode + 2;
  state.dr7 |= kExecute;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kDB);
  EXPECT_EQ(caught.rip, kUserCode + 2);
  // The only fault that does not push RF set (SDM 3B, 17.3.1.1): the handler sets it.
  EXPECT_EQ(caught.rflags & x86::rflags::RF, 0U);
  EXPECT_EQ(rig().state().dr6 & dr6::kBreakpoints, 1U);
  // RF lets it pass once.
  state = user_state();
  state.dr[0] = kUserCode;
  state.dr7 |= kExecute;
  state.rflags |= x86::rflags::RF;
  EXPECT_EQ(run_to_exception(state).vector, x86::kBP);
}

/// SDM 3B, 17.3.1.1.
TEST_P(DebugTest, AnInstructionBreakpointHitsAStringInstructionOnce) {
  rig().map(kPage, 1, {true, true, false});
  load_user(SNIPPET(rep_stos));
  cpu::CpuState state = user_state();
  state.gpr[x86::kRdi] = kPage;
  state.gpr[x86::kRcx] = 600;
  state.dr[0] = kUserCode;
  state.dr7 |= kExecute;
  EXPECT_EQ(run_to_exception(state).vector, x86::kDB);
  EXPECT_EQ(rig().state().gpr[x86::kRcx], 600U);
  state.rflags |= x86::rflags::RF;
  EXPECT_EQ(run_to_exception(state).vector, x86::kBP) << "RF lasts for all iterations";
  EXPECT_EQ(rig().state().gpr[x86::kRcx], 0U);
}

TEST_P(DebugTest, TrapsBetweenIterationsSaveRf) {
  rig().map(kPage, 1, {true, true, false});
  load_user(SNIPPET(rep_stos));
  cpu::CpuState state = user_state();
  state.gpr[x86::kRdi] = kPage;
  state.gpr[x86::kRcx] = 2;
  state.rflags |= x86::rflags::TF;
  Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.rip, kUserCode);
  EXPECT_NE(caught.rflags & x86::rflags::RF, 0U);
  state.gpr[x86::kRcx] = 1;
  caught = run_to_exception(state);
  EXPECT_EQ(caught.rip, kUserCode + 2);
  EXPECT_EQ(caught.rflags & x86::rflags::RF, 0U) << "after the last";
}

TEST_P(DebugTest, DataBreakpointTrapsAfter) {
  rig().map(kPage, 1, {true, true, false});
  load_user(SNIPPET(write));
  cpu::CpuState state = user_state();
  state.gpr[x86::kRsi] = kPage + 16;
  state.dr[0] = kPage + 16;
  state.dr7 |= kWrite8;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kDB);
  EXPECT_EQ(caught.rip, kUserCode + 3);
  EXPECT_EQ(rig().state().dr6 & dr6::kBreakpoints, 1U);
}

TEST_P(DebugTest, AWriteBreakpointIgnoresReads) {
  rig().map(kPage, 1, {true, true, false});
  load_user(SNIPPET(read));
  cpu::CpuState state = user_state();
  state.gpr[x86::kRsi] = state.dr[0] = kPage + 16;
  state.dr7 |= kWrite8;
  EXPECT_EQ(run_to_exception(state).vector, x86::kBP);
  state.dr7 |= kReadWrite1;
  EXPECT_EQ(run_to_exception(state).vector, x86::kDB);
}

TEST_P(DebugTest, GeneralDetectGuardsTheRegisters) {
  load_kernel(SNIPPET(write_dr));
  cpu::CpuState state = kernel_state();
  state.dr7 |= dr7::GD;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kDB);
  EXPECT_EQ(caught.rip, kernel_code());
  EXPECT_NE(rig().state().dr6 & dr6::BD, 0U);
  EXPECT_EQ(rig().state().dr7 & dr7::GD, 0U);
}

TEST_P(DebugTest, Int1NeedsNoPrivilege) {
  load_user(SNIPPET(icebp));
  const Caught caught = run_to_exception(user_state());
  EXPECT_EQ(caught.vector, x86::kDB);
  EXPECT_EQ(caught.rip, kUserCode + 1);
}

TEST_P(DebugTest, Int1TakesOverAWatchpointThatMovSsHeldBack) {
  load_user(SNIPPET(mov_ss_icebp));
  const u16 stack = kUserDs;
  rig().write_host(rig().map(kPage, 1, {true, true, false}), {reinterpret_cast<const u8*>(&stack), 2});
  cpu::CpuState state = user_state();
  state.gpr[x86::kRsi] = state.dr[0] = kPage;
  state.dr7 |= kReadWrite1;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kDB);
  EXPECT_EQ(caught.rip, kUserCode + 3);
  EXPECT_EQ(rig().state().dr6 & dr6::kBreakpoints, 1U);
}

class EarlyModeTest : public SystemTest {
 protected:
  static constexpr u64 kEntry = 0x8000;

  cpu::CpuState real_state() {
    cpu::CpuState state;
    cpu::reset(state, rig().model());
    state.rip = kEntry;
    for (x86::Segment& segment : state.segment) {
      segment.selector = 0;
      segment.base = 0;
    }
    return state;
  }
};

TEST_P(EarlyModeTest, RealModeInterruptsThroughTheVectorTable) {
  rig().write(Gpa(kEntry), SNIPPET(real_mode));
  rig().write(Gpa(0xA000), SNIPPET(real_handler));
  const std::array<u8, 4> vector = {0x00, 0x00, 0x00, 0x0A};  // 0A00:0000
  rig().write(Gpa(0x21 * 4), vector);
  const cpu::CpuState& end = run(real_state());
  EXPECT_EQ(end.gpr[x86::kRbx] & 0xFFFF, 0x5678U);
  EXPECT_EQ(end.gpr[x86::kRcx] & 0xFFFF, 1U);
  EXPECT_EQ(end.gpr[x86::kRdx] & x86::rflags::kArithmetic, x86::rflags::CF | x86::rflags::AF);
  EXPECT_EQ(end.gpr[x86::kRsp] & 0xFFFF, 0x7000U);
}

TEST_P(EarlyModeTest, ProtectedModeIsEnteredByAFarJump) {
  rig().write(Gpa(kEntry), SNIPPET(enter_protected));
  const std::array<u8, 6> pointer = {0x17, 0x00, 0x00, 0x91, 0x00, 0x00};  // limit 17h, base 9100h
  rig().write(Gpa(0x9000), pointer);
  const std::array<u64, 3> gdt = {0, 0x00CF'9B00'0000'FFFF, 0x00CF'9300'0000'FFFF};
  rig().write(Gpa(0x9100), {reinterpret_cast<const u8*>(gdt.data()), sizeof gdt});
  const cpu::CpuState& end = run(real_state());
  EXPECT_EQ(end.gpr[x86::kRcx], 0x1234'5678U);
  EXPECT_EQ(end.gpr[x86::kRdx], 0x9100'0017U);
  EXPECT_TRUE(end.protected_mode());
  EXPECT_EQ(end.seg(x86::kCs).selector, 8U);
  EXPECT_TRUE(end.seg(x86::kCs).is_big());
  EXPECT_EQ(end.gpr[x86::kRsp], 0x7000U);
}

INSTANTIATE_TEST_SUITE_P(Engines, DebugTest, testing::ValuesIn(engine_names()));
INSTANTIATE_TEST_SUITE_P(Engines, EarlyModeTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

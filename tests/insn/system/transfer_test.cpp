// Privilege: flags that CPL and IOPL guard, SYSCALL, SYSENTER, IRET, INT, and stacks of the TSS.
#include "insn/system/system_test.hpp"

namespace vert::test {
namespace {

namespace rflags = x86::rflags;

class TransferTest : public SystemTest {};

TEST_P(TransferTest, PopfAtCpl0SetsIfAndIopl) {
  load_kernel(SNIPPET(popf));
  cpu::CpuState state = kernel_state();
  state.gpr[x86::kRax] =
      rflags::IF | rflags::IOPL | rflags::AC | rflags::ID | rflags::RF | rflags::VM | rflags::VIP;
  // RF and VM are cleared, VIP and VIF too (SDM 2B, POPF).
  EXPECT_EQ(run(state).gpr[x86::kRax], rflags::IF | rflags::IOPL | rflags::AC | rflags::ID | rflags::kFixed1);
}

TEST_P(TransferTest, PopfInUserModeLeavesIfAndIoplAlone) {
  load_user(SNIPPET(popf));
  cpu::CpuState state = user_state();
  state.gpr[x86::kRax] = rflags::IOPL | rflags::CF;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kBP);
  EXPECT_EQ(rig().state().gpr[x86::kRax], rflags::IF | rflags::CF | rflags::kFixed1);
}

TEST_P(TransferTest, PopfWithIopl3ChangesIfOnly) {
  load_user(SNIPPET(popf));
  cpu::CpuState state = user_state();
  state.rflags |= rflags::IOPL;
  state.gpr[x86::kRax] = 0;
  run(state);
  EXPECT_EQ(rig().state().gpr[x86::kRax], rflags::IOPL | rflags::kFixed1);
}

TEST_P(TransferTest, CliNeedsIopl) {
  load_user(SNIPPET(cli));
  cpu::CpuState state = user_state();
  expect_fault(state, x86::kGP, 0);
  state.rflags |= rflags::IOPL;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kBP);
  EXPECT_EQ(caught.rflags & rflags::IF, 0U);
}

TEST_P(TransferTest, SyscallAndSysretGoRound) {
  load_user(SNIPPET(syscall));
  load_handler(SNIPPET(sysret));
  cpu::CpuState state = user_state();
  state.rflags |= rflags::CF | rflags::DF;
  state.msr.star = u64{kUserCs32} << 48 | u64{kKernelCs} << 32;
  state.msr.lstar = handler_code();
  state.msr.fmask = rflags::IF | rflags::DF;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kBP);
  EXPECT_EQ(caught.cs, kUserCs);
  EXPECT_EQ(caught.ss, kUserDs);
  EXPECT_EQ(caught.rsp, kUserStack - 64);
  EXPECT_EQ(caught.rflags & rflags::kDefined, rflags::IF | rflags::CF | rflags::DF);
  const auto& gpr = rig().state().gpr;
  EXPECT_EQ(gpr[x86::kRax], 42U);
  EXPECT_EQ(gpr[x86::kRcx], kUserCode + 2);
  EXPECT_EQ(gpr[x86::kR11], rflags::IF | rflags::CF | rflags::DF | rflags::kFixed1);
}

TEST_P(TransferTest, SyscallEntersWithMaskedFlags) {
  load_user(SNIPPET(syscall));
  cpu::CpuState state = user_state();
  state.msr.star = u64{kKernelCs} << 32;
  state.msr.lstar = GuestRig::stub(200);
  state.msr.fmask = rflags::IF;
  const cpu::CpuState& end = run(state);
  EXPECT_EQ(end.rip, GuestRig::stub(200) + 1);
  EXPECT_EQ(end.rflags & rflags::IF, 0U);
  EXPECT_EQ(end.cpl, 0);
  EXPECT_EQ(end.seg(x86::kCs).selector, kKernelCs);
  EXPECT_EQ(end.seg(x86::kSs).selector, kKernelDs);
  EXPECT_TRUE(end.seg(x86::kCs).is_long());
  EXPECT_EQ(end.gpr[x86::kRsp], kUserStack - 64);  // SYSCALL does not switch stacks
}

TEST_P(TransferTest, SyscallWithoutSceIsUndefined) {
  load_user(SNIPPET(syscall));
  cpu::CpuState state = user_state();
  state.efer &= ~x86::efer::SCE;
  expect_fault(state, x86::kUD, std::nullopt);
}

TEST_P(TransferTest, SysretIsPrivileged) {
  load_user(SNIPPET(sysret));
  const Caught caught = run_to_exception(user_state());
  EXPECT_EQ(caught.vector, x86::kGP);
  EXPECT_EQ(caught.error_code, 0U);
}

TEST_P(TransferTest, IretEntersUserModeAndInterruptsComeBack) {
  load_user(SNIPPET(nops));
  load_kernel(SNIPPET(iret));
  cpu::CpuState state = kernel_state();
  state.gpr[x86::kRdi] = kUserCode;
  state.gpr[x86::kRsi] = kUserStack - 8;
  state.gpr[x86::kR8] = kUserDs;
  state.gpr[x86::kR9] = kUserCs;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kBP);
  EXPECT_EQ(caught.rip, kUserCode + 4);
  EXPECT_EQ(caught.cs, kUserCs);
  EXPECT_EQ(caught.ss, kUserDs);
  EXPECT_EQ(caught.rsp, kUserStack - 8);
  EXPECT_EQ(rig().state().gpr[x86::kRsp], GuestRig::kernel_stack_top() - 40);
}

/// A user's state with alignment checks, and the stack so far below the end of its page.
cpu::CpuState checking(cpu::CpuState state, u64 below_end) {
  state.cr0 |= x86::cr0::AM;
  state.rflags |= rflags::AC;
  state.gpr[x86::kRsp] = (state.gpr[x86::kRsp] | kPageOffsetMask) + 1 - below_end;
  return state;
}

// The frames are zeroes: with their null selectors #GP is what comes where no alignment check is in front.
TEST_P(TransferTest, ReturnsCheckTheAlignmentBeforeTheSelectors) {
  load_user(SNIPPET(retf));
  expect_fault(checking(user_state(), 0x100 - 2), x86::kAC, 0);
  expect_fault(checking(user_state(), 0x100 - 4), x86::kGP, 0);
  load_user(SNIPPET(iretd));
  expect_fault(checking(user_state(), 0x100 - 2), x86::kAC, 0);
  expect_fault(checking(user_state(), 0x100 - 4), x86::kGP, 0);
}

TEST_P(TransferTest, ReturnsReadTheFrameFromTheTopDownAndOfSelectorsTwoBytes) {
  const auto page_fault_at = [&](const cpu::CpuState& state) {
    EXPECT_EQ(run_to_exception(state).vector, x86::kPF);
    return rig().state().cr2;
  };
  load_user(SNIPPET(retf));
  EXPECT_EQ(page_fault_at(checking(user_state(), 4)), kUserStack);
  EXPECT_EQ(page_fault_at(checking(user_state(), 2)), kUserStack + 2);  // CS is aligned, RIP is not
  load_user(SNIPPET(iretd));
  EXPECT_EQ(page_fault_at(checking(user_state(), 4)), kUserStack + 4);
}

TEST_P(TransferTest, PopOfASegmentReadsTwoBytes) {
  load_user(SNIPPET(pop_fs));
  const cpu::CpuState state = checking(user_state(), 2);
  EXPECT_EQ(run_to_exception(state).vector, x86::kBP);
  EXPECT_EQ(rig().caught()->rsp, state.gpr[x86::kRsp] + 8);
  expect_fault(checking(user_state(), 3), x86::kAC, 0);
}

TEST_P(TransferTest, AlignmentIsCheckedBeforeTheLastByteIsCanonical) {
  constexpr u64 kEnd = u64{1} << 47;
  load_user(SNIPPET(read));
  cpu::CpuState state = checking(user_state(), 8);
  state.gpr[x86::kRsi] = kEnd - 1;
  expect_fault(state, x86::kAC, 0);
  state.gpr[x86::kRsi] = kEnd + 1;
  expect_fault(state, x86::kGP, 0);
  load_user(SNIPPET(masked_store));
  state.gpr[x86::kRdi] = ~(kEnd - 1) - 4;  // its upper half begins at a canonical address
  expect_fault(state, x86::kAC, 0);
}

// EVEX with prefixes that it may not have: 15 bytes in map 6, and an immediate more in map 7.
TEST_P(TransferTest, LengthIsCheckedBeforeAnInstructionIsUndefined) {
  std::array<u8, 16> code = {0xF2, 0x64, 0x2E, 0x66, 0x62, 0xF6, 0x7C, 0x08, 0x41, 0x94, 0xEA, 1, 2, 3, 4};
  load_user(code);
  expect_fault(user_state(), x86::kUD, std::nullopt);
  code[5] = 0xF7;
  load_user(code);
  expect_fault(user_state(), x86::kGP, 0);
}

TEST_P(TransferTest, IretChecksTheSelectors) {
  load_kernel(SNIPPET(iret));
  cpu::CpuState state = kernel_state();
  state.gpr[x86::kRdi] = kUserCode;
  state.gpr[x86::kR8] = kUserDs;
  state.gpr[x86::kR9] = kUserDs;  // no code segment
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kGP);
  EXPECT_EQ(caught.error_code, kUserDs & ~3U);
  EXPECT_EQ(caught.cs, kKernelCs);
}

TEST_P(TransferTest, SoftwareInterruptGoesRound) {
  load_user(SNIPPET(int80));
  load_handler(SNIPPET(int80_handler));
  rig().set_gate(0x80, handler_code(), 3);
  cpu::CpuState state = user_state();
  state.gpr[x86::kRax] = 5;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kBP);
  EXPECT_EQ(rig().state().gpr[x86::kRax], 6U);
}

TEST_P(TransferTest, SoftwareInterruptNeedsTheGatesPrivilege) {
  load_user(SNIPPET(int80));
  rig().set_gate(0x80, GuestRig::stub(0x80), 0);
  expect_fault(user_state(), x86::kGP, 0x80 * 8 + 2);
}

TEST_P(TransferTest, DivideErrors) {
  load_user(SNIPPET(divide));
  cpu::CpuState state = user_state();
  state.gpr[x86::kRax] = 7;
  expect_fault(state, x86::kDE, std::nullopt);
  state.gpr[x86::kRcx] = 2;
  state.gpr[x86::kRdx] = 2;  // the quotient is 2^32 and a bit
  expect_fault(state, x86::kDE, std::nullopt);
  load_user(SNIPPET(signed_divide));
  state = user_state();
  state.gpr[x86::kRax] = 0x8000'0000;
  state.gpr[x86::kRcx] = 0xFFFF'FFFF;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kDE);
  EXPECT_EQ(caught.rip, kUserCode + 1);
}

TEST_P(TransferTest, InterruptStackTableSwitchesStacks) {
  load_kernel(SNIPPET(undefined));
  rig().set_gate(x86::kUD, GuestRig::stub(x86::kUD), 0, 3);
  const Gpa stack = rig().allocate_page();
  const u64 top = GuestRig::direct(stack) + kPageSize;
  constexpr unsigned kIst1 = 0x24;
  std::memcpy(rig().host(GuestRig::tss() + kIst1 + 16, 8), &top, sizeof top);
  expect_fault(kernel_state(), x86::kUD, std::nullopt);
  EXPECT_EQ(rig().state().gpr[x86::kRsp], top - 40);
}

TEST_P(TransferTest, AFaultInDeliveryBecomesADoubleFault) {
  load_user(SNIPPET(undefined));
  load_kernel(SNIPPET(write));
  // #PF with a gate that leads outside the canonical range: #GP while delivering #PF is a double fault.
  rig().set_gate(x86::kPF, 0x8000'0000'0000);
  cpu::CpuState state = kernel_state();
  state.gpr[x86::kRsi] = kPage;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kDF);
  EXPECT_EQ(caught.error_code, 0U);
  EXPECT_EQ(caught.cr2, kPage);
  EXPECT_EQ(caught.rip, kernel_code());
}

INSTANTIATE_TEST_SUITE_P(Engines, TransferTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

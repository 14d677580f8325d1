// Where the vendors' processors differ in fast system calls (SDM 2B and APM 3: SYSCALL, SYSRET, SYSENTER).
#include "insn/system/system_test.hpp"

namespace vert::test {
namespace {

namespace rflags = x86::rflags;
using x86::Segment;

/// Of the vendor's rules, whatever this host is.
x86::CpuModel host_model(x86::Vendor vendor) {
  x86::CpuIdentity identity = x86::CpuIdentity::intel("vert host");
  identity.vendor = vendor;
  return x86::CpuModel::make("host", identity).value();
}

class VendorTest : public SystemTest {
 protected:
  [[nodiscard]] static cpu::CpuState with_star(cpu::CpuState state) {
    state.msr.star = u64{kUserCs32} << 48 | u64{kKernelCs} << 32;
    state.msr.lstar = GuestRig::stub(200);
    state.msr.cstar = GuestRig::stub(201);
    state.msr.fmask = rflags::IF;
    return state;
  }
  /// In compatibility mode.
  [[nodiscard]] cpu::CpuState user32_state() {
    cpu::CpuState state = with_star(user_state());
    state.seg(x86::kCs) = x86::Descriptor{0x00CF'FB00'0000'FFFF}.to_segment(kUserCs32);
    return state;
  }
  void expect_stub(const cpu::CpuState& state, u8 vector) {
    EXPECT_EQ(state.rip, GuestRig::stub(vector) + 1);
  }
};

class IntelTransferTest : public VendorTest {
 protected:
  void SetUp() override { set_up(host_model(x86::Vendor::kIntel)); }
};

class AmdTransferTest : public VendorTest {
 protected:
  void SetUp() override { set_up(host_model(x86::Vendor::kAmd)); }
};

TEST_P(IntelTransferTest, SysretToANonCanonicalAddressFaultsInTheKernel) {
  load_kernel(SNIPPET(sysret));
  cpu::CpuState state = kernel_state();
  state.msr.star = u64{kUserCs32} << 48 | u64{kKernelCs} << 32;
  state.gpr[x86::kRcx] = 0x8000'0000'0000;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kGP);
  EXPECT_EQ(caught.error_code, 0U);
  EXPECT_EQ(caught.cs, kKernelCs);
}

TEST_P(IntelTransferTest, SysenterAndSysexitGoRound) {
  load_user(SNIPPET(sysenter));
  load_handler(SNIPPET(sysexit));
  cpu::CpuState state = user_state();
  state.msr.sysenter_cs = kKernelCs;
  state.msr.sysenter_esp = GuestRig::kernel_stack_top();
  state.msr.sysenter_eip = handler_code();
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kBP);
  EXPECT_EQ(caught.cs, (kKernelCs + 32U) | 3U);
  EXPECT_EQ(caught.ss, (kKernelCs + 40U) | 3U);
  EXPECT_EQ(caught.rsp, kUserStack - 64);
  EXPECT_EQ(caught.rflags & rflags::IF, 0U);  // SYSENTER clears it, SYSEXIT does not set it
  EXPECT_EQ(rig().state().gpr[x86::kRax], 43U);
}

TEST_P(IntelTransferTest, SysenterWithoutACodeSegmentFaults) {
  load_user(SNIPPET(sysenter));
  const Caught caught = run_to_exception(user_state());
  EXPECT_EQ(caught.vector, x86::kGP);
  EXPECT_EQ(caught.error_code, 0U);
}

TEST_P(IntelTransferTest, SyscallIsUndefinedInCompatibilityMode) {
  load_user(SNIPPET(syscall32));
  expect_fault(user32_state(), x86::kUD, std::nullopt);
}

TEST_P(IntelTransferTest, SysretLoadsAFlatStackSegment) {
  load_kernel(SNIPPET(sysret));
  load_user(SNIPPET(nops));
  cpu::CpuState state = with_star(kernel_state());
  state.gpr[x86::kRcx] = kUserCode;
  state.seg(x86::kSs) = {0, 0, 0, 0, true};
  rig().set_state(state);
  EXPECT_EQ(rig().run(2).instructions, 2U);
  EXPECT_EQ(rig().state().rip, kUserCode);
  EXPECT_EQ(rig().state().seg(x86::kSs).selector, kUserDs);
  EXPECT_FALSE(rig().state().seg(x86::kSs).unusable);
}

TEST_P(AmdTransferTest, SysretLoadsOnlyTheSelectorOfTheStackSegment) {
  load_kernel(SNIPPET(sysret));
  load_user(SNIPPET(nops));
  cpu::CpuState state = with_star(kernel_state());
  state.gpr[x86::kRcx] = kUserCode;
  state.seg(x86::kSs) = {0, 0, 0, 0, true};
  rig().set_state(state);
  EXPECT_EQ(rig().run(2).instructions, 2U);
  EXPECT_EQ(rig().state().rip, kUserCode);
  EXPECT_EQ(rig().state().cpl, 3);
  EXPECT_EQ(rig().state().seg(x86::kSs).selector, kUserDs);
  EXPECT_TRUE(rig().state().seg(x86::kSs).unusable);
}

TEST_P(AmdTransferTest, SysretToANonCanonicalAddressFaultsInUserMode) {
  load_kernel(SNIPPET(sysret));
  cpu::CpuState state = with_star(kernel_state());
  state.gpr[x86::kRcx] = 0x8000'0000'0000;
  state.gpr[x86::kR11] = rflags::IF | rflags::kFixed1;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kGP);
  EXPECT_EQ(caught.error_code, 0U);
  EXPECT_EQ(caught.rip, 0x8000'0000'0000U);
  EXPECT_EQ(caught.cs, kUserCs);
  EXPECT_EQ(caught.rsp, state.gpr[x86::kRsp]);
}

TEST_P(AmdTransferTest, SyscallEntersByCstarFromCompatibilityMode) {
  load_user(SNIPPET(syscall32));
  const cpu::CpuState& end = run(user32_state());
  expect_stub(end, 201);
  EXPECT_EQ(end.cpl, 0);
  EXPECT_TRUE(end.code64());
  EXPECT_EQ(end.rflags & rflags::IF, 0U);
  EXPECT_EQ(end.gpr[x86::kRcx], kUserCode + 2);
  EXPECT_EQ(end.gpr[x86::kR11], rflags::IF | rflags::kFixed1);
}

TEST_P(AmdTransferTest, SyscallFromCompatibilityModeGoesRound) {
  load_user(SNIPPET(syscall32));
  load_handler(SNIPPET(sysretl));
  cpu::CpuState state = user32_state();
  state.msr.cstar = handler_code();
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kBP);
  EXPECT_EQ(caught.rip, kUserCode + 3);
  EXPECT_EQ(caught.cs, kUserCs32);
  EXPECT_EQ(caught.ss, kUserDs);
  EXPECT_EQ(caught.rflags & rflags::IF, rflags::IF);
  EXPECT_EQ(rig().state().gpr[x86::kRax], 42U);
}

TEST_P(AmdTransferTest, SysretOf32BitKernelsSetsTheInterruptFlag) {
  load_user(SNIPPET(sysret32));
  // Compatibility mode at CPL 0, below 4 GiB.
  cpu::CpuState state = with_star(kernel_state());
  state.rip = kUserCode;
  state.seg(x86::kCs) = x86::Descriptor{0x00CF'9B00'0000'FFFF}.to_segment(kKernelCs);
  state.cr4 &= ~(x86::cr4::SMEP | x86::cr4::SMAP);
  state.gpr[x86::kRcx] = kUserCode + 0x100;
  state.gpr[x86::kR11] = rflags::CF;
  rig().set_state(state);
  EXPECT_EQ(rig().run(2).instructions, 2U);
  EXPECT_EQ(rig().state().rip, kUserCode + 0x100);
  EXPECT_EQ(rig().state().cpl, 3);
  EXPECT_FALSE(rig().state().code64());
  EXPECT_EQ(rig().state().rflags, rflags::IF | rflags::kFixed1);
}

/// A RETF at CPL 3 to a kernel's selector; the stack ends behind RIP and CS.
cpu::CpuState inward_return(GuestRig& rig, u64 page, cpu::CpuState state) {
  constexpr std::array<u32, 2> kFrame = {0x1234, kKernelCs};
  u8* host = rig.map(page, 1, {true, true, false});
  std::memcpy(host + kPageSize - sizeof kFrame, kFrame.data(), sizeof kFrame);
  state.gpr[x86::kRsp] = page + kPageSize - sizeof kFrame;
  return state;
}

TEST_P(IntelTransferTest, FarReturnsCheckTheCodeSegmentFirst) {
  load_user(SNIPPET(retf));
  expect_fault(inward_return(rig(), kPage, user_state()), x86::kGP, kKernelCs);
}

TEST_P(AmdTransferTest, FarReturnsReadTheOtherLevelsStackFirst) {
  load_user(SNIPPET(retf));
  EXPECT_EQ(run_to_exception(inward_return(rig(), kPage, user_state())).vector, x86::kPF);
  EXPECT_EQ(rig().state().cr2, kPage + kPageSize + 4);  // SS
}

constexpr std::array<u8, 4> kRepMovs = {0x67, 0xF3, 0xA4, 0xCC};  // rep movsb with 32-bit addresses, int3

TEST_P(AmdTransferTest, StringInstructionsWithoutACountLeaveTheirRegistersAlone) {
  load_user(kRepMovs);
  cpu::CpuState state = user_state();
  state.gpr[x86::kRcx] = state.gpr[x86::kRsi] = state.gpr[x86::kRdi] = 0xFFFF'FFFF'0000'0000;
  EXPECT_EQ(run_to_exception(state).vector, x86::kBP);
  for (const auto reg : {x86::kRcx, x86::kRsi, x86::kRdi}) EXPECT_EQ(rig().state().gpr[reg], state.gpr[reg]);
}

TEST_P(IntelTransferTest, StringInstructionsWithoutACountCutTheirRegisters) {
  load_user(kRepMovs);
  cpu::CpuState state = user_state();
  state.gpr[x86::kRcx] = state.gpr[x86::kRsi] = state.gpr[x86::kRdi] = 0xFFFF'FFFF'0000'0000;
  EXPECT_EQ(run_to_exception(state).vector, x86::kBP);
  for (const auto reg : {x86::kRcx, x86::kRsi, x86::kRdi}) EXPECT_EQ(rig().state().gpr[reg], 0U);
}

TEST_P(AmdTransferTest, NarrowCallsPushTwoBytesAndGoTo16BitAddresses) {
  constexpr std::array<u8, 4> kCall = {0x66, 0xE8, 0x10, 0x00};  // call rel16
  load_user(kCall);
  const cpu::CpuState state = user_state();
  const Caught caught = run_to_exception(state);  // nothing is mapped there
  EXPECT_EQ(caught.vector, x86::kPF);
  EXPECT_EQ(caught.rip, (kUserCode + kCall.size() + 0x10) & 0xFFFF);
  EXPECT_EQ(caught.rsp, state.gpr[x86::kRsp] - 2);
}

TEST_P(AmdTransferTest, SysenterAndSysexitAreUndefinedInLongMode) {
  load_user(SNIPPET(sysenter));
  cpu::CpuState state = user_state();
  state.msr.sysenter_cs = kKernelCs;
  const Caught caught = run_to_exception(state);
  EXPECT_EQ(caught.vector, x86::kUD);
  load_kernel(SNIPPET(sysexit));
  state = kernel_state();
  state.msr.sysenter_cs = kKernelCs;
  EXPECT_EQ(run_to_exception(state).vector, x86::kUD);
  load_user(SNIPPET(sysexit));  // that it is privileged comes first, as on the processor
  EXPECT_EQ(run_to_exception(user_state()).vector, x86::kGP);
}

constexpr std::array<u8, 3> kRdmsr = {0x0F, 0x32, 0xF4};  // rdmsr, hlt
constexpr std::array<u8, 3> kWrmsr = {0x0F, 0x30, 0xF4};

TEST_P(AmdTransferTest, TheMsrsThatKernelsTouchUnaskedCanBeReadAndWritten) {
  for (const u32 msr : {0xC001'0010U, 0xC001'0015U, 0xC001'001FU, 0xC001'0020U, 0xC001'1029U}) {
    SCOPED_TRACE(msr);
    cpu::CpuState state = kernel_state();
    state.gpr[x86::kRcx] = msr;
    for (const auto& code : {kRdmsr, kWrmsr}) {
      load_kernel(code);
      EXPECT_EQ(run(state).rip, kernel_code() + 3);
    }
  }
  cpu::CpuState state = kernel_state();
  state.gpr[x86::kRcx] = 0xC001'0015;  // HWCR
  load_kernel(kRdmsr);
  EXPECT_EQ(run(state).gpr[x86::kRax], 1U << 24);  // the TSC counts at the frequency of P0
}

TEST_P(AmdTransferTest, IntelsMsrsDoNotExist) {
  load_kernel(kRdmsr);
  for (const u32 msr : {0x17U, 0x3AU, 0x48U, 0x10AU, 0x1A0U}) {
    cpu::CpuState state = kernel_state();
    state.gpr[x86::kRcx] = msr;
    expect_fault(state, x86::kGP, 0);
  }
}

TEST_P(AmdTransferTest, AutomaticIbrsCanBeSwitchedOn) {
  load_kernel(kWrmsr);
  cpu::CpuState state = kernel_state();
  state.gpr[x86::kRcx] = 0xC000'0080;
  state.gpr[x86::kRax] = state.efer | x86::efer::AIBRSE;
  EXPECT_EQ(run(state).efer, state.efer | x86::efer::AIBRSE);
}

TEST_P(AmdTransferTest, IndirectBranchBarriersCanBeAskedFor) {
  load_kernel(kWrmsr);
  cpu::CpuState state = kernel_state();
  state.gpr[x86::kRcx] = 0x49;
  state.gpr[x86::kRax] = 1;
  EXPECT_EQ(run(state).rip, kernel_code() + 3);
}

TEST_P(IntelTransferTest, AmdsMsrsDoNotExist) {
  load_kernel(kRdmsr);
  for (const u32 msr : {0xC001'0010U, 0xC001'0015U, 0xC001'001FU, 0xC001'1029U}) {
    cpu::CpuState state = kernel_state();
    state.gpr[x86::kRcx] = msr;
    expect_fault(state, x86::kGP, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, IntelTransferTest, testing::ValuesIn(engine_names()));
INSTANTIATE_TEST_SUITE_P(Engines, AmdTransferTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

// Far JMP, CALL and RET, and IRET (SDM 2A and 2B).
#include <array>

#include "unit/cpu_protection/guest.hpp"

namespace vert::cpu::test {
namespace {

using x86::Fault;
using x86::Segment;
namespace rflags = x86::rflags;

constexpr u64 kNext = 0x20007;

class FarTransfer : public Guest {
 protected:
  MaybeFault jump(u16 selector, u64 offset, unsigned size = 4) {
    return far_jump(state, mmu(), selector, offset, size, kNext);
  }
  MaybeFault call(u16 selector, u64 offset, unsigned size = 4) {
    return far_call(state, mmu(), selector, offset, size, kNext);
  }
  MaybeFault ret(unsigned size = 4, u16 bytes = 0) { return far_return(state, mmu(), size, bytes); }
  MaybeFault iret(unsigned size = 4) { return interrupt_return(state, mmu(), size, kNext); }
};

using Iret = FarTransfer;

TEST_F(FarTransfer, RealMode) {
  real_mode();
  EXPECT_OK(far_call(state, mmu(), 0x2000, 0x5678, 2, 0x1239));
  EXPECT_EQ(seg(x86::kCs).base, 0x20000U);
  EXPECT_EQ(state.rip, 0x5678U);
  EXPECT_EQ(rsp(), 0xABCD0FFCU);  // only SP moves
  EXPECT_EQ(stacked(0, 2), 0x1239U);
  EXPECT_EQ(stacked(1, 2), 0x100U);
  EXPECT_OK(ret(2, 4));
  EXPECT_EQ(seg(x86::kCs).selector, 0x100);
  EXPECT_EQ(state.rip, 0x1239U);
  EXPECT_EQ(rsp(), 0xABCD1004U);
  expect_fault(Fault::gp(), [&] { return jump(0x2000, 0x10000, 4); });
  state.gpr[x86::kRsp] = 1;
  expect_fault(Fault::ss(), [&] { return call(0x2000, 0, 2); });
  state.gpr[x86::kRsp] = 2;  // wraps
  EXPECT_OK(call(0x2000, 0, 2));
  EXPECT_EQ(rsp(), 0xFFFEU);
}

TEST_F(FarTransfer, JumpToCode) {
  protected_mode(0);
  EXPECT_OK(jump(kCode16, 0x12345678, 2));
  EXPECT_EQ(state.rip, 0x5678U);
  EXPECT_EQ(seg(x86::kCs), (Segment{kCode16, kCodeType | 1, 0xFFFF, 0, false}));
  EXPECT_EQ(type_byte(kCode16) & 1, 1);
}

TEST_F(FarTransfer, JumpFaults) {
  protected_mode(0);
  expect_fault(Fault::gp(0), [&] { return jump(3, 0); });
  expect_fault(Fault::gp(kBeyond), [&] { return jump(kBeyond, 0); });
  expect_fault(Fault::gp(kData0), [&] { return jump(kData0, 0); });
  expect_fault(Fault::gp(kCode3 & ~3), [&] { return jump(kCode3, 0); });
  expect_fault(Fault::gp(kCode0), [&] { return jump(kCode0 | 1, 0); });
  expect_fault(Fault::np(kAbsentCode), [&] { return jump(kAbsentCode, 0); });
  expect_fault(Fault::gp(0), [&] { return jump(kSmallCode, 0x1000); });
  expect_fault(Fault::gp(kLdtSelector), [&] { return jump(kLdtSelector, 0); });
}

TEST_F(FarTransfer, ConformingCodeKeepsLevel) {
  protected_mode(3);
  EXPECT_OK(jump(kConforming, 0x100));
  EXPECT_EQ(seg(x86::kCs).selector, kConforming | 3);
  EXPECT_EQ(state.cpl, 3);
}

TEST_F(FarTransfer, CallSameLevelAndBack) {
  protected_mode(0);
  EXPECT_OK(call(kCode16, 0x100));
  EXPECT_EQ(stacked(0, 4), kNext);
  EXPECT_EQ(stacked(1, 4), kCode0);
  EXPECT_EQ(rsp(), kKernelStack - 8);
  EXPECT_OK(ret(4, 8));
  EXPECT_EQ(state.rip, kNext);
  EXPECT_EQ(seg(x86::kCs).selector, kCode0);
  EXPECT_EQ(rsp(), kKernelStack + 8);
}

TEST_F(FarTransfer, CallChecksStackBeforeTarget) {
  protected_mode(0);
  seg(x86::kSs).limit = 0xFFF;
  expect_fault(Fault::ss(0), [&] { return call(kSmallCode, 0x1000); });
  seg(x86::kSs).limit = 0xFFFFF;
  expect_fault(Fault::gp(0), [&] { return call(kSmallCode, 0x1000); });
}

TEST_F(FarTransfer, CallGateToInnerLevelCopiesParameters) {
  protected_mode(3);
  set_gdt(kGate, gate(x86::kCallGate, 3, kCode0 | 3, kHandler, 2));
  push({0x1111, 0x2222}, 4);
  EXPECT_OK(call(kGate | 3, 0xDEAD));
  EXPECT_EQ(state.rip, kHandler);
  EXPECT_EQ(state.cpl, 0);
  EXPECT_EQ(seg(x86::kCs).selector, kCode0);
  EXPECT_EQ(seg(x86::kSs).selector, kData0);
  EXPECT_EQ(rsp(), kInnerStack - 24);
  const std::array<u64, 6> expected = {kNext, kCode3, 0x2222, 0x1111, kUserStack - 8, kData3};
  for (unsigned i = 0; i < expected.size(); ++i) EXPECT_EQ(stacked(i, 4), expected[i]) << i;
  seg(x86::kDs) = seg(x86::kSs);  // a level 0 segment that RET must drop
  EXPECT_OK(ret(4, 8));
  EXPECT_EQ(state.cpl, 3);
  EXPECT_EQ(rsp(), kUserStack);
  EXPECT_EQ(seg(x86::kSs).selector, kData3);
  EXPECT_TRUE(seg(x86::kDs).unusable);
  EXPECT_EQ(seg(x86::kDs).selector, 0);
  EXPECT_EQ(seg(x86::kEs).selector, kData3);
}

TEST_F(FarTransfer, CallGate16) {
  protected_mode(3);
  set_gdt(kGate, gate(x86::kCallGate16, 3, kCode0, 0x5678'4321, 1));
  push({0x7777}, 2);
  EXPECT_OK(call(kGate, 0));
  EXPECT_EQ(state.rip, 0x4321U);
  EXPECT_EQ(rsp(), kInnerStack - 10);
  EXPECT_EQ(stacked(0, 2), kNext & 0xFFFF);
  EXPECT_EQ(stacked(2, 2), 0x7777U);
  EXPECT_EQ(stacked(3, 2), kUserStack - 2);
}

TEST_F(FarTransfer, CallGateFaults) {
  protected_mode(3);
  set_gdt(kGate, gate(x86::kCallGate, 2, kCode0, kHandler));
  expect_fault(Fault::gp(kGate), [&] { return call(kGate, 0); });
  set_gdt(kGate, gate(x86::kCallGate, 3, kCode0, kHandler) & ~(u64{1} << 47));
  expect_fault(Fault::np(kGate), [&] { return call(kGate, 0); });
  set_gdt(kGate, gate(x86::kCallGate, 3, 0, kHandler));
  expect_fault(Fault::gp(0), [&] { return call(kGate, 0); });
  set_gdt(kGate, gate(x86::kCallGate, 3, kData0, kHandler));
  expect_fault(Fault::gp(kData0), [&] { return call(kGate, 0); });
  set_gdt(kGate, gate(x86::kCallGate, 3, kAbsentCode, kHandler));
  expect_fault(Fault::np(kAbsentCode), [&] { return call(kGate, 0); });
  set_gdt(kGate, gate(x86::kCallGate, 3, kSmallCode, kHandler));
  expect_fault(Fault::gp(0), [&] { return call(kGate, 0); });
  set_gdt(kGate, gate(x86::kCallGate, 3, kCode0, kHandler));
  expect_fault(Fault::gp(kCode0), [&] { return jump(kGate, 0); });  // JMP does not change level
}

TEST_F(FarTransfer, InnerStackFaults) {
  protected_mode(3);
  set_gdt(kGate, gate(x86::kCallGate, 3, kCode0, kHandler));
  put(kTssA + 8, 0, 2);
  expect_fault(Fault::ts(0), [&] { return call(kGate, 0); });
  put(kTssA + 8, kData3, 2);
  expect_fault(Fault::ts(kData3 & ~3), [&] { return call(kGate, 0); });
  put(kTssA + 8, kReadOnly, 2);
  expect_fault(Fault::ts(kReadOnly), [&] { return call(kGate, 0); });
  put(kTssA + 8, kAbsentData, 2);
  expect_fault(Fault::ss(kAbsentData), [&] { return call(kGate, 0); });
  put(kTssA + 8, kSmallData, 2);
  expect_fault(Fault::ss(kSmallData), [&] { return call(kGate, 0); });
  state.tr.limit = 7;
  expect_fault(Fault::ts(kTaskA), [&] { return call(kGate, 0); });
}

TEST_F(FarTransfer, LongModeJumps) {
  long_mode(0);
  expect_fault(Fault::gp(kLongAndBig), [&] { return jump(kLongAndBig, 0); });
  expect_fault(Fault::gp(kTaskB), [&] { return jump(kTaskB, 0); });
  expect_fault(Fault::gp(0), [&] { return jump(kCode64, kNotCanonical, 8); });
  EXPECT_OK(jump(kCode0, 0x1000));
  EXPECT_FALSE(state.code64());
  EXPECT_OK(jump(kCode64, 0x2000));
  EXPECT_TRUE(state.code64());
}

TEST_F(FarTransfer, LongModeCallGate) {
  long_mode(3);
  set_gdt(kGate, gate(x86::kCallGate, 3, kCode64, kHandler));
  put(kGdt + kGate + 8, 0xFFFF8000, 8);
  EXPECT_OK(call(kGate, 0));
  EXPECT_EQ(state.rip, 0xFFFF8000'00030000U);
  EXPECT_EQ(seg(x86::kSs).selector, 0);
  EXPECT_TRUE(seg(x86::kSs).unusable);
  EXPECT_EQ(rsp(), kInnerStack - 32);
  EXPECT_EQ(stacked(0, 8), kNext);
  EXPECT_EQ(stacked(1, 8), kUser64);
  EXPECT_EQ(stacked(2, 8), kUserStack);
  EXPECT_EQ(stacked(3, 8), kData3);
  EXPECT_OK(ret(8));
  EXPECT_EQ(state.rip, kNext);
  EXPECT_EQ(rsp(), kUserStack);
}

TEST_F(FarTransfer, LongModeCallGateFromCompatibilityMode) {
  compat_mode(0);
  set_gdt(kGate, gate(x86::kCallGate, 0, kCode64, kHandler));
  put(kGdt + kGate + 8, 0, 8);
  EXPECT_OK(call(kGate, 0));
  EXPECT_EQ(rsp(), kKernelStack - 16);
  EXPECT_EQ(stacked(1, 8), kCode0);
  compat_mode(0);
  put(kGdt + kGate + 8, u64{0x1F} << 40, 8);
  expect_fault(Fault::gp(kGate), [&] { return call(kGate, 0); });
  set_gdt(kGate, gate(x86::kCallGate, 0, kCode0, kHandler));  // not 64-bit code
  put(kGdt + kGate + 8, 0, 8);
  expect_fault(Fault::gp(kCode0), [&] { return call(kGate, 0); });
  set_gdt(kGate, gate(x86::kCallGate16, 0, kCode64, kHandler));
  expect_fault(Fault::gp(kGate), [&] { return call(kGate, 0); });
}

TEST_F(FarTransfer, ReturnFaults) {
  const auto with = [&](std::initializer_list<u64> values, const Fault& fault) {
    protected_mode(0);
    push(values, 4);
    expect_fault(fault, [&] { return ret(); });
  };
  with({0, 0}, Fault::gp(0));
  with({kBeyond, 0}, Fault::gp(kBeyond));
  with({kData0, 0}, Fault::gp(kData0));
  with({kCode3 & ~3, 0}, Fault::gp(kCode3 & ~3));
  with({kAbsentCode, 0}, Fault::np(kAbsentCode));
  with({kSmallCode, 0x1000}, Fault::gp(0));
  with({0, kUserStack, kCode3, 0}, Fault::gp(0));
  with({kData0, kUserStack, kCode3, 0}, Fault::gp(kData0));
  with({kData0 | 3, kUserStack, kCode3, 0}, Fault::gp(kData0));
  set_gdt(kAbsentData, descriptor(0, 0xFFFFF, (kDataType | level(3)) & ~Segment::kP));
  with({kAbsentData | 3, kUserStack, kCode3, 0}, Fault::ss(kAbsentData));
  protected_mode(3);
  push({kCode0, 0}, 4);
  expect_fault(Fault::gp(kCode0), [&] { return ret(); });  // to an inner level
  seg(x86::kSs).limit = kUserStack - 5;
  expect_fault(Fault::ss(0), [&] { return ret(); });
}

TEST_F(Iret, RealMode) {
  real_mode();
  state.nmi_blocked = true;
  state.gpr[x86::kRsp] = 0x1000;
  push({0xFFFF, 0x2000, 0x42}, 2);
  EXPECT_OK(iret(2));
  EXPECT_EQ(state.rip, 0x42U);
  EXPECT_EQ(seg(x86::kCs).base, 0x20000U);
  EXPECT_EQ(state.rflags, 0x7FD7U);
  EXPECT_FALSE(state.nmi_blocked);
  push({0xFFFFFFFF, 0x2000, 0x42}, 4);
  EXPECT_OK(iret(4));
  EXPECT_EQ(state.rflags, 0x257FD7U);  // no VM, VIF, VIP
}

TEST_F(Iret, UnblocksNmiEvenIfItFaults) {
  v86_mode(0);
  state.nmi_blocked = true;
  EXPECT_EQ(iret(4), MaybeFault(Fault::gp(0)));
  EXPECT_FALSE(state.nmi_blocked);
}

TEST_F(Iret, V86) {
  v86_mode(3);
  push({0xFFFFFFFF, 0x3000, 0x42}, 4);
  EXPECT_OK(iret(4));
  EXPECT_EQ(seg(x86::kCs), (Segment{0x3000, 0xF3, 0xFFFF, 0x30000, false}));
  EXPECT_EQ(state.rflags, 0x277FD7U);  // VM and IOPL stay, VIF and VIP too
  v86_mode(0);
  state.cr4 |= x86::cr4::VME;
  push({rflags::IF | rflags::CF, 0x3000, 0x42}, 2);
  EXPECT_OK(iret(2));
  EXPECT_EQ(state.rflags & (rflags::IF | rflags::VIF | rflags::CF), rflags::VIF | rflags::CF);
  state.rflags |= rflags::VIP;
  push({rflags::IF, 0x3000, 0x42}, 2);
  expect_fault(Fault::gp(0), [&] { return iret(2); });
  push({rflags::TF, 0x3000, 0x42}, 2);
  expect_fault(Fault::gp(0), [&] { return iret(2); });
  expect_fault(Fault::gp(0), [&] { return iret(4); });
}

TEST_F(Iret, ToV86) {
  protected_mode(0);
  const u64 flags = rflags::VM | rflags::IF | rflags::IOPL;
  push({0x6000, 0x5000, 0x4000, 0x3000, 0x2000, 0x8765, flags, 0x1000, 0x42}, 4);
  EXPECT_OK(iret());
  EXPECT_TRUE(state.v86());
  EXPECT_EQ(state.cpl, 3);
  EXPECT_EQ(state.rip, 0x42U);
  EXPECT_EQ(rsp(), 0x8765U);
  EXPECT_EQ(state.rflags, flags | rflags::kFixed1);
  EXPECT_EQ(seg(x86::kCs), (Segment{0x1000, 0xF3, 0xFFFF, 0x10000, false}));
  EXPECT_EQ(seg(x86::kSs).selector, 0x2000);
  EXPECT_EQ(seg(x86::kEs).selector, 0x3000);
  EXPECT_EQ(seg(x86::kDs).selector, 0x4000);
  EXPECT_EQ(seg(x86::kFs).selector, 0x5000);
  EXPECT_EQ(seg(x86::kGs), (Segment{0x6000, 0xF3, 0xFFFF, 0x60000, false}));
  EXPECT_EQ(mmu().privilege(), Privilege::kUser);

  protected_mode(0);
  push({0, 0, 0, 0, 0, 0, flags, 0x1000, 0x10000}, 4);
  expect_fault(Fault::gp(0), [&] { return iret(); });
}

TEST_F(Iret, OuterLevelOnlyMayNotRaiseIopl) {
  protected_mode(3);
  push({0xFFFFFFFF, kCode3, 0x42}, 4);
  EXPECT_OK(iret());
  // Neither IF, IOPL, VIF, VIP nor VM.
  EXPECT_EQ(state.rflags, 0x254DD7U);
}

TEST_F(Iret, SameAndOuterLevel) {
  protected_mode(0);
  push({rflags::IF | rflags::IOPL, kCode0, 0x42}, 4);
  EXPECT_OK(iret());
  EXPECT_EQ(state.rflags, rflags::IF | rflags::IOPL | rflags::kFixed1);
  EXPECT_EQ(rsp(), kKernelStack);
  push({kData3, kUserStack, rflags::IF, kCode3, 0x43}, 4);
  EXPECT_OK(iret());
  EXPECT_EQ(state.cpl, 3);
  EXPECT_EQ(rsp(), kUserStack);
  EXPECT_TRUE(seg(x86::kDs).unusable);
}

TEST_F(Iret, To16BitStackKeepsHighPart) {
  protected_mode(0);
  set_gdt(kData3, descriptor(0, 0xFFFF, kDataType | level(3)));
  state.gpr[x86::kRsp] = 0x2A'8000;
  push({kData3, 0x1234'5678, 0, kCode3, 0x43}, 4);
  EXPECT_OK(iret());
  EXPECT_EQ(rsp(), 0x2A'5678U);  // the well-known leak
}

TEST_F(Iret, LongModeAlwaysPopsStack) {
  long_mode(0);
  push({0, 0x12345, rflags::IF, kCode64, 0x42}, 8);
  EXPECT_OK(iret(8));
  EXPECT_EQ(rsp(), 0x12345U);
  EXPECT_TRUE(seg(x86::kSs).unusable);
  EXPECT_EQ(state.rip, 0x42U);
  long_mode(0);
  seg(x86::kGs) = {0, 0, 0, 0x1234'0000'0000, true};
  seg(x86::kFs).base = 0x77;
  push({kData3, kUserStack, rflags::IF, kUser64, 0x42}, 8);
  EXPECT_OK(iret(8));
  EXPECT_EQ(state.cpl, 3);
  EXPECT_EQ(seg(x86::kGs).base, 0x1234'0000'0000U);
  EXPECT_TRUE(seg(x86::kFs).unusable);
  EXPECT_EQ(seg(x86::kFs).base, 0x77U);
}

TEST_F(Iret, LongModeFaults) {
  const auto with = [&](std::initializer_list<u64> values, const Fault& fault) {
    long_mode(0);
    push(values, 8);
    expect_fault(fault, [&] { return iret(8); });
  };
  with({kData3, kUserStack, 0, kUser64, kNotCanonical}, Fault::gp(0));
  with({0, kUserStack, 0, kUser64, 0}, Fault::gp(0));  // null SS in level 3
  with({0, kUserStack, 0, kCode0, 0}, Fault::gp(0));   // null SS for compatibility mode
  with({kData0, kUserStack, 0, kLongAndBig, 0}, Fault::gp(kLongAndBig));
  long_mode(0);
  state.rflags |= rflags::NT;
  expect_fault(Fault::gp(0), [&] { return iret(8); });
  state.rflags &= ~rflags::NT;
  state.gpr[x86::kRsp] = kNotCanonical;
  expect_fault(Fault::ss(0), [&] { return iret(8); });
}

TEST_F(Iret, CompatibilityModeSameLevelKeepsStack) {
  compat_mode(0);
  push({rflags::IF | rflags::VM, kCode0, 0x42}, 4);
  EXPECT_OK(iret());
  EXPECT_EQ(rsp(), kKernelStack);
  EXPECT_FALSE(state.v86());
}

TEST_F(Iret, StackFaultsPage) {
  long_mode(0);
  state.gpr[x86::kRsp] = kUnmapped;
  expect_fault(Fault::page(0, kUnmapped + 16), [&] { return iret(8); });  // RFLAGS is read first
}

}  // namespace
}  // namespace vert::cpu::test

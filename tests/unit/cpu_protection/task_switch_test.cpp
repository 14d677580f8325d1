// Hardware task switches (SDM 3A, chapter 7).
#include "unit/cpu_protection/guest.hpp"

namespace vert::cpu::test {
namespace {

using x86::Fault;
using x86::Segment;
namespace rflags = x86::rflags;

constexpr u64 kNext = 0x20007;
constexpr u32 kTaskStack = 0x9000;

class Tasks : public Guest {
 protected:
  /// Task A runs in level 0; task B is a flat level 0 task at kHandler.
  void two_tasks() {
    protected_mode(0);
    for (unsigned offset = 0; offset < 0x68; offset += 4) put(kTssB + offset, 0, 4);
    put(kTssB + 0x20, kHandler, 4);
    put(kTssB + 0x24, rflags::CF, 4);
    for (unsigned i = 0; i < 8; ++i) put(kTssB + 0x28 + i * 4, 0x100 + i, 4);
    put(kTssB + 0x38, kTaskStack, 4);
    for (unsigned i = 0; i < 6; ++i) put(kTssB + 0x48 + i * 4, kData0, 2);
    put(kTssB + 0x4C, kCode0, 2);
    set_gdt(kTaskB, descriptor(kTssB, 0x67, Segment::kP | x86::kTssAvailable));
  }
  MaybeFault jump() { return far_jump(state, mmu(), kTaskB, 0, 4, kNext); }
  MaybeFault call(u16 selector = kTaskB) { return far_call(state, mmu(), selector, 0, 4, kNext); }
};

TEST_F(Tasks, JumpSwitches) {
  two_tasks();
  state.gpr[x86::kRbx] = 0xBBBB;
  state.rflags |= rflags::ZF;
  state.dr7 |= 0x3FF;
  EXPECT_OK(jump());
  EXPECT_EQ(state.rip, kHandler);
  EXPECT_EQ(state.rflags, rflags::CF | rflags::kFixed1);
  EXPECT_EQ(state.gpr[x86::kRax], 0x100U);
  EXPECT_EQ(state.gpr[x86::kRdi], 0x107U);
  EXPECT_EQ(rsp(), kTaskStack);
  EXPECT_EQ(state.tr, (Segment{kTaskB, 0x8B, 0x67, kTssB, false}));
  EXPECT_EQ(type_byte(kTaskA), 0x89);
  EXPECT_EQ(type_byte(kTaskB), 0x8B);
  EXPECT_NE(state.cr0 & x86::cr0::TS, 0U);
  EXPECT_EQ(state.dr7, x86::dr7::kFixed1 | 0x2AA);
  EXPECT_EQ(get(kTssA + 0x20, 4), kNext);
  EXPECT_EQ(get(kTssA + 0x24, 4), rflags::ZF | rflags::kFixed1);
  EXPECT_EQ(get(kTssA + 0x34, 4), 0xBBBBU);
  EXPECT_EQ(get(kTssA + 0x4C, 2), kCode0);
  EXPECT_EQ(get(kTssB, 2), 0U);  // JMP does not link
}

TEST_F(Tasks, CallNestsAndIretReturns) {
  two_tasks();
  EXPECT_OK(call());
  EXPECT_EQ(get(kTssB, 2), kTaskA);
  EXPECT_NE(state.rflags & rflags::NT, 0U);
  EXPECT_EQ(type_byte(kTaskA), 0x8B);
  EXPECT_EQ(type_byte(kTaskB), 0x8B);
  EXPECT_OK(interrupt_return(state, mmu(), 4, kHandler + 1));
  EXPECT_EQ(state.rip, kNext);
  EXPECT_EQ(state.tr.selector, kTaskA);
  EXPECT_EQ(type_byte(kTaskA), 0x8B);
  EXPECT_EQ(type_byte(kTaskB), 0x89);
  EXPECT_EQ(get(kTssB + 0x20, 4), kHandler + 1);
  EXPECT_EQ(get(kTssB + 0x24, 4) & rflags::NT, 0U);
  EXPECT_EQ(state.rflags & rflags::NT, 0U);
}

TEST_F(Tasks, IretChecksLink) {
  two_tasks();
  state.rflags |= rflags::NT;
  const auto iret = [&] { return interrupt_return(state, mmu(), 4, kNext); };
  put(kTssA, kTaskB, 2);  // not busy
  expect_fault(Fault::ts(kTaskB), iret);
  put(kTssA, kTaskB | 4, 2);
  expect_fault(Fault::ts(kTaskB | 4), iret);
  put(kTssA, kBeyond, 2);
  expect_fault(Fault::ts(kBeyond), iret);
  put(kTssA, kTaskB, 2);
  set_gdt(kTaskB, descriptor(kTssB, 0x67, x86::kTssBusy));
  expect_fault(Fault::np(kTaskB), iret);
}

TEST_F(Tasks, FaultsInTheOldTask) {
  two_tasks();
  expect_fault(Fault::gp(kTaskA), [&] { return call(kTaskA); });  // busy
  set_gdt(kTaskB, descriptor(kTssB, 0x66, Segment::kP | x86::kTssAvailable));
  expect_fault(Fault::ts(kTaskB), [&] { return jump(); });
  set_gdt(kTaskB, descriptor(kTssB, 0x67, x86::kTssAvailable));
  expect_fault(Fault::np(kTaskB), [&] { return jump(); });
  set_gdt(kTaskB, descriptor(kUnmapped, 0x67, Segment::kP | x86::kTssAvailable));
  enable_pae();
  expect_fault(Fault::page(0, kUnmapped + 0x20), [&] { return jump(); });
  EXPECT_EQ(type_byte(kTaskA), 0x8B);
  protected_mode(3);
  expect_fault(Fault::gp(kTaskB), [&] { return jump(); });
}

TEST_F(Tasks, GateInGdt) {
  two_tasks();
  set_gdt(kTaskGateSelector, gate(x86::kTaskGate, 0, kTaskB, 0));
  EXPECT_OK(call(kTaskGateSelector));
  EXPECT_EQ(state.tr.selector, kTaskB);
  two_tasks();
  set_gdt(kTaskGateSelector, gate(x86::kTaskGate, 0, kCode0, 0));
  expect_fault(Fault::gp(kCode0), [&] { return call(kTaskGateSelector); });
  set_gdt(kTaskGateSelector, gate(x86::kTaskGate, 0, kTaskB | 4, 0));
  expect_fault(Fault::gp(kTaskB | 4), [&] { return call(kTaskGateSelector); });
}

TEST_F(Tasks, ExceptionThroughTaskGatePushesErrorCode) {
  two_tasks();
  set_idt(8, gate(x86::kTaskGate, 0, kTaskB, 0));
  std::string why;
  EXPECT_TRUE(deliver_fault(state, mmu(), Fault::gp(0), why));  // no gate for #GP: double fault
  EXPECT_EQ(state.tr.selector, kTaskB);
  EXPECT_EQ(rsp(), kTaskStack - 4);
  EXPECT_EQ(stacked(0, 4), 0U);
  EXPECT_EQ(get(kTssA + 0x20, 4), kRip);
  EXPECT_EQ(get(kTssB, 2), kTaskA);
}

TEST_F(Tasks, FaultSavesRf) {
  two_tasks();
  set_idt(14, gate(x86::kTaskGate, 0, kTaskB, 0));
  std::string why;
  EXPECT_TRUE(deliver_fault(state, mmu(), Fault::page(2, 0x1000), why));
  EXPECT_EQ(stacked(0, 4), 2U);
  EXPECT_EQ(get(kTssA + 0x24, 4), rflags::RF | rflags::kFixed1);
}

TEST_F(Tasks, FaultsInTheNewTask) {
  const auto with = [&](u64 offset, u16 selector, const Fault& expected) {
    two_tasks();
    put(kTssB + offset, selector, 2);
    EXPECT_EQ(jump(), MaybeFault(expected)) << offset;
    EXPECT_EQ(state.tr.selector, kTaskB);
    EXPECT_EQ(state.rip, kHandler);
    EXPECT_EQ(get(kTssA + 0x20, 4), kNext);
  };
  with(0x60, kData0, Fault::ts(kData0));
  with(0x60, kLdtSelector | 4, Fault::ts(kLdtSelector | 4));
  with(0x4C, 0, Fault::ts(0));
  with(0x4C, kData0, Fault::ts(kData0));
  with(0x4C, kCode0 | 3, Fault::ts(kCode0));
  with(0x4C, kAbsentCode, Fault::np(kAbsentCode));
  with(0x50, 0, Fault::ts(0));
  with(0x50, kData3, Fault::ts(kData3 & ~3));
  with(0x50, kAbsentData, Fault::ss(kAbsentData));
  with(0x54, kBeyond, Fault::ts(kBeyond));
  with(0x5C, kExecuteOnly, Fault::ts(kExecuteOnly));
  with(0x48, kAbsentData, Fault::np(kAbsentData));
  with(0x4C, kSmallCode, Fault::gp(0));
}

TEST_F(Tasks, DebugTrapBit) {
  two_tasks();
  put(kTssB + 0x64, 1, 2);
  EXPECT_EQ(jump(), MaybeFault(Fault::db(x86::dr6::BT)));
  EXPECT_EQ(state.rip, kHandler);
  EXPECT_EQ(state.tr.selector, kTaskB);
}

TEST_F(Tasks, LoadsLdtAndCr3) {
  two_tasks();
  enable_pae();
  constexpr u32 kOther = kPageTables + 0x4000;
  put(kOther, (kPageTables + 0x2000) | 1, 8);
  put(kTssB + 0x1C, kOther, 4);
  put(kTssB + 0x60, kLdtSelector, 2);
  EXPECT_OK(jump());
  EXPECT_EQ(state.cr3, kOther);
  EXPECT_EQ(state.pdpte[0], (kPageTables + 0x2000) | 1U);
  EXPECT_EQ(state.pdpte[1], 0U);
  EXPECT_NE(state.cr0 & x86::cr0::PG, 0U);
  EXPECT_EQ(state.ldtr.base, kLdtBase);
}

TEST_F(Tasks, ToV86Task) {
  two_tasks();
  put(kTssB + 0x24, rflags::VM, 4);
  put(kTssB + 0x20, 0x42, 4);
  put(kTssB + 0x4C, 0x1234, 2);
  EXPECT_OK(jump());
  EXPECT_TRUE(state.v86());
  EXPECT_EQ(state.cpl, 3);
  EXPECT_EQ(seg(x86::kCs), (Segment{0x1234, 0xF3, 0xFFFF, 0x12340, false}));
  EXPECT_EQ(mmu().privilege(), Privilege::kUser);
}

TEST_F(Tasks, Tss16) {
  two_tasks();
  set_gdt(kTaskB, descriptor(kTssB, 0x2B, Segment::kP | x86::kTss16Available));
  put(kTssB + 0x0E, 0x1234, 2);
  put(kTssB + 0x10, rflags::SF, 2);
  for (unsigned i = 0; i < 8; ++i) put(kTssB + 0x12 + i * 2, 0x200 + i, 2);
  put(kTssB + 0x22, kData0, 2);
  put(kTssB + 0x24, kCode0, 2);
  put(kTssB + 0x26, kData0, 2);
  put(kTssB + 0x28, kData0, 2);
  put(kTssB + 0x2A, 0, 2);
  EXPECT_OK(call());
  EXPECT_EQ(state.rip, 0x1234U);
  EXPECT_EQ(state.gpr[x86::kRbp] & 0xFFFF, 0x205U);
  EXPECT_EQ(state.rflags, rflags::SF | rflags::NT | rflags::kFixed1);
  EXPECT_TRUE(seg(x86::kFs).unusable);
  EXPECT_EQ(state.tr.type(), x86::kTss16Busy);
  state.gpr[x86::kRcx] = 0xCAFE;
  EXPECT_OK(interrupt_return(state, mmu(), 4, 0x1235));
  EXPECT_EQ(get(kTssB + 0x0E, 2), 0x1235U);
  EXPECT_EQ(get(kTssB + 0x14, 2), 0xCAFEU);
  EXPECT_EQ(state.rip, kNext);
}

}  // namespace
}  // namespace vert::cpu::test

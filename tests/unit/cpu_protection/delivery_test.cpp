// Interrupt and exception delivery, and what faults on its way become (SDM 3A, chapter 6).
#include "unit/cpu_protection/guest.hpp"

namespace vert::cpu::test {
namespace {

using x86::Fault;
using x86::Segment;
namespace rflags = x86::rflags;

class Delivery : public Guest {
 protected:
  MaybeFault go(const Interruption& what) { return deliver(state, mmu(), what); }
  bool fault(const Fault& what) { return deliver_fault(state, mmu(), what, why); }
  void expect_stack(std::initializer_list<u64> items, unsigned size) {
    unsigned index = 0;
    for (const u64 item : items) {
      EXPECT_EQ(stacked(index, size), item) << "item " << index;
      ++index;
    }
  }
  std::string why;
};

TEST_F(Delivery, RealMode) {
  real_mode();
  put(0x21 * 4, 0x3000'4567, 4);
  state.rflags |= rflags::IF | rflags::TF | rflags::CF;
  state.sti_shadow = true;
  state.activity = Activity::kHalted;
  EXPECT_OK(go(software(0x21)));
  EXPECT_EQ(seg(x86::kCs).base, 0x30000U);
  EXPECT_EQ(state.rip, 0x4567U);
  EXPECT_EQ(state.rflags, rflags::CF | rflags::kFixed1);
  expect_stack({0x1236, 0x100, rflags::IF | rflags::TF | rflags::CF | rflags::kFixed1}, 2);
  EXPECT_EQ(rsp(), 0xABCD0FFAU);
  EXPECT_FALSE(state.sti_shadow);
  EXPECT_EQ(state.activity, Activity::kRunning);
  EXPECT_TRUE(fault(Fault::gp(0)));
  EXPECT_EQ(rsp(), 0xABCD0FF4U);  // no error code
}

TEST_F(Delivery, RealModeTripleFault) {
  real_mode();
  state.idtr.limit = 3;
  EXPECT_FALSE(fault(Fault::ud()));
  EXPECT_EQ(state.activity, Activity::kShutdown);
  EXPECT_NE(why.find("vector 6"), std::string::npos) << why;
  EXPECT_NE(why.find("vector 13"), std::string::npos) << why;
}

TEST_F(Delivery, SameLevelInterruptGate) {
  protected_mode(0);
  set_idt(0x20, gate(x86::kInterruptGate, 0, kCode0, kHandler));
  state.rflags |= rflags::IF | rflags::NT;
  EXPECT_OK(go(external(0x20)));
  EXPECT_EQ(state.rip, kHandler);
  EXPECT_EQ(rsp(), kKernelStack - 12);
  expect_stack({kRip, kCode0, rflags::IF | rflags::NT | rflags::kFixed1}, 4);
  EXPECT_EQ(state.rflags, rflags::kFixed1);
}

TEST_F(Delivery, TrapGate16KeepsIf) {
  protected_mode(0);
  set_idt(0x20, gate(x86::kTrapGate16, 0, kCode0, 0x1'5678));
  state.rflags |= rflags::IF;
  EXPECT_OK(go(external(0x20)));
  EXPECT_EQ(state.rip, 0x5678U);
  EXPECT_EQ(rsp(), kKernelStack - 6);
  EXPECT_EQ(state.rflags, rflags::IF | rflags::kFixed1);
}

TEST_F(Delivery, InnerLevelWithErrorCode) {
  protected_mode(3);
  set_idt(13, gate(x86::kInterruptGate, 0, kCode0, kHandler));
  EXPECT_TRUE(fault(Fault::gp(0x1234)));
  EXPECT_EQ(state.cpl, 0);
  EXPECT_EQ(seg(x86::kSs).selector, kData0);
  EXPECT_EQ(rsp(), kInnerStack - 24);
  expect_stack({0x1234, kRip, kCode3, rflags::RF | rflags::kFixed1, kUserStack, kData3}, 4);
  EXPECT_EQ(mmu().privilege(), Privilege::kSupervisor);
}

TEST_F(Delivery, GateFaultsWithErrorCodes) {
  protected_mode(0);
  const auto with = [&](u64 raw, const Interruption& what, const Fault& expected) {
    set_idt(what.vector, raw);
    expect_fault(expected, [&] { return go(what); });
  };
  const u64 good = gate(x86::kInterruptGate, 0, kCode0, kHandler);
  with(0, external(0x20), Fault::gp(0x20 * 8 + 3));
  with(0, software(0x20), Fault::gp(0x20 * 8 + 2));
  with(good & ~(u64{1} << 47), external(0x20), Fault::np(0x20 * 8 + 3));
  with(gate(x86::kCallGate, 0, kCode0, 0), external(0x20), Fault::gp(0x20 * 8 + 3));
  with(gate(x86::kInterruptGate, 0, 0, 0), external(0x20), Fault::gp(1));
  with(gate(x86::kInterruptGate, 0, kData0, 0), external(0x20), Fault::gp(kData0 | 1));
  with(gate(x86::kInterruptGate, 0, kCode3, 0), software(0x20), Fault::gp(kCode3 & ~3));
  with(gate(x86::kInterruptGate, 0, kAbsentCode, 0), external(0x20), Fault::np(kAbsentCode | 1));
  with(gate(x86::kInterruptGate, 0, kSmallCode, 0x1000), external(0x20), Fault::gp(1));
  state.idtr.limit = 0x20 * 8 + 6;
  with(good, external(0x20), Fault::gp(0x20 * 8 + 3));
  seg(x86::kSs).limit = 0x100;
  state.idtr.limit = 0x7FF;
  with(good, external(0x20), Fault::ss(1));
}

TEST_F(Delivery, GateLevelCountsForSoftwareOnly) {
  protected_mode(3);
  set_idt(3, gate(x86::kInterruptGate, 0, kCode0, kHandler));
  expect_fault(Fault::gp(3 * 8 + 2), [&] { return go(software(3)); });
  expect_fault(Fault::gp(3 * 8 + 2), [&] {
    return go({3, InterruptSource::kSoftwareTrap, std::nullopt, state.rip + 1});
  });
  EXPECT_OK(go({3, InterruptSource::kInt1, std::nullopt, state.rip + 1}));
  EXPECT_EQ(stacked(0, 4), kRip + 1);
}

TEST_F(Delivery, InnerStackFaultsCarryExt) {
  protected_mode(3);
  set_idt(0x20, gate(x86::kInterruptGate, 3, kCode0, kHandler));
  put(kTssA + 8, 0, 2);
  expect_fault(Fault::ts(1), [&] { return go(external(0x20)); });
  expect_fault(Fault::ts(0), [&] { return go(software(0x20)); });
  put(kTssA + 8, kSmallData, 2);
  expect_fault(Fault::ss(kSmallData | 1), [&] { return go(external(0x20)); });
  state.tr.limit = 6;
  expect_fault(Fault::ts(kTaskA | 1), [&] { return go(external(0x20)); });
}

TEST_F(Delivery, FromV86) {
  v86_mode(0);
  set_idt(0x20, gate(x86::kInterruptGate, 3, kCode0, kHandler));
  seg(x86::kGs).selector = 0x1111;
  EXPECT_OK(go(external(0x20)));
  EXPECT_FALSE(state.v86());
  EXPECT_EQ(state.cpl, 0);
  EXPECT_EQ(rsp(), kInnerStack - 36);
  expect_stack({0x100, 0x2000, rflags::VM | rflags::kFixed1, 0x8000, 0x2000, 0x1000, 0x1000, 0x1000, 0x1111},
               4);
  for (const auto reg : {x86::kDs, x86::kEs, x86::kFs, x86::kGs}) EXPECT_EQ(seg(reg).unusable, true);
  // And back.
  EXPECT_OK(interrupt_return(state, mmu(), 4, 0));
  EXPECT_TRUE(state.v86());
  EXPECT_EQ(seg(x86::kGs).base, 0x11110U);
  EXPECT_EQ(rsp(), 0x8000U);
}

TEST_F(Delivery, FromV86MustReachLevel0) {
  v86_mode(3);
  set_gdt(kGate, descriptor(0, 0xFFFFF, kCodeType | level(1) | kFlat));
  set_idt(0x20, gate(x86::kInterruptGate, 3, kGate, kHandler));
  expect_fault(Fault::gp(kGate | 1), [&] { return go(external(0x20)); });
  set_idt(0x20, gate(x86::kInterruptGate, 3, kConforming, kHandler));
  expect_fault(Fault::gp(kConforming | 1), [&] { return go(external(0x20)); });
}

TEST_F(Delivery, SoftwareInterruptsInV86GoByIopl) {
  v86_mode(2);
  set_idt(0x21, gate(x86::kInterruptGate, 3, kCode0, kHandler));
  set_idt(3, gate(x86::kInterruptGate, 3, kCode0, kHandler));
  expect_fault(Fault::gp(0), [&] { return go(software(0x21)); });
  EXPECT_OK(go({3, InterruptSource::kSoftwareTrap, std::nullopt, state.rip + 1}));
  v86_mode(3);
  EXPECT_OK(go(software(0x21)));
  EXPECT_EQ(state.rip, kHandler);
}

TEST_F(Delivery, VmeRedirectsSoftwareInterrupts) {
  v86_mode(0);
  state.cr4 |= x86::cr4::VME;
  state.tr.limit = 0x100;
  put(kTssA + 0x66, 0x88, 2);  // the map lies at 68h
  put(kTssA + 0x68 + 0x21 / 8, 0, 1);
  put(0x21 * 4, 0x3000'4567, 4);
  state.rflags |= rflags::VIF | rflags::TF;
  EXPECT_OK(go(software(0x21)));
  EXPECT_TRUE(state.v86());
  EXPECT_EQ(state.rip, 0x4567U);
  EXPECT_EQ(seg(x86::kCs).base, 0x30000U);
  EXPECT_EQ(stacked(2, 2), rflags::IF | rflags::TF | rflags::IOPL | rflags::kFixed1);
  EXPECT_EQ(state.rflags & (rflags::VIF | rflags::TF), 0U);
  put(kTssA + 0x68 + 0x21 / 8, 1 << (0x21 % 8), 1);
  expect_fault(Fault::gp(0), [&] { return go(software(0x21)); });
}

TEST_F(Delivery, LongModeSameLevelAlignsStack) {
  long_mode(0);
  set_idt64(0x20, gate(x86::kInterruptGate, 0, kCode64, kHandler), 0xFFFF8000);
  state.gpr[x86::kRsp] = kKernelStack - 3;
  EXPECT_OK(go(external(0x20)));
  EXPECT_EQ(state.rip, 0xFFFF8000'00030000U);
  EXPECT_EQ(rsp(), kKernelStack - 16 - 40);
  expect_stack({kRip, kCode64, rflags::kFixed1, kKernelStack - 3, kData0}, 8);
  EXPECT_EQ(seg(x86::kSs).selector, kData0);
}

TEST_F(Delivery, LongModeInnerLevel) {
  long_mode(3);
  set_idt64(14, gate(x86::kInterruptGate, 0, kCode64, kHandler));
  EXPECT_TRUE(fault(Fault::page(6, 0x1234'5000)));
  EXPECT_EQ(state.cr2, 0x1234'5000U);
  EXPECT_EQ(rsp(), kInnerStack - 48);
  EXPECT_EQ(seg(x86::kSs).selector, 0);
  EXPECT_TRUE(seg(x86::kSs).unusable);
  expect_stack({6, kRip, kUser64, rflags::RF | rflags::kFixed1, kUserStack, kData3}, 8);
}

TEST_F(Delivery, LongModeIst) {
  long_mode(0);
  set_idt64(0x20, gate(x86::kInterruptGate, 0, kCode64, kHandler, 1));
  EXPECT_OK(go(external(0x20)));
  EXPECT_EQ(rsp(), (kIstStack & ~15U) - 40);
  EXPECT_EQ(seg(x86::kSs).selector, kData0);  // same level: SS stays
  long_mode(3);
  EXPECT_OK(go(external(0x20)));
  EXPECT_EQ(rsp(), (kIstStack & ~15U) - 40);
  EXPECT_EQ(seg(x86::kSs).selector, 0);
  long_mode(0);
  put(kTssA + 0x24, kNotCanonical, 8);
  expect_fault(Fault::ss(1), [&] { return go(external(0x20)); });
  state.tr.limit = 0x2A;
  expect_fault(Fault::ts(kTaskA | 1), [&] { return go(external(0x20)); });
}

TEST_F(Delivery, LongModeGateFaults) {
  long_mode(0);
  set_idt64(0x20, gate(x86::kInterruptGate16, 0, kCode64, kHandler));
  expect_fault(Fault::gp(0x20 * 8 + 3), [&] { return go(external(0x20)); });
  set_idt64(0x20, gate(x86::kTaskGate, 0, kTaskB, 0));
  expect_fault(Fault::gp(0x20 * 8 + 3), [&] { return go(external(0x20)); });
  set_idt64(0x20, gate(x86::kInterruptGate, 0, kCode0, kHandler));
  expect_fault(Fault::gp(kCode0 | 1), [&] { return go(external(0x20)); });
  set_idt64(0x20, gate(x86::kInterruptGate, 0, kCode64, kHandler), 0x8000);
  expect_fault(Fault::gp(1), [&] { return go(external(0x20)); });
}

TEST_F(Delivery, CompatibilityModeEnters64BitCode) {
  compat_mode(3);
  set_idt64(0x80, gate(x86::kInterruptGate, 3, kCode64, kHandler));
  EXPECT_OK(go(software(0x80)));
  EXPECT_TRUE(state.code64());
  expect_stack({kRip + 2, kCode3, rflags::kFixed1, kUserStack, kData3}, 8);
}

TEST_F(Delivery, PushFaultsPageLeaveStateAlone) {
  long_mode(3);
  set_idt64(0x20, gate(x86::kInterruptGate, 0, kCode64, kHandler));
  put(kTssA + 4, kUnmapped + 0x100, 8);
  expect_fault(Fault::page(x86::pf::W, kUnmapped + 0xF8), [&] { return go(external(0x20)); });
}

TEST_F(Delivery, NmiBlocksNmi) {
  protected_mode(0);
  set_idt(2, gate(x86::kInterruptGate, 0, kCode0, kHandler));
  EXPECT_OK(go(software(2)));
  EXPECT_FALSE(state.nmi_blocked);
  EXPECT_OK(go(external(2)));
  EXPECT_TRUE(state.nmi_blocked);
}

TEST_F(Delivery, DebugExceptionRecordsDr6) {
  protected_mode(0);
  set_idt(1, gate(x86::kInterruptGate, 0, kCode0, kHandler));
  state.dr6 = x86::dr6::kFixed1 | 0xF | x86::dr6::BT;
  state.dr7 |= x86::dr7::GD;
  EXPECT_TRUE(fault(Fault::db(x86::dr6::BS | 2)));
  EXPECT_EQ(state.dr6, x86::dr6::kFixed1 | x86::dr6::BT | x86::dr6::BS | 2);
  EXPECT_EQ(state.dr7 & x86::dr7::GD, 0U);
  EXPECT_EQ(stacked(2, 4) & rflags::RF, 0U);
}

TEST_F(Delivery, ContributoryTwiceIsDoubleFault) {
  protected_mode(0);
  set_idt(8, gate(x86::kInterruptGate, 0, kCode0, kHandler));
  EXPECT_TRUE(fault(Fault::gp(0)));  // vector 13 has no gate: #GP again
  EXPECT_EQ(state.rip, kHandler);
  expect_stack({0, kRip, kCode0, rflags::kFixed1}, 4);
}

TEST_F(Delivery, BenignThenContributoryIsServedSerially) {
  protected_mode(0);
  set_idt(13, gate(x86::kInterruptGate, 0, kCode0, kHandler));
  EXPECT_TRUE(fault(Fault::ud()));
  expect_stack({6 * 8 + 3, kRip, kCode0, rflags::RF | rflags::kFixed1}, 4);
  EXPECT_TRUE(deliver_interruption(state, mmu(), software(0x40), why));
  EXPECT_EQ(stacked(0, 4), 0x40U * 8 + 2);
  EXPECT_EQ(stacked(1, 4), kHandler);  // INT n itself, not what follows it
}

TEST_F(Delivery, PageFaultMatrix) {
  // Contributory, then #PF: served serially.
  long_mode(3);
  put(kTssA + 4, kUnmapped, 8);
  set_idt64(13, gate(x86::kInterruptGate, 0, kCode64, kHandler));
  set_idt64(14, gate(x86::kInterruptGate, 0, kCode64, kHandler + 1, 1));
  EXPECT_TRUE(fault(Fault::gp(0)));
  EXPECT_EQ(state.rip, kHandler + 1);
  EXPECT_EQ(state.cr2, kUnmapped - 8);
  // #PF, then #PF: double fault.
  long_mode(3);
  put(kTssA + 4, kUnmapped, 8);
  set_idt64(14, gate(x86::kInterruptGate, 0, kCode64, kHandler));
  set_idt64(8, gate(x86::kInterruptGate, 0, kCode64, kHandler + 2, 1));
  EXPECT_TRUE(fault(Fault::page(4, 0x1000)));
  EXPECT_EQ(state.rip, kHandler + 2);
  EXPECT_EQ(state.cr2, kUnmapped - 8);
  expect_stack({0, kRip, kUser64}, 8);
}

TEST_F(Delivery, TripleFaultTellsTheChain) {
  long_mode(3);
  state.idtr.limit = 0;
  EXPECT_FALSE(fault(Fault::page(4, 0xABC)));
  EXPECT_EQ(state.activity, Activity::kShutdown);
  EXPECT_NE(why.find("vector 14 (error code 0x4) for address 0xabc at 0x33:0x20000"), std::string::npos)
      << why;
  EXPECT_EQ(state.rip, kRip);
}

}  // namespace
}  // namespace vert::cpu::test

// CpuState: RESET, INIT and SIPI (SDM 3A, table 9-1), and its way through the archive.
#include "cpu/cpu_state.hpp"

#include <gtest/gtest.h>

#include "base/archive.hpp"
#include "x86/cpu_model.hpp"

namespace vert::test {
namespace {

using cpu::CpuState;

const x86::CpuModel& model() {
  static const x86::CpuModel kModel = x86::CpuModel::make("host").value();
  return kModel;
}

TEST(CpuState, ResetStartsBelow4GiB) {
  CpuState state;
  state.gpr.fill(~u64{0});
  state.msr.lstar = 5;
  state.efer = x86::efer::LMA;
  state.tsc_offset = 77;
  cpu::reset(state, model());
  EXPECT_EQ(state.seg(x86::kCs).base + state.rip, 0xFFFF'FFF0U);
  EXPECT_EQ(state.seg(x86::kCs).selector, 0xF000);
  EXPECT_TRUE(state.seg(x86::kCs).is_code());
  EXPECT_TRUE(state.seg(x86::kSs).is_data());
  EXPECT_EQ(state.seg(x86::kDs).limit, 0xFFFFU);
  EXPECT_EQ(state.rflags, 2U);
  EXPECT_EQ(state.cr0, 0x6000'0010U);
  EXPECT_EQ(state.gpr[x86::kRax], 0U);
  EXPECT_EQ(state.gpr[x86::kRdx], model().cpuid({.leaf = 1}).eax);
  EXPECT_EQ(state.dr6, 0xFFFF'0FF0U);
  EXPECT_EQ(state.dr7, 0x400U);
  EXPECT_EQ(state.idtr.limit, 0xFFFF);
  EXPECT_EQ(state.fpu.fcw, 0x40);
  EXPECT_EQ(state.fpu.mxcsr, 0x1F80U);
  EXPECT_EQ(state.efer, 0U);
  EXPECT_EQ(state.msr.lstar, 0U);
  EXPECT_EQ(state.xcr0, 1U);
  EXPECT_EQ(state.tsc_offset, 77U);
  EXPECT_TRUE(state.real_addressing());
}

TEST(CpuState, InitKeepsFpuMsrsAndCacheControl) {
  CpuState state;
  cpu::reset(state, model());
  state.fpu.zmm[3][5] = 9;
  state.fpu.fcw = 0x37F;
  state.msr.lstar = 5;
  state.xcr0 = 7;
  state.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::NW;
  state.cr4 = x86::cr4::PAE;
  state.efer = x86::efer::LME | x86::efer::LMA;
  state.nmi_blocked = true;
  state.activity = cpu::Activity::kShutdown;
  cpu::init(state, model());
  EXPECT_EQ(state.fpu.zmm[3][5], 9);
  EXPECT_EQ(state.fpu.fcw, 0x37F);
  EXPECT_EQ(state.msr.lstar, 5U);
  EXPECT_EQ(state.xcr0, 7U);
  EXPECT_EQ(state.cr0, x86::cr0::ET | x86::cr0::NW);
  EXPECT_EQ(state.cr4, 0U);
  EXPECT_EQ(state.efer, 0U);
  EXPECT_FALSE(state.nmi_blocked);
  EXPECT_EQ(state.rip, 0xFFF0U);
  EXPECT_EQ(state.activity, cpu::Activity::kRunning);
}

TEST(CpuState, StartUpBeginsAtTheVectorsPage) {
  CpuState state;
  cpu::reset(state, model());
  cpu::init(state, model());
  state.activity = cpu::Activity::kWaitForSipi;
  cpu::start_up(state, 0x9A);
  EXPECT_EQ(state.seg(x86::kCs).selector, 0x9A00);
  EXPECT_EQ(state.seg(x86::kCs).base, 0x9A000U);
  EXPECT_EQ(state.rip, 0U);
  EXPECT_EQ(state.activity, cpu::Activity::kRunning);
}

TEST(CpuState, SurvivesTheArchive) {
  CpuState state;
  cpu::reset(state, model());
  for (std::size_t i = 0; i < state.gpr.size(); ++i) state.gpr[i] = 0x0123'4567'89AB'CDEF * (i + 1);
  state.fpu.zmm[31][63] = 0xEE;
  state.fpu.st[7][9] = 0x7F;
  state.msr.mtrr_variable[15] = ~u64{0};
  state.segment[x86::kGs].base = 0xFFFF'8880'0000'0000;
  state.activity = cpu::Activity::kHalted;
  const auto bytes = base::to_bytes(base::save("cpu", 1, state));
  const auto restored = base::restore<CpuState>("cpu", 1, base::from_bytes(bytes).value());
  ASSERT_TRUE(restored.has_value()) << restored.error().message;
  EXPECT_EQ(*restored, state);
}

TEST(CpuState, ImpossibleStatesAreRefused) {
  CpuState good;
  cpu::reset(good, model());
  EXPECT_TRUE(cpu::check(good, model()).has_value());
  CpuState long_mode = good;
  long_mode.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::ET;
  long_mode.cr4 = x86::cr4::PAE;
  long_mode.efer = x86::efer::LME | x86::efer::LMA;
  EXPECT_TRUE(cpu::check(long_mode, model()).has_value());

  const auto refused = [](CpuState state, auto change) {
    change(state);
    return !cpu::check(state, model()).has_value();
  };
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.cr0 = x86::cr0::PG; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.cr0 |= u64{1} << 32; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.cr4 = x86::cr4::VME; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.cr4 = x86::cr4::PCIDE; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.cr3 = u64{1} << 46; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.efer = x86::efer::LMA; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.efer = u64{1} << 12; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.xcr0 = 0; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.xcr0 = 5; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.rflags |= u64{1} << 40; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.cpl = 3; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.segment[x86::kDs].attributes |= 0x100; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.segment[x86::kFs].base = u64{1} << 50; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.msr.lstar = u64{1} << 63; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.msr.xss = 1; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.dr7 = u64{1} << 32; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.fpu.mxcsr = 0x10000; }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.activity = static_cast<cpu::Activity>(9); }));
  EXPECT_TRUE(refused(good, [](CpuState& s) { s.rip = u64{1} << 32; }));
  EXPECT_TRUE(refused(long_mode, [](CpuState& s) { s.cr4 = 0; }));
  EXPECT_TRUE(refused(long_mode, [](CpuState& s) { s.efer = x86::efer::LME; }));
  EXPECT_TRUE(refused(long_mode, [](CpuState& s) { s.rip = u64{1} << 47; }));
}

TEST(CpuState, OnlyAmdsSysretLeavesAnyRip) {
  CpuState user;
  cpu::reset(user, model());
  user.cr0 = x86::cr0::PE | x86::cr0::PG | x86::cr0::ET;
  user.cr4 = x86::cr4::PAE;
  user.efer = x86::efer::LME | x86::efer::LMA;
  user.segment[x86::kCs].attributes |= 0x2000;  // L
  user.cpl = 3;
  EXPECT_TRUE(cpu::check(user, model()).has_value());
  user.rip = u64{1} << 47;
  EXPECT_EQ(cpu::check(user, model()).has_value(), model().vendor() == x86::Vendor::kAmd);
}

}  // namespace
}  // namespace vert::test

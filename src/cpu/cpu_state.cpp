#include "cpu/cpu_state.hpp"

#include "x86/cpu_model.hpp"

namespace vert::cpu {

namespace {

using x86::Segment;

constexpr u16 kRealModeData = Segment::kP | Segment::kS | Segment::kWritable | Segment::kAccessed;
constexpr u16 kRealModeCode = kRealModeData | Segment::kCode;

/// What power-up, RESET and INIT have in common (SDM 3A, table 9-1).
void reset_core(CpuState& state) {
  state.gpr = {};
  state.gpr[x86::kRdx] = x86::CpuModel::kSignature;
  state.rip = 0xFFF0;
  state.rflags = x86::rflags::kFixed1;
  for (Segment& segment : state.segment) segment = {0, kRealModeData, 0xFFFF, 0, false};
  state.segment[x86::kCs] = {0xF000, kRealModeCode, 0xFFFF, 0xFFFF0000, false};
  state.ldtr = {0, Segment::kP | x86::kLdt, 0xFFFF, 0, false};
  state.tr = {0, Segment::kP | x86::kTssBusy, 0xFFFF, 0, false};
  state.gdtr = {0, 0xFFFF};
  state.idtr = {0, 0xFFFF};
  state.cpl = 0;
  state.cr0 = x86::cr0::CD | x86::cr0::NW | x86::cr0::ET;
  state.cr2 = 0;
  state.cr3 = 0;
  state.cr4 = 0;
  state.efer = 0;
  state.dr = {};
  state.dr6 = x86::dr6::kFixed1;
  state.dr7 = x86::dr7::kFixed1;
  state.activity = Activity::kRunning;
  state.sti_shadow = false;
  state.mov_ss_shadow = false;
  state.nmi_blocked = false;
  state.pdpte = {};
  state.monitor_line = 0;
}

}  // namespace

void reset(CpuState& state) {
  reset_core(state);
  state.xcr0 = x86::xcr0::X87;
  state.msr = {};
  state.fpu = {};
  state.fpu.ftw = 0xFF;  // tag word 5555h: all hold +0.0
}

void init(CpuState& state) {
  constexpr u64 kCacheControl = x86::cr0::CD | x86::cr0::NW;
  const u64 cache_control = state.cr0 & kCacheControl;
  reset_core(state);
  state.cr0 = x86::cr0::ET | cache_control;
}

void start_up(CpuState& state, u8 vector) {
  Segment& cs = state.segment[x86::kCs];
  cs.selector = static_cast<u16>(vector << 8);
  cs.base = u64{vector} << kPageShift;
  state.rip = 0;
  state.activity = Activity::kRunning;
}

}  // namespace vert::cpu

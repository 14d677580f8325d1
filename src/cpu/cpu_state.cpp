#include "cpu/cpu_state.hpp"

#include <algorithm>
#include <array>

#include "x86/cpu_model.hpp"
#include "x86/paging.hpp"

namespace vert::cpu {

namespace {

using x86::Segment;

constexpr u16 kRealModeData = Segment::kP | Segment::kS | Segment::kWritable | Segment::kAccessed;
constexpr u16 kRealModeCode = kRealModeData | Segment::kCode;

/// What power-up, RESET and INIT have in common (SDM 3A, table 9-1).
void reset_core(CpuState& state, const x86::CpuModel& model) {
  state.gpr = {};
  state.gpr[x86::kRdx] = model.identity().signature;
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

bool within(u64 value, u64 allowed) { return (value & ~allowed) == 0; }
bool implies(bool a, bool b) { return !a || b; }

/// SDM 3A, 2.5 and 4.1.
bool control_registers_possible(const CpuState& state, const x86::CpuModel& model) {
  using namespace x86;
  constexpr u64 kCr0 = cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE | cr0::WP | cr0::AM |
                       cr0::NW | cr0::CD | cr0::PG;
  const bool paging = (state.cr0 & cr0::PG) != 0;
  const bool lme = (state.efer & efer::LME) != 0;
  const bool avx512 = (state.xcr0 & xcr0::kAvx512) != 0;
  return within(state.cr0, kCr0) && implies(paging, state.protected_mode()) &&
         implies((state.cr0 & cr0::NW) != 0, (state.cr0 & cr0::CD) != 0) &&
         within(state.cr4, model.cr4_allowed()) && within(state.efer, model.efer_allowed()) &&
         state.long_mode() == (lme && paging) &&
         implies(state.long_mode(), (state.cr4 & cr4::PAE) != 0 && !state.v86()) &&
         implies((state.cr4 & cr4::PCIDE) != 0, state.long_mode()) &&
         within(state.cr3, (u64{1} << model.physical_bits()) - 1) &&
         within(state.xcr0, model.xcr0_allowed()) && (state.xcr0 & xcr0::X87) != 0 &&
         implies((state.xcr0 & xcr0::AVX) != 0, (state.xcr0 & xcr0::SSE) != 0) &&
         implies(avx512, (state.xcr0 & xcr0::kAvx512) == xcr0::kAvx512 && (state.xcr0 & xcr0::AVX) != 0);
}

bool segments_possible(const CpuState& state, unsigned width) {
  constexpr u16 kAttributes = 0xF0FF;
  const auto possible = [width](const Segment& segment) {
    return within(segment.attributes, kAttributes) && x86::is_canonical(segment.base, width);
  };
  return std::ranges::all_of(state.segment, possible) && possible(state.ldtr) && possible(state.tr) &&
         x86::is_canonical(state.gdtr.base, width) && x86::is_canonical(state.idtr.base, width);
}

bool msrs_possible(const CpuState& state, unsigned width) {
  const auto& msr = state.msr;
  return std::ranges::all_of(
             std::array{msr.lstar, msr.cstar, msr.kernel_gs_base, msr.sysenter_esp, msr.sysenter_eip},
             [width](u64 address) { return x86::is_canonical(address, width); }) &&
         msr.xss == 0;
}

/// On AMD's processors, SYSRET takes any RIP to user mode, where the next fetch faults (APM 3, SYSRET).
bool rip_possible(const CpuState& state, const x86::CpuModel& model) {
  if (!state.code64()) return within(state.rip, 0xFFFF'FFFF);
  const bool any = model.vendor() == x86::Vendor::kAmd && state.cpl == 3;
  return any || x86::is_canonical(state.rip, state.linear_bits());
}

}  // namespace

Status check(const CpuState& state, const x86::CpuModel& model) {
  const auto refuse = [](const char* what) {
    return make_error("saved processor state is not possible: {}", what);
  };
  if (!control_registers_possible(state, model)) return refuse("control registers");
  if (!within(state.rflags, x86::rflags::kDefined | x86::rflags::kFixed1)) return refuse("RFLAGS");
  if (state.cpl > 3 || !implies(!state.protected_mode(), state.cpl == 0)) return refuse("privilege level");
  if (!segments_possible(state, model.linear_bits())) return refuse("segments");
  if (!msrs_possible(state, model.linear_bits())) return refuse("model-specific registers");
  if (!within(state.dr6, 0xFFFF'FFFF) || !within(state.dr7, 0xFFFF'FFFF)) return refuse("debug registers");
  if (!within(state.fpu.mxcsr, model.mxcsr_mask())) return refuse("MXCSR");
  if (state.activity > Activity::kShutdown) return refuse("activity");
  if (!rip_possible(state, model)) return refuse("RIP");
  return {};
}

void reset(CpuState& state, const x86::CpuModel& model) {
  reset_core(state, model);
  state.xcr0 = x86::xcr0::X87;
  state.msr = {};
  state.fpu = {};
  state.fpu.ftw = 0xFF;  // tag word 5555h: all hold +0.0
}

void init(CpuState& state, const x86::CpuModel& model) {
  constexpr u64 kCacheControl = x86::cr0::CD | x86::cr0::NW;
  const u64 cache_control = state.cr0 & kCacheControl;
  reset_core(state, model);
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

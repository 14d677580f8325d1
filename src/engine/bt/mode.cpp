#include "engine/bt/mode.hpp"

namespace vert::bt {

using namespace x86;

namespace {

bool flat(const Segment& segment) {
  return segment.base == 0 && segment.limit == 0xFFFFFFFF && !segment.unusable &&
         (segment.is_code() || (segment.attributes & Segment::kExpandDown) == 0);
}

bool flat_data(const Segment& segment) {
  return flat(segment) && segment.is_data() && (segment.attributes & Segment::kWritable) != 0;
}

u8 fpu_of(const cpu::CpuState& state) {
  if ((state.cr0 & (cr0::TS | cr0::EM)) != 0) return 0;
  u8 usable = fpu::kX87;
  if ((state.cr4 & cr4::OSFXSR) == 0) return usable;
  usable |= fpu::kSse;
  constexpr u64 kAvxState = xcr0::SSE | xcr0::AVX;
  constexpr u64 kAvx512State = kAvxState | xcr0::OPMASK | xcr0::ZMM_HI256 | xcr0::HI16_ZMM;
  if ((state.cr4 & cr4::OSXSAVE) == 0) return usable;
  if ((state.xcr0 & kAvxState) == kAvxState) usable |= fpu::kAvx;
  if ((state.xcr0 & kAvx512State) == kAvx512State) usable |= fpu::kAvx512;
  return usable;
}

}  // namespace

Mode mode_for(const cpu::CpuState& state, cpu::Privilege privilege) {
  Mode mode;
  mode.privilege = privilege;
  mode.fpu = fpu_of(state);
  mode.time_stamp = !mode.user() || (state.cr4 & cr4::TSD) == 0;
  mode.fs_gs_base = (state.cr4 & cr4::FSGSBASE) != 0;
  mode.smap = (state.cr4 & cr4::SMAP) != 0;
  return mode;
}

cpu::Privilege privilege_of(const cpu::CpuState& state) {
  if (state.cpl == 3) return cpu::Privilege::kUser;
  const bool open = (state.cr4 & cr4::SMAP) == 0 || (state.rflags & rflags::AC) != 0;
  return open ? cpu::Privilege::kSupervisor : cpu::Privilege::kSmap;
}

bool translatable(const cpu::CpuState& state) {
  if (state.activity != cpu::Activity::kRunning || state.sti_shadow || state.mov_ss_shadow) return false;
  if ((state.rflags & (rflags::TF | rflags::VM | rflags::RF)) != 0) return false;
  if ((state.dr7 & dr7::kEnables) != 0) return false;
  if (!state.protected_mode()) return false;
  if (state.cpl == 3 && (state.rflags & rflags::AC) != 0 && (state.cr0 & cr0::AM) != 0) return false;
  if (state.code64()) return true;
  return state.seg(kCs).is_big() && state.seg(kSs).is_big() && flat(state.seg(kCs)) &&
         flat_data(state.seg(kSs)) && flat_data(state.seg(kDs)) && flat_data(state.seg(kEs));
}

}  // namespace vert::bt

#include "engine/interp/port_io.hpp"

namespace vert::interp {

using namespace x86;

bool check_port_permission(Core& core, u16 port, unsigned size) {
  const cpu::CpuState& state = core.state();
  if (!state.protected_mode() || (state.cpl <= state.iopl() && !state.v86())) return true;
  const Segment& tss = state.tr;
  const bool is_32bit_tss = tss.type() == kTssAvailable || tss.type() == kTssBusy;
  constexpr u32 kMapBaseOffset = 102;
  if (tss.unusable || !is_32bit_tss || tss.limit < kMapBaseOffset + 1) return core.failed(Fault::gp());
  u16 map_base = 0;
  if (!core.mmu.read_as(cpu::Privilege::kSmap, Gla(tss.base + kMapBaseOffset), map_base))
    return core.failed(core.mmu.fault());
  // Two bytes are always read, so that an access may straddle them; both must lie in the segment.
  const u32 offset = u32{map_base} + port / 8U;
  if (offset + 1 > tss.limit) return core.failed(Fault::gp());
  u16 map = 0;
  if (!core.mmu.read_as(cpu::Privilege::kSmap, Gla(tss.base + offset), map))
    return core.failed(core.mmu.fault());
  const u32 mask = ((1U << size) - 1) << (port % 8);
  return (map & mask) == 0 || core.failed(Fault::gp());
}

}  // namespace vert::interp

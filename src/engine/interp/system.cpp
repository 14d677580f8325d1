// Processor control: halting, interrupts' flag, identification, time, caches and TLB, and what does nothing.
#include <sys/random.h>

#include "cpu/local_apic.hpp"
#include "cpu/pause_loop.hpp"
#include "engine/interp/flags.hpp"
#include "engine/interp/handlers.hpp"
#include "engine/interp/system_registers.hpp"

namespace vert::interp {

namespace {

using namespace x86;

Outcome nop(Core&, const Op&) { return Outcome::kNext; }
// SDM 2B, PAUSE.
Outcome pause(Core&, const Op&) {
  thread_local cpu::PauseLoop loop;  // each vCPU has a thread
  loop.count();
  return Outcome::kNext;
}
Outcome undefined(Core& core, const Op&) { return core.raise(Fault::ud()); }

// SDM 2A, HLT.
Outcome hlt(Core& core, const Op&) {
  if (core.state().cpl != 0) return core.raise(Fault::gp());
  core.state().activity = cpu::Activity::kHalted;
  return Outcome::kEndBlock;
}

/// CLI and STI act on IF if CPL <= IOPL; else on VIF, for virtual-8086 mode under VME and for ring 3 under
/// PVI (SDM 2A, CLI and STI).
[[nodiscard]] bool uses_virtual_flag(const cpu::CpuState& state) {
  if (state.v86()) return state.iopl() < 3 && (state.cr4 & cr4::VME) != 0;
  return state.protected_mode() && state.cpl == 3 && state.iopl() < 3 && (state.cr4 & cr4::PVI) != 0;
}

Outcome cli(Core& core, const Op&) {
  cpu::CpuState& state = core.state();
  if (state.cpl <= state.iopl())
    state.rflags &= ~rflags::IF;
  else if (uses_virtual_flag(state))
    state.rflags &= ~rflags::VIF;
  else
    return core.raise(Fault::gp());
  return Outcome::kNext;
}

Outcome sti(Core& core, const Op&) {
  cpu::CpuState& state = core.state();
  if (state.cpl <= state.iopl()) {
    // Interrupts stay off for one more instruction if they were off.
    if (!core.flag(rflags::IF)) state.sti_shadow = true;
    state.rflags |= rflags::IF;
  } else if (uses_virtual_flag(state) && !core.flag(rflags::VIP)) {
    state.rflags |= rflags::VIF;
  } else {
    return core.raise(Fault::gp());
  }
  return Outcome::kEndBlock;
}

// SDM 2A, CLAC and STAC.
template <bool kSet>
Outcome set_ac(Core& core, const Op&) {
  if (core.state().cpl != 0) return core.raise(Fault::ud());
  core.set_flags(rflags::AC, kSet ? rflags::AC : 0);
  core.mode_changed();
  return Outcome::kNext;
}

// SDM 2A, CPUID.
Outcome cpuid(Core& core, const Op&) {
  const cpu::CpuState& state = core.state();
  const CpuidResult result = core.context.model->cpuid({
      .leaf = core.gpr<u32>(kRax),
      .subleaf = core.gpr<u32>(kRcx),
      .apic_id = core.context.index,
      .vcpu_count = core.context.topology.vcpu_count,
      .cr4 = state.cr4,
      .xcr0 = state.xcr0,
      .xss = state.msr.xss,
      .misc_enable = state.msr.misc_enable,
      .apic_enabled = (core.context.apic->base_msr() & apic_base::EN) != 0,
  });
  core.set_gpr<u32>(kRax, result.eax);
  core.set_gpr<u32>(kRbx, result.ebx);
  core.set_gpr<u32>(kRcx, result.ecx);
  core.set_gpr<u32>(kRdx, result.edx);
  return Outcome::kNext;
}

// SDM 2B, RDTSC and RDTSCP.
template <bool kWithAux>
Outcome rdtsc(Core& core, const Op&) {
  const cpu::CpuState& state = core.state();
  if (state.protected_mode() && state.cpl != 0 && (state.cr4 & cr4::TSD) != 0) return core.raise(Fault::gp());
  const u64 tsc = guest_tsc(state);
  core.set_gpr<u32>(kRax, static_cast<u32>(tsc));
  core.set_gpr<u32>(kRdx, static_cast<u32>(tsc >> 32));
  if constexpr (kWithAux) core.set_gpr<u32>(kRcx, static_cast<u32>(state.msr.tsc_aux));
  return Outcome::kNext;
}

// SDM 2B, RDPID.
Outcome rdpid(Core& core, const Op& op) {
  core.set_gpr<u64>(op.insn.operands[0].reg, core.state().msr.tsc_aux);
  return Outcome::kNext;
}

// SDM 2B, RDPMC: there are no performance counters.
Outcome rdpmc(Core& core, const Op&) { return core.raise(Fault::gp()); }

// SDM 2B, RDRAND and RDSEED: CF says that the value is one.
Outcome rdrand(Core& core, const Op& op) {
  u64 value = 0;
  const bool good = ::getrandom(&value, sizeof value, GRND_NONBLOCK) == sizeof value;
  core.set_gpr_sized(op.insn.operands[0].reg, good ? value : 0, op.insn.operands[0].size);
  core.set_flags(rflags::kArithmetic, flag_if(good, rflags::CF));
  return Outcome::kNext;
}

// SDM 2A, INVLPG: the address is not checked and never faults.
Outcome invlpg(Core& core, const Op& op) {
  const cpu::CpuState& state = core.state();
  if (state.cpl != 0) return core.raise(Fault::gp());
  u64 linear = effective_offset(op.insn, state, core.next_rip);
  const auto seg = static_cast<SegmentRegister>(op.insn.mem.segment);
  if (!core.code64() || seg >= kFs) linear += state.seg(seg).base;
  core.mmu.flush_page(Gla(core.code64() ? linear : truncate(linear, 4)));
  return Outcome::kEndBlock;
}

// SDM 2A, INVPCID. All types may forget more than they name, so one flush serves them all.
Outcome invpcid(Core& core, const Op& op) {
  const cpu::CpuState& state = core.state();
  if (state.cpl != 0) return core.raise(Fault::gp());
  const u64 type = truncate(state.gpr[op.insn.operands[0].reg], op.insn.operands[0].size);
  Gla at;
  u64 low = 0;
  u64 linear = 0;
  if (!core.operand_address(op, 16, cpu::AccessKind::kRead, at)) return Outcome::kFault;
  if (!core.mmu.read(at, low) || !core.mmu.read(at + 8, linear)) return core.raise(core.mmu.fault());
  constexpr u64 kIndividual = 0;
  constexpr u64 kSingleContext = 1;
  if (type > 3) return core.raise(Fault::gp());
  if (type <= kSingleContext && (low >> 12) != 0) return core.raise(Fault::gp());
  if (type <= kSingleContext && (low & 0xFFF) != 0 && (state.cr4 & cr4::PCIDE) == 0)
    return core.raise(Fault::gp());
  if (type == kIndividual && !is_canonical(linear, core.context.model->linear_bits()))
    return core.raise(Fault::gp());
  core.mmu.flush();
  return Outcome::kEndBlock;
}

/// INVD, WBINVD: caches are the host's.
Outcome privileged_nop(Core& core, const Op&) {
  return core.state().cpl != 0 ? core.raise(Fault::gp()) : Outcome::kNext;
}

// SDM 2A, CLFLUSH/CLFLUSHOPT/CLWB: a load of one byte, as far as faults go.
Outcome clflush(Core& core, const Op& op) {
  Gla at;
  if (!core.operand_address(op, 1, cpu::AccessKind::kRead, at)) return Outcome::kFault;
  if (!core.mmu.probe(cpu::AccessKind::kRead, core.mmu.privilege(), at, 1))
    return core.raise(core.mmu.fault());
  return Outcome::kNext;
}

/// The segment of an operand that the encoding does not show: DS, or the prefix's.
SegmentRegister implied_segment(const Op& op, bool code64) {
  SegmentRegister seg = kDs;
  for (const u8 byte : op.insn.encoding()) {
    switch (byte) {
      case 0x64: seg = kFs; break;
      case 0x65: seg = kGs; break;
      case 0x26:
      case 0x2E:
      case 0x36:
      case 0x3E:
        if (!code64) seg = byte == 0x26 ? kEs : byte == 0x2E ? kCs : byte == 0x36 ? kSs : kDs;
        break;
      case 0x0F: return seg;
      default: break;
    }
  }
  return seg;
}

// APM 3, CLZERO: clears the cache line of the linear address of rAX.
Outcome clzero(Core& core, const Op& op) {
  constexpr u64 kLine = 64;
  const u64 offset = truncate(core.state().gpr[kRax], op.insn.address_size);
  Gla at;
  if (!core.address_in(implied_segment(op, core.code64()), offset, 1, cpu::AccessKind::kWrite, at))
    return Outcome::kFault;
  at = Gla(at.value() & ~(kLine - 1));
  for (u64 i = 0; i < kLine; i += sizeof(u64))
    if (!core.mmu.write(at + i, u64{0})) return core.raise(core.mmu.fault());
  return Outcome::kNext;
}

// SDM 2B, MONITOR and MWAIT. MWAIT may end for any reason; vert ends it at once, and CPU models do not offer
// it.
Outcome monitor(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  if (state.cpl != 0) return core.raise(Fault::ud());
  if (core.gpr<u32>(kRcx) != 0) return core.raise(Fault::gp());
  const u64 offset = truncate(state.gpr[kRax], op.insn.address_size);
  u8 value = 0;
  if (!core.read_segment(static_cast<SegmentRegister>(op.insn.mem.segment), offset, value))
    return Outcome::kFault;
  state.monitor_line = offset;
  return Outcome::kNext;
}
Outcome mwait(Core& core, const Op&) {
  if (core.state().cpl != 0) return core.raise(Fault::ud());
  if ((core.gpr<u32>(kRcx) & ~1U) != 0) return core.raise(Fault::gp());
  core.state().monitor_line = 0;
  return Outcome::kEndBlock;
}

/// Fences: guest order is host order, and only SFENCE, LFENCE and MFENCE themselves order non-temporal
/// stores.
Outcome fence(Core&, const Op&) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return Outcome::kNext;
}

constexpr std::array kRows = {
    HandlerRow VERT_ANY_SIZE(HLT, hlt),
    HandlerRow VERT_ANY_SIZE(CLI, cli),
    HandlerRow VERT_ANY_SIZE(STI, sti),
    HandlerRow VERT_ANY_SIZE(CLAC, set_ac<false>),
    HandlerRow VERT_ANY_SIZE(STAC, set_ac<true>),
    HandlerRow VERT_ANY_SIZE(CPUID, cpuid),
    HandlerRow VERT_ANY_SIZE(RDTSC, rdtsc<false>),
    HandlerRow VERT_ANY_SIZE(RDTSCP, rdtsc<true>),
    HandlerRow VERT_ANY_SIZE(RDPID, rdpid),
    HandlerRow VERT_ANY_SIZE(RDPMC, rdpmc),
    HandlerRow VERT_ANY_SIZE(RDRAND, rdrand),
    HandlerRow VERT_ANY_SIZE(RDSEED, rdrand),
    HandlerRow VERT_ANY_SIZE(INVLPG, invlpg),
    HandlerRow VERT_ANY_SIZE(INVPCID, invpcid),
    HandlerRow VERT_ANY_SIZE(INVD, privileged_nop),
    HandlerRow VERT_ANY_SIZE(WBINVD, privileged_nop),
    HandlerRow VERT_ANY_SIZE(CLFLUSH, clflush),
    HandlerRow VERT_ANY_SIZE(CLFLUSHOPT, clflush),
    HandlerRow VERT_ANY_SIZE(CLWB, clflush),
    HandlerRow VERT_ANY_SIZE(CLZERO, clzero),
    HandlerRow VERT_ANY_SIZE(CLDEMOTE, nop),
    HandlerRow VERT_ANY_SIZE(MONITOR, monitor),
    HandlerRow VERT_ANY_SIZE(MWAIT, mwait),
    HandlerRow VERT_ANY_SIZE(LFENCE, fence),
    HandlerRow VERT_ANY_SIZE(MFENCE, fence),
    HandlerRow VERT_ANY_SIZE(SFENCE, fence),
    HandlerRow VERT_ANY_SIZE(SERIALIZE, fence),
    HandlerRow VERT_ANY_SIZE(PAUSE, pause),
    HandlerRow VERT_ANY_SIZE(NOP, nop),
    HandlerRow VERT_ANY_SIZE(ENDBR32, nop),
    HandlerRow VERT_ANY_SIZE(ENDBR64, nop),
    HandlerRow VERT_ANY_SIZE(PREFETCH, nop),
    HandlerRow VERT_ANY_SIZE(PREFETCHW, nop),
    HandlerRow VERT_ANY_SIZE(PREFETCHWT1, nop),
    HandlerRow VERT_ANY_SIZE(PREFETCHT0, nop),
    HandlerRow VERT_ANY_SIZE(PREFETCHT1, nop),
    HandlerRow VERT_ANY_SIZE(PREFETCHT2, nop),
    HandlerRow VERT_ANY_SIZE(PREFETCHNTA, nop),
    HandlerRow VERT_ANY_SIZE(UD0, undefined),
    HandlerRow VERT_ANY_SIZE(UD1, undefined),
    HandlerRow VERT_ANY_SIZE(UD2, undefined),
};

}  // namespace

std::span<const HandlerRow> system_handlers() { return kRows; }

}  // namespace vert::interp

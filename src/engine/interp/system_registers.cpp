#include "engine/interp/system_registers.hpp"

#include "cpu/local_apic.hpp"
#include "engine/interp/handlers.hpp"

namespace vert::interp {

using namespace x86;

namespace {

/// CR0 bits that exist.
constexpr u64 kCr0Defined = cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE | cr0::WP | cr0::AM |
                            cr0::NW | cr0::CD | cr0::PG;
/// Bits that change how addresses translate.
constexpr u64 kCr0Paging = cr0::PE | cr0::WP | cr0::PG;
constexpr u64 kCr4Paging =
    cr4::PSE | cr4::PAE | cr4::PGE | cr4::LA57 | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::PKE;
constexpr u64 kCr3NoFlush = u64{1} << 63;

[[nodiscard]] bool uses_pae_paging(u64 cr0_value, u64 cr4_value, u64 efer_value) {
  return (cr0_value & cr0::PG) != 0 && (cr4_value & cr4::PAE) != 0 && (efer_value & efer::LMA) == 0;
}

[[nodiscard]] bool reload_pdptes(Core& core) {
  return cpu::load_pdptes(core.state(), *core.context.memory, core.context.model->paging_limits());
}

/// Turning paging on or off enters or leaves long mode (SDM 3A, 9.8.5).
[[nodiscard]] bool switch_paging(Core& core, bool on) {
  cpu::CpuState& state = core.state();
  if (!on) {
    if (state.code64() || (state.cr4 & cr4::PCIDE) != 0) return false;
    state.efer &= ~efer::LMA;
    return true;
  }
  if ((state.efer & efer::LME) == 0) return true;
  if ((state.cr4 & cr4::PAE) == 0 || state.seg(kCs).is_long()) return false;
  state.efer |= efer::LMA;
  return true;
}

}  // namespace

cpu::MaybeFault write_cr0(Core& core, u64 value) {
  cpu::CpuState& state = core.state();
  if ((value >> 32) != 0) return Fault::gp();
  if ((value & cr0::PG) != 0 && (value & cr0::PE) == 0) return Fault::gp();
  if ((value & cr0::NW) != 0 && (value & cr0::CD) == 0) return Fault::gp();
  value = (value & kCr0Defined) | cr0::ET;
  const u64 changed = value ^ state.cr0;
  const u64 old_cr0 = state.cr0;
  const u64 old_efer = state.efer;
  if ((changed & cr0::PG) != 0 && !switch_paging(core, (value & cr0::PG) != 0)) return Fault::gp();
  state.cr0 = value;
  if ((changed & cr0::PG) != 0 && uses_pae_paging(value, state.cr4, state.efer) && !reload_pdptes(core)) {
    state.cr0 = old_cr0;
    state.efer = old_efer;
    return Fault::gp();
  }
  if ((changed & kCr0Paging) != 0) core.mmu.flush();
  core.mode_changed();
  return std::nullopt;
}

namespace {

[[nodiscard]] cpu::MaybeFault write_cr3(Core& core, u64 value) {
  cpu::CpuState& state = core.state();
  if (state.long_mode()) {
    if ((state.cr4 & cr4::PCIDE) != 0) value &= ~kCr3NoFlush;
    if ((value >> core.context.model->physical_bits()) != 0) return Fault::gp();
  } else {
    value &= 0xFFFFFFFF;
  }
  const u64 old = state.cr3;
  state.cr3 = value;
  if (uses_pae_paging(state.cr0, state.cr4, state.efer) && !reload_pdptes(core)) {
    state.cr3 = old;
    return Fault::gp();
  }
  // The soft TLB holds one address space, without PCIDs: forgetting more than asked for is allowed.
  core.mmu.flush();
  return std::nullopt;
}

[[nodiscard]] cpu::MaybeFault write_cr4(Core& core, u64 value) {
  cpu::CpuState& state = core.state();
  if ((value & ~core.context.model->cr4_allowed()) != 0) return Fault::gp();
  const u64 changed = value ^ state.cr4;
  if (state.long_mode() && (((value & cr4::PAE) == 0) || (changed & cr4::LA57) != 0)) return Fault::gp();
  if ((changed & value & cr4::PCIDE) != 0 && (!state.long_mode() || (state.cr3 & 0xFFF) != 0))
    return Fault::gp();
  const u64 old = state.cr4;
  state.cr4 = value;
  if ((changed & (cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP)) != 0 &&
      uses_pae_paging(state.cr0, state.cr4, state.efer) && !reload_pdptes(core)) {
    state.cr4 = old;
    return Fault::gp();
  }
  if ((changed & kCr4Paging) != 0) core.mmu.flush();
  core.mode_changed();
  return std::nullopt;
}

[[nodiscard]] cpu::MaybeFault write_cr8(Core& core, u64 value) {
  if (value > 15) return Fault::gp();
  core.context.apic->set_cr8(static_cast<u8>(value));
  return std::nullopt;
}

Outcome write_control(Core& core, u8 number, u64 value) {
  cpu::MaybeFault raised;
  switch (number) {
    case 0: raised = write_cr0(core, value); break;
    case 2: core.state().cr2 = value; break;
    case 3: raised = write_cr3(core, value); break;
    case 4: raised = write_cr4(core, value); break;
    case 8: raised = write_cr8(core, value); break;
    default: raised = Fault::ud(); break;
  }
  return core.raise(raised, Outcome::kEndBlock);
}

Outcome read_control(Core& core, const Op& op, u8 number) {
  const cpu::CpuState& state = core.state();
  u64 value = 0;
  switch (number) {
    case 0: value = state.cr0; break;
    case 2: value = state.cr2; break;
    case 3: value = state.cr3; break;
    case 4: value = state.cr4; break;
    case 8: value = core.context.apic->cr8(); break;
    default: return core.raise(Fault::ud());
  }
  core.set_gpr_sized(op.insn.operands[0].reg, value, op.insn.operands[0].size);
  return Outcome::kNext;
}

/// The number of the debug register in force: DR4 and DR5 are DR6 and DR7 unless CR4.DE forbids them.
[[nodiscard]] std::optional<u8> debug_number(const cpu::CpuState& state, u8 number) {
  if (number > 7) return std::nullopt;
  if (number != 4 && number != 5) return number;
  if ((state.cr4 & cr4::DE) != 0) return std::nullopt;
  return static_cast<u8>(number + 2);
}

}  // namespace

Outcome mov_control(Core& core, const Op& op) {
  if (core.state().cpl != 0) return core.raise(Fault::gp());
  if (op.insn.operands[0].kind == OperandKind::kControl) {
    const u8 source = op.insn.operands[1].reg;
    return write_control(core, op.insn.operands[0].reg,
                         truncate(core.state().gpr[source], op.insn.operands[1].size));
  }
  return read_control(core, op, op.insn.operands[1].reg);
}

Outcome mov_debug(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  const bool writes = op.insn.operands[0].kind == OperandKind::kDebug;
  const auto number = debug_number(state, op.insn.operands[writes ? 0 : 1].reg);
  if (!number) return core.raise(Fault::ud());
  if (state.cpl != 0) return core.raise(Fault::gp());
  if ((state.dr7 & dr7::GD) != 0) return core.raise(Fault::db(dr6::BD));
  if (!writes) {
    const u64 value = *number < 4 ? state.dr[*number] : *number == 6 ? state.dr6 : state.dr7;
    core.set_gpr_sized(op.insn.operands[0].reg, value, op.insn.operands[0].size);
    return Outcome::kNext;
  }
  const u64 value = truncate(state.gpr[op.insn.operands[1].reg], op.insn.operands[1].size);
  if (*number < 4) {
    state.dr[*number] = value;
  } else {
    if ((value >> 32) != 0) return core.raise(Fault::gp());
    // DR6: B0-B3, BD, BS, BT are writable; DR7: all but its reserved bits (SDM 3B, 17.2.3 and 17.2.4).
    constexpr u64 kDr6Writable = dr6::kBreakpoints | dr6::BD | dr6::BS | dr6::BT;
    constexpr u64 kDr7Writable = 0xFFFF23FF;
    if (*number == 6)
      state.dr6 = (value & kDr6Writable) | dr6::kFixed1;
    else
      state.dr7 = (value & kDr7Writable) | dr7::kFixed1;
  }
  core.breakpoints_changed();
  return Outcome::kEndBlock;
}

namespace {

// SDM 2A, LMSW: PE can be set but not cleared.
Outcome lmsw(Core& core, const Op& op) {
  u16 value = 0;
  if (core.state().cpl != 0) return core.raise(Fault::gp());
  if (!core.load(op, 0, value)) return Outcome::kFault;
  const u64 old = core.state().cr0;
  constexpr u64 kLoaded = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
  return core.raise(write_cr0(core, (old & ~(kLoaded & ~cr0::PE)) | (value & kLoaded)), Outcome::kEndBlock);
}

// SDM 2B, SMSW.
Outcome smsw(Core& core, const Op& op) {
  if (umip_forbids(core.state())) return core.raise(Fault::gp());
  if (op.insn.operands[0].kind == OperandKind::kMemory)
    return core.store_memory(op, static_cast<u16>(core.state().cr0)) ? Outcome::kNext : Outcome::kFault;
  core.set_gpr_sized(op.insn.operands[0].reg, core.state().cr0, op.insn.operands[0].size);
  return Outcome::kNext;
}

// SDM 2A, CLTS.
Outcome clts(Core& core, const Op&) {
  if (core.state().cpl != 0) return core.raise(Fault::gp());
  core.state().cr0 &= ~cr0::TS;
  return Outcome::kNext;
}

[[nodiscard]] u32 msr_index(const Core& core) { return core.gpr<u32>(kRcx); }

// SDM 2B, RDMSR.
Outcome rdmsr(Core& core, const Op&) {
  if (core.state().cpl != 0) return core.raise(Fault::gp());
  const auto value = read_msr(core, msr_index(core));
  if (!value) return core.raise(Fault::gp());
  core.set_gpr<u32>(kRax, static_cast<u32>(*value));
  core.set_gpr<u32>(kRdx, static_cast<u32>(*value >> 32));
  return Outcome::kNext;
}

// SDM 2D, WRMSR.
Outcome wrmsr(Core& core, const Op&) {
  if (core.state().cpl != 0) return core.raise(Fault::gp());
  const u64 value = u64{core.gpr<u32>(kRdx)} << 32 | core.gpr<u32>(kRax);
  if (!write_msr(core, msr_index(core), value)) return core.raise(Fault::gp());
  core.mode_changed();
  return Outcome::kEndBlock;
}

// SDM 2B, RDFSBASE and its kin.
template <SegmentRegister kSegment>
Outcome read_base(Core& core, const Op& op) {
  if (!core.code64() || (core.state().cr4 & cr4::FSGSBASE) == 0) return core.raise(Fault::ud());
  core.set_gpr_sized(op.insn.operands[0].reg, core.state().seg(kSegment).base, op.insn.operands[0].size);
  return Outcome::kNext;
}
template <SegmentRegister kSegment>
Outcome write_base(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  if (!core.code64() || (state.cr4 & cr4::FSGSBASE) == 0) return core.raise(Fault::ud());
  const u64 base = truncate(state.gpr[op.insn.operands[0].reg], op.insn.operands[0].size);
  if (!is_canonical(base, core.context.model->linear_bits())) return core.raise(Fault::gp());
  state.seg(kSegment).base = base;
  return Outcome::kNext;
}

// SDM 2B, SWAPGS.
Outcome swapgs(Core& core, const Op&) {
  cpu::CpuState& state = core.state();
  if (!core.code64()) return core.raise(Fault::ud());
  if (state.cpl != 0) return core.raise(Fault::gp());
  std::swap(state.seg(kGs).base, state.msr.kernel_gs_base);
  return Outcome::kNext;
}

constexpr std::array kRows = {
    HandlerRow VERT_ANY_SIZE(LMSW, lmsw),
    HandlerRow VERT_ANY_SIZE(SMSW, smsw),
    HandlerRow VERT_ANY_SIZE(CLTS, clts),
    HandlerRow VERT_ANY_SIZE(RDMSR, rdmsr),
    HandlerRow VERT_ANY_SIZE(WRMSR, wrmsr),
    HandlerRow VERT_ANY_SIZE(RDFSBASE, read_base<kFs>),
    HandlerRow VERT_ANY_SIZE(RDGSBASE, read_base<kGs>),
    HandlerRow VERT_ANY_SIZE(WRFSBASE, write_base<kFs>),
    HandlerRow VERT_ANY_SIZE(WRGSBASE, write_base<kGs>),
    HandlerRow VERT_ANY_SIZE(SWAPGS, swapgs),
};

}  // namespace

std::span<const HandlerRow> register_handlers() { return kRows; }

}  // namespace vert::interp

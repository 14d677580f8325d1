// Model-specific registers (SDM 4, chapter 2).
#include <immintrin.h>

#include <algorithm>
#include <bitset>
#include <mutex>

#include "base/log.hpp"
#include "cpu/local_apic.hpp"
#include "engine/interp/kvm_clock.hpp"
#include "engine/interp/system_registers.hpp"

namespace vert::interp {

using namespace x86;

u64 guest_tsc(const cpu::CpuState& state) { return __rdtsc() + state.tsc_offset; }

namespace {

constexpr u32 number(Msr msr) { return static_cast<u32>(msr); }

/// Fixed-range MTRRs in the order that MsrState keeps them, or nothing.
[[nodiscard]] std::optional<unsigned> fixed_mtrr(u32 index) {
  if (index == number(Msr::IA32_MTRR_FIX64K_00000)) return 0;
  if (index == number(Msr::IA32_MTRR_FIX16K_80000)) return 1;
  if (index == number(Msr::IA32_MTRR_FIX16K_A0000)) return 2;
  if (index >= number(Msr::IA32_MTRR_FIX4K_C0000) && index <= number(Msr::IA32_MTRR_FIX4K_F8000))
    return index - number(Msr::IA32_MTRR_FIX4K_C0000) + 3;
  return std::nullopt;
}
[[nodiscard]] std::optional<unsigned> variable_mtrr(const cpu::CpuState& state, u32 index) {
  const u32 offset = index - number(Msr::IA32_MTRR_PHYSBASE0);
  return offset < state.msr.mtrr_variable.size() ? std::optional<unsigned>(offset) : std::nullopt;
}

/// Memory types that PAT and MTRRs may name: UC, WC, WT, WP, WB, and UC- in the PAT only.
[[nodiscard]] bool valid_memory_type(u8 type, bool in_pat) {
  return type == 0 || type == 1 || (type >= 4 && type <= 6) || (in_pat && type == 7);
}
[[nodiscard]] bool all_valid_types(u64 value, bool in_pat) {
  for (unsigned i = 0; i < 8; ++i) {
    if (!valid_memory_type(static_cast<u8>(value >> (i * 8)), in_pat)) return false;
  }
  return true;
}

/// Where an MSR is no more than a value: where it is kept.
[[nodiscard]] u64* plain_value(cpu::CpuState& state, u32 index) {
  if (const auto i = fixed_mtrr(index)) return &state.msr.mtrr_fixed[*i];
  if (const auto i = variable_mtrr(state, index)) return &state.msr.mtrr_variable[*i];
  switch (static_cast<Msr>(index)) {
    case Msr::IA32_SYSENTER_CS: return &state.msr.sysenter_cs;
    case Msr::IA32_SYSENTER_ESP: return &state.msr.sysenter_esp;
    case Msr::IA32_SYSENTER_EIP: return &state.msr.sysenter_eip;
    case Msr::IA32_STAR: return &state.msr.star;
    case Msr::IA32_LSTAR: return &state.msr.lstar;
    case Msr::IA32_CSTAR: return &state.msr.cstar;
    case Msr::IA32_FMASK: return &state.msr.fmask;
    case Msr::IA32_KERNEL_GS_BASE: return &state.msr.kernel_gs_base;
    case Msr::IA32_TSC_AUX: return &state.msr.tsc_aux;
    case Msr::IA32_TSC_ADJUST: return &state.msr.tsc_adjust;
    case Msr::IA32_PAT: return &state.msr.pat;
    case Msr::IA32_MISC_ENABLE: return &state.msr.misc_enable;
    case Msr::IA32_SPEC_CTRL: return &state.msr.spec_ctrl;
    case Msr::IA32_DEBUGCTL: return &state.msr.debugctl;
    case Msr::IA32_MCG_STATUS: return &state.msr.mcg_status;
    case Msr::IA32_XSS: return &state.msr.xss;
    case Msr::KVM_SYSTEM_TIME_NEW: return &state.msr.kvm_system_time;
    case Msr::KVM_WALL_CLOCK_NEW: return &state.msr.kvm_wall_clock;
    case Msr::IA32_MTRR_DEF_TYPE: return &state.msr.mtrr_def_type;
    case Msr::IA32_FS_BASE: return &state.seg(kFs).base;
    case Msr::IA32_GS_BASE: return &state.seg(kGs).base;
    case Msr::IA32_EFER: return &state.efer;
    default: return nullptr;
  }
}

/// AMD's MSRs that kernels read and write though no CPUID bit tells of them: they configure what vert does
/// not have, so writes have no effect. Nothing if `index` is none of them.
[[nodiscard]] std::optional<u64> fixed_on_amd(u32 index) {
  constexpr u64 kTscFrequencyIsThatOfP0 = u64{1} << 24;
  constexpr u64 kLfenceSerializes = u64{1} << 1;
  switch (static_cast<Msr>(index)) {
    case Msr::AMD_HWCR: return kTscFrequencyIsThatOfP0;
    case Msr::AMD_DE_CFG: return kLfenceSerializes;
    case Msr::AMD_SYSCFG:
    case Msr::AMD_NB_CFG:
    case Msr::AMD_PATCH_LOADER: return 0;
    default: return std::nullopt;
  }
}

/// MSRs of Intel's processors only.
[[nodiscard]] bool only_on_intel(u32 index) {
  switch (static_cast<Msr>(index)) {
    case Msr::IA32_PLATFORM_ID:
    case Msr::IA32_FEATURE_CONTROL:
    case Msr::IA32_BIOS_UPDT_TRIG:
    case Msr::IA32_MISC_ENABLE: return true;
    default: return false;
  }
}

/// Features that an MSR exists with.
[[nodiscard]] bool exists(const CpuModel& model, const cpu::CpuState& state, u32 index) {
  if (fixed_mtrr(index) || variable_mtrr(state, index)) return model.has(Feature::MTRR);
  if (model.vendor() == Vendor::kAmd ? only_on_intel(index) : fixed_on_amd(index).has_value()) return false;
  switch (static_cast<Msr>(index)) {
    case Msr::IA32_MTRRCAP:
    case Msr::IA32_MTRR_DEF_TYPE: return model.has(Feature::MTRR);
    case Msr::IA32_MCG_CAP:
    case Msr::IA32_MCG_STATUS: return model.has(Feature::MCA);
    case Msr::IA32_PAT: return model.has(Feature::PAT);
    case Msr::IA32_TSC: return model.has(Feature::TSC);
    case Msr::IA32_SYSENTER_CS:
    case Msr::IA32_SYSENTER_ESP:
    case Msr::IA32_SYSENTER_EIP: return model.has(Feature::SEP);
    case Msr::IA32_STAR:
    case Msr::IA32_LSTAR:
    case Msr::IA32_CSTAR:
    case Msr::IA32_FMASK: return model.has(Feature::SYSCALL);
    case Msr::IA32_FS_BASE:
    case Msr::IA32_GS_BASE:
    case Msr::IA32_KERNEL_GS_BASE: return model.has(Feature::LM);
    case Msr::IA32_EFER: return model.efer_allowed() != 0;
    case Msr::IA32_SPEC_CTRL: return model.has(Feature::SPEC_CTRL);
    case Msr::IA32_PRED_CMD: return model.has(Feature::SPEC_CTRL) || model.has(Feature::IBPB);
    case Msr::IA32_FLUSH_CMD: return false;  // not offered
    case Msr::IA32_ARCH_CAPABILITIES: return model.has(Feature::ARCH_CAPABILITIES);
    case Msr::IA32_APIC_BASE: return model.has(Feature::APIC);
    case Msr::IA32_XSS: return model.has(Feature::XSAVES);
    case Msr::IA32_TSC_AUX: return model.has(Feature::RDTSCP) || model.has(Feature::RDPID);
    case Msr::IA32_TSC_ADJUST: return model.has(Feature::TSC_ADJUST);
    case Msr::IA32_TSC_DEADLINE: return model.has(Feature::TSC_DEADLINE);
    default: return true;
  }
}

/// Says once for each of the first unknown MSRs that a guest touched it; more would let it flood the log.
void log_unknown(u32 index, const char* how) {
  static std::mutex mutex;
  static std::array<u32, 64> seen{};
  static std::size_t count = 0;
  const std::scoped_lock lock(mutex);
  if (count == seen.size() || std::find(seen.begin(), seen.begin() + count, index) != seen.begin() + count)
    return;
  seen[count++] = index;
  base::log(base::LogLevel::kInfo, "the guest {} the unknown MSR {:#x}: #GP", how, index);
}

[[nodiscard]] bool write_efer(Core& core, u64 value) {
  cpu::CpuState& state = core.state();
  if ((value & ~core.context.model->efer_allowed()) != 0) return false;
  if ((state.cr0 & cr0::PG) != 0 && ((value ^ state.efer) & efer::LME) != 0) return false;
  state.efer = (value & ~efer::LMA) | (state.efer & efer::LMA);
  core.mmu.flush();
  return true;
}

/// A write to the TSC moves the adjustment by the same amount, and the other way round (SDM 3B, 17.17.3).
void move_tsc(Core& core, u64 delta) {
  cpu::CpuState& state = core.state();
  state.tsc_offset += delta;
  state.msr.tsc_adjust += delta;
  write_kvm_clock(core);
  // An armed deadline is one of the guest's counter, which has moved against the host's.
  if (const u64 deadline = core.context.apic->tsc_deadline(); deadline != 0)
    core.context.apic->set_tsc_deadline(deadline, state.tsc_offset);
}

[[nodiscard]] bool write_variable_mtrr(Core& core, unsigned i, u64 value) {
  const u64 reserved = ~u64{0} << core.context.model->physical_bits();
  const bool is_base = i % 2 == 0;
  if ((value & reserved) != 0) return false;
  if (is_base ? (value & 0xF00) != 0 || !valid_memory_type(static_cast<u8>(value), false)
              : (value & 0x7FF) != 0)
    return false;
  core.state().msr.mtrr_variable[i] = value;
  return true;
}

/// Values that a plain MSR refuses (SDM 4, table 2-2).
[[nodiscard]] bool acceptable(Core& core, u32 index, u64 value) {
  const unsigned width = core.context.model->linear_bits();
  if (fixed_mtrr(index)) return all_valid_types(value, false);
  switch (static_cast<Msr>(index)) {
    case Msr::IA32_SYSENTER_ESP:
    case Msr::IA32_SYSENTER_EIP:
    case Msr::IA32_LSTAR:
    case Msr::IA32_CSTAR:
    case Msr::IA32_KERNEL_GS_BASE:
    case Msr::IA32_FS_BASE:
    case Msr::IA32_GS_BASE: return is_canonical(value, width);
    case Msr::IA32_FMASK:
    case Msr::IA32_TSC_AUX: return (value >> 32) == 0;
    case Msr::IA32_PAT: return all_valid_types(value, true);
    case Msr::IA32_SPEC_CTRL: {
      constexpr u64 kIbrsStibpSsbd = 7;
      constexpr u64 kBhiDisS = 1U << 10;
      return (value & ~(kIbrsStibpSsbd | (core.context.model->has(Feature::BHI_CTRL) ? kBhiDisS : 0))) == 0;
    }
    case Msr::IA32_XSS: return value == 0;
    case Msr::IA32_MTRR_DEF_TYPE:
      return (value & ~u64{0xCFF}) == 0 && valid_memory_type(static_cast<u8>(value), false);
    default: return true;
  }
}

}  // namespace

std::optional<u64> read_msr(Core& core, u32 index) {
  cpu::CpuState& state = core.state();
  if (!exists(*core.context.model, state, index)) return std::nullopt;
  if (index >= number(Msr::IA32_X2APIC_FIRST) && index <= number(Msr::IA32_X2APIC_LAST))
    return core.context.apic->msr_read(index);
  if (const u64* value = plain_value(state, index)) return *value;
  if (const auto fixed = fixed_on_amd(index)) return *fixed;
  constexpr u64 kMtrrCapabilities = 0x508;  // eight variable ranges, fixed ones, write-combining
  switch (static_cast<Msr>(index)) {
    case Msr::IA32_TSC: return guest_tsc(state);
    case Msr::IA32_APIC_BASE: return core.context.apic->base_msr();
    case Msr::IA32_FEATURE_CONTROL: return state.msr.feature_control;
    case Msr::IA32_PLATFORM_ID: return 0;
    case Msr::IA32_BIOS_SIGN_ID: return core.context.model->identity().microcode_revision();
    case Msr::IA32_MTRRCAP: return kMtrrCapabilities;
    case Msr::IA32_MCG_CAP: return 0;  // no banks
    case Msr::IA32_ARCH_CAPABILITIES: return core.context.model->arch_capabilities();
    case Msr::IA32_TSC_DEADLINE: return core.context.apic->tsc_deadline();
    default: log_unknown(index, "read"); return std::nullopt;
  }
}

bool write_msr(Core& core, u32 index, u64 value) {
  cpu::CpuState& state = core.state();
  if (!exists(*core.context.model, state, index)) return false;
  if (index >= number(Msr::IA32_X2APIC_FIRST) && index <= number(Msr::IA32_X2APIC_LAST))
    return core.context.apic->msr_write(index, value);
  if (const auto i = variable_mtrr(state, index)) return write_variable_mtrr(core, *i, value);
  if (fixed_on_amd(index)) return true;
  switch (static_cast<Msr>(index)) {
    case Msr::IA32_EFER: return write_efer(core, value);
    case Msr::IA32_TSC: move_tsc(core, value - guest_tsc(state)); return true;
    case Msr::IA32_TSC_ADJUST: move_tsc(core, value - state.msr.tsc_adjust); return true;
    case Msr::IA32_APIC_BASE: {
      if ((value & apic_base::EXTD) != 0 && !core.context.model->has(Feature::X2APIC)) return false;
      const bool accepted = core.context.apic->set_base_msr(value);
      core.mmu.flush();  // the register page may have moved
      return accepted;
    }
    case Msr::IA32_FEATURE_CONTROL:
      if ((state.msr.feature_control & 1) != 0) return false;  // locked
      state.msr.feature_control = value;
      return true;
    case Msr::IA32_PRED_CMD: return (value & ~u64{1}) == 0;
    case Msr::IA32_BIOS_SIGN_ID:
    case Msr::IA32_BIOS_UPDT_TRIG: return true;
    case Msr::IA32_TSC_DEADLINE: core.context.apic->set_tsc_deadline(value, state.tsc_offset); return true;
    default: break;
  }
  u64* plain = plain_value(state, index);
  if (plain == nullptr) {
    log_unknown(index, "wrote");
    return false;
  }
  if (!acceptable(core, index, value)) return false;
  *plain = value;
  if (index == number(Msr::KVM_SYSTEM_TIME_NEW)) write_kvm_clock(core);
  if (index == number(Msr::KVM_WALL_CLOCK_NEW)) write_kvm_wall_clock(core);
  return true;
}

}  // namespace vert::interp

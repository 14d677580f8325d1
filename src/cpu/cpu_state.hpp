// CpuState: the whole architectural state of one vCPU, canonical whenever no engine is running it.
//
// Owned by the vCPU's thread (machine/vcpu). An engine may keep state in any form while it runs, and puts it
// back here, precise, before it returns. Engine switching, snapshots, migration, gdb and differential tests
// all rest on that. The local APIC is a device with a state of its own (cpu/local_apic.hpp).
#pragma once

#include <array>

#include "base/error.hpp"
#include "base/types.hpp"
#include "x86/registers.hpp"
#include "x86/segment.hpp"

namespace vert::x86 {
class CpuModel;
}

namespace vert::cpu {

/// x87, SSE, AVX, AVX-512 and PKRU. Register contents are little-endian bytes as XSAVE stores them.
struct alignas(64) FpuState {
  std::array<std::array<u8, 64>, 32> zmm{};  // XMM and YMM are their low 16 and 32 bytes
  std::array<u64, 8> k{};
  std::array<std::array<u8, 16>, 8> st{};  // ST(0)..ST(7), as FXSAVE: 80 bits, then zeroes
  u16 fcw = 0x0040;                        // power-up value (SDM 3A, table 9-1); FNINIT makes it 0x37F
  u16 fsw = 0;
  u8 ftw = 0;  // abridged, as FXSAVE: bit i set if physical register i is not empty
  u16 fop = 0;
  u64 fip = 0;
  u64 fdp = 0;
  u16 fcs = 0;
  u16 fds = 0;
  u32 mxcsr = 0x1F80;
  u32 pkru = 0;

  template <typename Archive>
  void fields(Archive& a) {
    a("zmm", zmm);
    a("k", k);
    a("st", st);
    a("fcw", fcw);
    a("fsw", fsw);
    a("ftw", ftw);
    a("fop", fop);
    a("fip", fip);
    a("fdp", fdp);
    a("fcs", fcs);
    a("fds", fds);
    a("mxcsr", mxcsr);
    a("pkru", pkru);
  }
  bool operator==(const FpuState&) const = default;
};

/// MSRs that hold plain values. Those with registers of their own (EFER, segment bases, APIC) are not here.
struct MsrState {
  u64 star = 0;
  u64 lstar = 0;
  u64 cstar = 0;
  u64 fmask = 0;
  u64 kernel_gs_base = 0;
  u64 sysenter_cs = 0;
  u64 sysenter_esp = 0;
  u64 sysenter_eip = 0;
  u64 tsc_aux = 0;
  u64 tsc_adjust = 0;
  u64 pat = 0x0007'0406'0007'0406;
  u64 misc_enable = 1;  // fast strings
  u64 feature_control = 0;
  u64 spec_ctrl = 0;
  u64 debugctl = 0;
  u64 mcg_status = 0;
  u64 xss = 0;
  u64 kvm_system_time = 0;
  u64 kvm_wall_clock = 0;
  u64 mtrr_def_type = 0;
  std::array<u64, 11> mtrr_fixed{};
  std::array<u64, 16> mtrr_variable{};  // eight base and mask pairs

  template <typename Archive>
  void fields(Archive& a) {
    a("star", star);
    a("lstar", lstar);
    a("cstar", cstar);
    a("fmask", fmask);
    a("kernel_gs_base", kernel_gs_base);
    a("sysenter_cs", sysenter_cs);
    a("sysenter_esp", sysenter_esp);
    a("sysenter_eip", sysenter_eip);
    a("tsc_aux", tsc_aux);
    a("tsc_adjust", tsc_adjust);
    a("pat", pat);
    a("misc_enable", misc_enable);
    a("feature_control", feature_control);
    a("spec_ctrl", spec_ctrl);
    a("debugctl", debugctl);
    a("mcg_status", mcg_status);
    a("xss", xss);
    a("kvm_system_time", kvm_system_time);
    a("kvm_wall_clock", kvm_wall_clock);
    a("mtrr_def_type", mtrr_def_type);
    a("mtrr_fixed", mtrr_fixed);
    a("mtrr_variable", mtrr_variable);
  }
  bool operator==(const MsrState&) const = default;
};

/// What the vCPU is doing between instructions (SDM 3A, 8.4 and 8.10).
enum class Activity : u8 {
  kRunning,
  kHalted,       // HLT or MWAIT: until an interrupt, NMI, INIT or reset
  kWaitForSipi,  // after INIT on an application processor
  kShutdown,     // triple fault: until INIT or reset
};

struct CpuState {
  std::array<u64, x86::kGprCount> gpr{};
  u64 rip = 0;
  u64 rflags = x86::rflags::kFixed1;
  std::array<x86::Segment, x86::kSegmentCount> segment;
  x86::Segment ldtr;
  x86::Segment tr;
  x86::DescriptorTable gdtr;
  x86::DescriptorTable idtr;
  /// Current privilege level; equals SS.DPL but in real mode (0) and virtual-8086 mode (3).
  u8 cpl = 0;
  u64 cr0 = 0;
  u64 cr2 = 0;
  u64 cr3 = 0;
  u64 cr4 = 0;
  u64 xcr0 = x86::xcr0::X87;
  u64 efer = 0;
  std::array<u64, 4> dr{};
  u64 dr6 = x86::dr6::kFixed1;
  u64 dr7 = x86::dr7::kFixed1;
  MsrState msr;
  FpuState fpu;
  /// The guest's TSC is the host's plus this, modulo 2^64.
  u64 tsc_offset = 0;

  Activity activity = Activity::kRunning;
  /// STI, MOV SS and POP SS hold interrupts (and, the latter two, debug traps) off for one instruction.
  bool sti_shadow = false;
  bool mov_ss_shadow = false;
  /// From the delivery of an NMI until the next IRET.
  bool nmi_blocked = false;
  /// PAE paging keeps its four top entries from the last load of CR3 (SDM 3A, 4.4.1).
  std::array<u64, 4> pdpte{};
  /// MONITOR's armed physical line address, or 0.
  u64 monitor_line = 0;

  [[nodiscard]] x86::Segment& seg(x86::SegmentRegister r) { return segment[r]; }
  [[nodiscard]] const x86::Segment& seg(x86::SegmentRegister r) const { return segment[r]; }
  [[nodiscard]] bool protected_mode() const { return (cr0 & x86::cr0::PE) != 0; }
  [[nodiscard]] bool v86() const { return (rflags & x86::rflags::VM) != 0; }
  /// Real or virtual-8086 mode: segments are bases, not descriptors.
  [[nodiscard]] bool real_addressing() const { return !protected_mode() || v86(); }
  [[nodiscard]] bool long_mode() const { return (efer & x86::efer::LMA) != 0; }
  /// 64-bit mode proper: long mode with CS.L.
  [[nodiscard]] bool code64() const { return long_mode() && segment[x86::kCs].is_long(); }
  [[nodiscard]] u8 iopl() const {
    return static_cast<u8>((rflags & x86::rflags::IOPL) >> x86::rflags::kIoplShift);
  }
  /// Width of a canonical linear address.
  [[nodiscard]] unsigned linear_bits() const { return (cr4 & x86::cr4::LA57) != 0 ? 57 : 48; }

  template <typename Archive>
  void fields(Archive& a) {
    a("gpr", gpr);
    a("rip", rip);
    a("rflags", rflags);
    a("segment", segment);
    a("ldtr", ldtr);
    a("tr", tr);
    a("gdtr", gdtr);
    a("idtr", idtr);
    a("cpl", cpl);
    a("cr0", cr0);
    a("cr2", cr2);
    a("cr3", cr3);
    a("cr4", cr4);
    a("xcr0", xcr0);
    a("efer", efer);
    a("dr", dr);
    a("dr6", dr6);
    a("dr7", dr7);
    a("msr", msr);
    a("fpu", fpu);
    a("tsc_offset", tsc_offset);
    a("activity", activity);
    a("sti_shadow", sti_shadow);
    a("mov_ss_shadow", mov_ss_shadow);
    a("nmi_blocked", nmi_blocked);
    a("pdpte", pdpte);
    a("monitor_line", monitor_line);
  }
  bool operator==(const CpuState&) const = default;
};

/// The state after power-up or RESET (SDM 3A, 9.1.1 and table 9-1): real mode at FFFFFFF0h. tsc_offset is
/// left to the caller, as it belongs to the whole machine.
void reset(CpuState& state, const x86::CpuModel& model);
/// The state after INIT: as reset(), but the FPU, most MSRs, CR0.CD/NW and the TSC keep their values.
void init(CpuState& state, const x86::CpuModel& model);
/// Starts an application processor at vector * 4096 (SDM 3A, 8.4.3).
void start_up(CpuState& state, u8 vector);

/// Whether a processor of this model can be in this state, as far as engines rely on it. For states from
/// outside (snapshots, migration, gdb).
[[nodiscard]] Status check(const CpuState& state, const x86::CpuModel& model);

}  // namespace vert::cpu

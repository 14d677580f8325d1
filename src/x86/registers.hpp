// The architectural registers' names and bits, in the spelling of the Intel SDM.
#pragma once

#include "base/types.hpp"

namespace vert::x86 {

/// General registers in encoding order (SDM 2A, 2.1.5).
enum Gpr : u8 {
  kRax,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kR8,
  kR9,
  kR10,
  kR11,
  kR12,
  kR13,
  kR14,
  kR15
};
inline constexpr unsigned kGprCount = 16;

/// Segment registers in encoding order.
enum SegmentRegister : u8 { kEs, kCs, kSs, kDs, kFs, kGs };
inline constexpr unsigned kSegmentCount = 6;

/// RFLAGS (SDM 1, 3.4.3).
namespace rflags {
inline constexpr u64 CF = 1U << 0;
inline constexpr u64 kFixed1 = 1U << 1;
inline constexpr u64 PF = 1U << 2;
inline constexpr u64 AF = 1U << 4;
inline constexpr u64 ZF = 1U << 6;
inline constexpr u64 SF = 1U << 7;
inline constexpr u64 TF = 1U << 8;
inline constexpr u64 IF = 1U << 9;
inline constexpr u64 DF = 1U << 10;
inline constexpr u64 OF = 1U << 11;
inline constexpr u64 IOPL = 3U << 12;
inline constexpr unsigned kIoplShift = 12;
inline constexpr u64 NT = 1U << 14;
inline constexpr u64 RF = 1U << 16;
inline constexpr u64 VM = 1U << 17;
inline constexpr u64 AC = 1U << 18;
inline constexpr u64 VIF = 1U << 19;
inline constexpr u64 VIP = 1U << 20;
inline constexpr u64 ID = 1U << 21;
inline constexpr u64 kArithmetic = CF | PF | AF | ZF | SF | OF;
/// All that exist; every other bit but kFixed1 reads as 0.
inline constexpr u64 kDefined = 0x3F7FD5;
}  // namespace rflags

/// CR0 (SDM 3A, 2.5).
namespace cr0 {
inline constexpr u64 PE = 1U << 0;
inline constexpr u64 MP = 1U << 1;
inline constexpr u64 EM = 1U << 2;
inline constexpr u64 TS = 1U << 3;
inline constexpr u64 ET = 1U << 4;
inline constexpr u64 NE = 1U << 5;
inline constexpr u64 WP = 1U << 16;
inline constexpr u64 AM = 1U << 18;
inline constexpr u64 NW = 1U << 29;
inline constexpr u64 CD = 1U << 30;
inline constexpr u64 PG = 1U << 31;
}  // namespace cr0

/// CR4 (SDM 3A, 2.5).
namespace cr4 {
inline constexpr u64 VME = 1U << 0;
inline constexpr u64 PVI = 1U << 1;
inline constexpr u64 TSD = 1U << 2;
inline constexpr u64 DE = 1U << 3;
inline constexpr u64 PSE = 1U << 4;
inline constexpr u64 PAE = 1U << 5;
inline constexpr u64 MCE = 1U << 6;
inline constexpr u64 PGE = 1U << 7;
inline constexpr u64 PCE = 1U << 8;
inline constexpr u64 OSFXSR = 1U << 9;
inline constexpr u64 OSXMMEXCPT = 1U << 10;
inline constexpr u64 UMIP = 1U << 11;
inline constexpr u64 LA57 = 1U << 12;
inline constexpr u64 FSGSBASE = 1U << 16;
inline constexpr u64 PCIDE = 1U << 17;
inline constexpr u64 OSXSAVE = 1U << 18;
inline constexpr u64 SMEP = 1U << 20;
inline constexpr u64 SMAP = 1U << 21;
inline constexpr u64 PKE = 1U << 22;
}  // namespace cr4

/// IA32_EFER.
namespace efer {
inline constexpr u64 SCE = 1U << 0;
inline constexpr u64 LME = 1U << 8;
inline constexpr u64 LMA = 1U << 10;
inline constexpr u64 NXE = 1U << 11;
inline constexpr u64 AIBRSE = 1U << 21;  // AMD's: a hint
}  // namespace efer

/// XCR0 and the XSAVE state components (SDM 1, 13.1).
namespace xcr0 {
inline constexpr u64 X87 = 1U << 0;
inline constexpr u64 SSE = 1U << 1;
inline constexpr u64 AVX = 1U << 2;
inline constexpr u64 OPMASK = 1U << 5;
inline constexpr u64 ZMM_HI256 = 1U << 6;
inline constexpr u64 HI16_ZMM = 1U << 7;
inline constexpr u64 PKRU = 1U << 9;
inline constexpr u64 kAvx512 = OPMASK | ZMM_HI256 | HI16_ZMM;
}  // namespace xcr0

/// DR6 and DR7 (SDM 3B, 17.2).
namespace dr6 {
inline constexpr u64 kBreakpoints = 0xF;
inline constexpr u64 BD = 1U << 13;
inline constexpr u64 BS = 1U << 14;
inline constexpr u64 BT = 1U << 15;
inline constexpr u64 kFixed1 = 0xFFFF0FF0;
}  // namespace dr6
namespace dr7 {
inline constexpr u64 kEnables = 0xFF;
inline constexpr u64 GD = 1U << 13;
inline constexpr u64 kFixed1 = 1U << 10;
}  // namespace dr7

/// Model-specific registers (SDM 4, tables 2-2 and later; AMD APM 2, appendix A).
enum class Msr : u32 {
  IA32_TSC = 0x10,
  IA32_PLATFORM_ID = 0x17,
  IA32_APIC_BASE = 0x1B,
  IA32_FEATURE_CONTROL = 0x3A,
  IA32_TSC_ADJUST = 0x3B,
  IA32_SPEC_CTRL = 0x48,
  IA32_PRED_CMD = 0x49,
  IA32_BIOS_UPDT_TRIG = 0x79,
  IA32_BIOS_SIGN_ID = 0x8B,
  IA32_MTRRCAP = 0xFE,
  IA32_ARCH_CAPABILITIES = 0x10A,
  IA32_FLUSH_CMD = 0x10B,
  IA32_SYSENTER_CS = 0x174,
  IA32_SYSENTER_ESP = 0x175,
  IA32_SYSENTER_EIP = 0x176,
  IA32_MCG_CAP = 0x179,
  IA32_MCG_STATUS = 0x17A,
  IA32_MISC_ENABLE = 0x1A0,
  IA32_DEBUGCTL = 0x1D9,
  IA32_MTRR_PHYSBASE0 = 0x200,
  IA32_MTRR_FIX64K_00000 = 0x250,
  IA32_MTRR_FIX16K_80000 = 0x258,
  IA32_MTRR_FIX16K_A0000 = 0x259,
  IA32_MTRR_FIX4K_C0000 = 0x268,
  IA32_MTRR_FIX4K_F8000 = 0x26F,
  IA32_PAT = 0x277,
  IA32_MTRR_DEF_TYPE = 0x2FF,
  IA32_MC0_CTL = 0x400,
  IA32_TSC_DEADLINE = 0x6E0,
  IA32_X2APIC_FIRST = 0x800,
  IA32_X2APIC_LAST = 0x8FF,
  IA32_XSS = 0xDA0,
  KVM_WALL_CLOCK_NEW = 0x4B564D00,  // Linux, Documentation/virt/kvm/x86/msr.rst
  KVM_SYSTEM_TIME_NEW = 0x4B564D01,
  IA32_EFER = 0xC0000080,
  IA32_STAR = 0xC0000081,
  IA32_LSTAR = 0xC0000082,
  IA32_CSTAR = 0xC0000083,
  IA32_FMASK = 0xC0000084,
  IA32_FS_BASE = 0xC0000100,
  IA32_GS_BASE = 0xC0000101,
  IA32_KERNEL_GS_BASE = 0xC0000102,
  IA32_TSC_AUX = 0xC0000103,
  AMD_SYSCFG = 0xC0010010,
  AMD_HWCR = 0xC0010015,
  AMD_NB_CFG = 0xC001001F,
  AMD_PATCH_LOADER = 0xC0010020,
  AMD_DE_CFG = 0xC0011029,
};

/// IA32_APIC_BASE.
namespace apic_base {
inline constexpr u64 BSP = 1U << 8;
inline constexpr u64 EXTD = 1U << 10;
inline constexpr u64 EN = 1U << 11;
}  // namespace apic_base

}  // namespace vert::x86

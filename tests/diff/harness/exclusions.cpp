#include "diff/harness/exclusions.hpp"

#include <cpuid.h>

#include <algorithm>
#include <array>

#include "x86/cpu_model.hpp"

namespace vert::diff {

namespace {

constexpr std::string_view kTime = "its result differs from run to run";
constexpr std::string_view kModel = "tells the CPU model, which the guest's differs from";
constexpr std::string_view kKernel = "enters the host's kernel, or is emulated by it";
constexpr std::string_view kHypervisor = "may trap to a hypervisor below the host";
constexpr std::string_view kTransaction = "transactions abort for reasons of their own";
constexpr std::string_view kXsave =
    "what is saved depends on XINUSE, which is not architectural (SDM 1, 13.6)";
constexpr std::string_view kTables = "depends on the host kernel's own descriptor tables";
constexpr std::string_view kCounter = "reads counters that only the host has";
constexpr std::string_view kWait = "waits";
constexpr std::string_view kSgx = "enclaves and measured launch depend on the firmware";

#define X(mnemonic, reason) \
  Exclusion { ZYDIS_MNEMONIC_##mnemonic, reason }
constexpr std::array kExclusions = {
    X(RDTSC, kTime),          X(RDTSCP, kTime),        X(RDRAND, kTime),        X(RDSEED, kTime),
    X(RDPID, kTime),          X(RDPMC, kCounter),      X(RDPRU, kCounter),      X(CPUID, kModel),
    X(XGETBV, kModel),        X(SYSCALL, kKernel),     X(SYSENTER, kKernel),    X(SGDT, kKernel),
    X(SIDT, kKernel),         X(SLDT, kKernel),        X(STR, kKernel),         X(SMSW, kKernel),
    X(LAR, kTables),          X(LSL, kTables),         X(VERR, kTables),        X(VERW, kTables),
    X(VMCALL, kHypervisor),   X(VMMCALL, kHypervisor), X(VMFUNC, kHypervisor),  X(TDCALL, kHypervisor),
    X(SEAMCALL, kHypervisor), X(SEAMOPS, kHypervisor), X(SEAMRET, kHypervisor), X(XBEGIN, kTransaction),
    X(XEND, kTransaction),    X(XABORT, kTransaction), X(XTEST, kTransaction),  X(XSAVE, kXsave),
    X(XSAVE64, kXsave),       X(XSAVEC, kXsave),       X(XSAVEC64, kXsave),     X(XSAVEOPT, kXsave),
    X(XSAVEOPT64, kXsave),    X(UMWAIT, kWait),        X(TPAUSE, kWait),        X(UMONITOR, kWait),
    X(MWAITX, kWait),         X(MONITORX, kWait),      X(ENCLU, kSgx),          X(ENCLS, kSgx),
    X(ENCLV, kSgx),           X(GETSEC, kSgx),         X(LFS, kTables),         X(LGS, kTables),
    X(LSS, kTables),
};
#undef X

constexpr std::string_view kHidden =
    "CPUID denies it, but a processor whose hypervisor merely hides it runs it all the same";

/// Extensions and sets that can be hidden so, with the CPUID bit that tells (SDM 2A, table 3-8).
struct Feature {
  ZydisISAExt extension;
  ZydisISASet set;  // INVALID: all of the extension
  u32 leaf, subleaf;
  unsigned reg, bit;  // 0..3: EAX, EBX, ECX, EDX
};
constexpr unsigned kEax = 0, kEbx = 1, kEcx = 2, kEdx = 3;
#define X(extension, leaf, subleaf, reg, bit) \
  Feature { ZYDIS_ISA_EXT_##extension, ZYDIS_ISA_SET_INVALID, leaf, subleaf, reg, bit }
#define Y(set, leaf, subleaf, reg, bit) \
  Feature { ZYDIS_ISA_EXT_AVX512EVEX, ZYDIS_ISA_SET_##set, leaf, subleaf, reg, bit }
constexpr std::array kFeatures = {
    X(MOVDIR, 7, 0, kEcx, 27),
    X(CLDEMOTE, 7, 0, kEcx, 25),
    X(SERIALIZE, 7, 0, kEdx, 14),
    X(TSX_LDTRK, 7, 0, kEdx, 16),
    X(ENQCMD, 7, 0, kEcx, 29),
    X(PT, 7, 0, kEbx, 25),
    X(WAITPKG, 7, 0, kEcx, 5),
    X(AVX_VNNI, 7, 1, kEax, 4),
    X(AMX_TILE, 7, 0, kEdx, 24),
    X(AMX_INT8, 7, 0, kEdx, 25),
    X(AMX_BF16, 7, 0, kEdx, 22),
    X(KEYLOCKER, 7, 0, kEcx, 23),
    X(HRESET, 7, 1, kEax, 22),
    X(UINTR, 7, 0, kEdx, 5),
    X(PKU, 7, 0, kEcx, 4),
    X(MPX, 7, 0, kEbx, 14),
    X(RDWRFSGS, 7, 0, kEbx, 0),
    X(SHA, 7, 0, kEbx, 29),
    X(GFNI, 7, 0, kEcx, 8),
    X(VAES, 7, 0, kEcx, 9),
    X(VPCLMULQDQ, 7, 0, kEcx, 10),
    X(CLFLUSHOPT, 7, 0, kEbx, 23),
    X(CLWB, 7, 0, kEbx, 24),
    Y(AVX512_BF16_128, 7, 1, kEax, 5),
    Y(AVX512_BF16_256, 7, 1, kEax, 5),
    Y(AVX512_BF16_512, 7, 1, kEax, 5),
    Y(AVX512_VP2INTERSECT_128, 7, 0, kEdx, 8),
    Y(AVX512_VP2INTERSECT_256, 7, 0, kEdx, 8),
    Y(AVX512_VP2INTERSECT_512, 7, 0, kEdx, 8),
    Y(AVX512_FP16_128, 7, 0, kEdx, 23),
    Y(AVX512_FP16_128N, 7, 0, kEdx, 23),
    Y(AVX512_FP16_256, 7, 0, kEdx, 23),
    Y(AVX512_FP16_512, 7, 0, kEdx, 23),
    Y(AVX512_FP16_SCALAR, 7, 0, kEdx, 23),
};
#undef Y
#undef X

bool host_has(const Feature& feature) {
  std::array<u32, 4> regs{};
  if (__get_cpuid_count(feature.leaf, feature.subleaf, &regs[0], &regs[1], &regs[2], &regs[3]) == 0)
    return false;
  return (regs[feature.reg] >> feature.bit & 1) != 0;
}

/// CPUID is slow, above all under a hypervisor: asked once.
bool is_hidden(const ZydisDecodedInstruction& insn) {
  static const std::array<bool, kFeatures.size()> kMissing = [] {
    std::array<bool, kFeatures.size()> missing{};
    for (std::size_t i = 0; i < kFeatures.size(); ++i) missing[i] = !host_has(kFeatures[i]);
    return missing;
  }();
  for (std::size_t i = 0; i < kFeatures.size(); ++i) {
    if (kMissing[i] && insn.meta.isa_ext == kFeatures[i].extension &&
        (kFeatures[i].set == ZYDIS_ISA_SET_INVALID || insn.meta.isa_set == kFeatures[i].set))
      return true;
  }
  return false;
}

constexpr std::string_view kNotInModel = "the guest's CPU model does not offer it, but the host may run it";

bool in_model(const ZydisDecodedInstruction& decoded) {
  static const x86::CpuModel kHost = x86::CpuModel::make("host").value();
  x86::Insn insn;
  insn.mnemonic = decoded.mnemonic;
  insn.isa_set = decoded.meta.isa_set;
  insn.modrm = static_cast<u8>(decoded.raw.modrm.mod << 6);
  return kHost.allows(insn, x86::CodeSize::k64);
}

constexpr u8 kLinuxSyscallVector = 0x80;

bool is_16_bit(const Decoded& decoded) { return decoded.operands[0].size == 16; }

bool host_is_amd() {
  static const bool kAmd = x86::host_vendor() == x86::Vendor::kAmd;
  return kAmd;
}

/// What cannot be compared on AMD's processors.
std::optional<std::string_view> excluded_on_amd(const ZydisDecodedInstruction& insn) {
  if (insn.mnemonic == ZYDIS_MNEMONIC_FNSTENV || insn.mnemonic == ZYDIS_MNEMONIC_FNSAVE)
    return "AMD's processors lose the x87 pointers when a kernel saves the state (APM 2, 11.5.8)";
  if (insn.mnemonic == ZYDIS_MNEMONIC_INT1) return "hypervisors on AMD's processors report another RIP";
  return std::nullopt;
}

}  // namespace

std::span<const Exclusion> exclusions() { return kExclusions; }

std::optional<std::string_view> excluded(const Decoded& decoded) {
  const ZydisMnemonic mnemonic = decoded.insn.mnemonic;
  const auto found = std::ranges::find(kExclusions, mnemonic, &Exclusion::mnemonic);
  if (found != kExclusions.end()) return found->reason;
  if (is_hidden(decoded.insn)) return kHidden;
  if (!in_model(decoded.insn)) return kNotInModel;
  if (host_is_amd()) {
    if (const auto reason = excluded_on_amd(decoded.insn)) return reason;
  }
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_INT:
      if (decoded.operands[0].imm.value.u == kLinuxSyscallVector) return kKernel;
      break;
    case ZYDIS_MNEMONIC_BSWAP:
      if (is_16_bit(decoded)) return "undefined with a 16-bit operand (SDM 2A, BSWAP)";
      break;
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
      // The count is an immediate where it is known; CL may be anything.
      if (is_16_bit(decoded) && (decoded.operands[2].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
                                 (decoded.operands[2].imm.value.u & 31) > 16))
        return "undefined with a count above the operand's width (SDM 2B, SHLD)";
      break;
    default: break;
  }
  return std::nullopt;
}

std::optional<std::string_view> excluded_undefined(std::span<const u8> bytes) {
  // With 66, F2 or F3 in front, VMCALL is undefined, but processors let it exit to the hypervisor.
  constexpr std::array<u8, 3> kVmcall = {0x0F, 0x01, 0xC1};
  const auto is_prefix = [](u8 byte) {
    constexpr std::array<u8, 11> kPrefixes = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65,
                                              0x66, 0x67, 0xF0, 0xF2, 0xF3};
    return std::ranges::find(kPrefixes, byte) != kPrefixes.end() || (byte & 0xF0) == 0x40;
  };
  while (!bytes.empty() && is_prefix(bytes.front())) bytes = bytes.subspan(1);
  const bool mpx = bytes.size() > 1 && bytes[0] == 0x0F && (bytes[1] == 0x1A || bytes[1] == 0x1B);
  if (host_is_amd() && mpx) return "MPX is a hint to AMD's processors in every form";
  constexpr u8 kVex2 = 0xC5, kVex3 = 0xC4, kEvex = 0x62;
  if (host_is_amd() && !bytes.empty() && (bytes[0] == kVex2 || bytes[0] == kVex3 || bytes[0] == kEvex))
    return "AMD's processors ignore some reserved bits of VEX and EVEX";
  if (bytes.size() >= kVmcall.size() && std::ranges::equal(bytes.first(kVmcall.size()), kVmcall))
    return kHypervisor;
  return std::nullopt;
}

}  // namespace vert::diff

#include "diff/harness/exclusions.hpp"

#include <algorithm>
#include <array>

namespace vert::diff {

namespace {

constexpr std::string_view kTime = "its result differs from run to run";
constexpr std::string_view kModel = "tells the CPU model, which the guest's differs from";
constexpr std::string_view kKernel = "enters the host's kernel, or is emulated by it";
constexpr std::string_view kHypervisor = "may trap to a hypervisor below the host";
constexpr std::string_view kTransaction = "transactions abort for reasons of their own";
constexpr std::string_view kXsave =
    "what is saved depends on XINUSE, which is not architectural (SDM 1, 13.6)";
constexpr std::string_view kTables = "tells about the host kernel's own descriptor tables";
constexpr std::string_view kCounter = "reads counters that only the host has";
constexpr std::string_view kWait = "waits";
constexpr std::string_view kSgx = "enclaves and measured launch depend on the firmware";

#define X(mnemonic, reason) \
  Exclusion { ZYDIS_MNEMONIC_##mnemonic, reason }
constexpr std::array kExclusions = {
    X(RDTSC, kTime),        X(RDTSCP, kTime),        X(RDRAND, kTime),       X(RDSEED, kTime),
    X(RDPID, kTime),        X(RDPMC, kCounter),      X(RDPRU, kCounter),     X(CPUID, kModel),
    X(XGETBV, kModel),      X(SYSCALL, kKernel),     X(SYSENTER, kKernel),   X(SGDT, kKernel),
    X(SIDT, kKernel),       X(SLDT, kKernel),        X(STR, kKernel),        X(SMSW, kKernel),
    X(LAR, kTables),        X(LSL, kTables),         X(VERR, kTables),       X(VERW, kTables),
    X(VMCALL, kHypervisor), X(VMMCALL, kHypervisor), X(VMFUNC, kHypervisor), X(XBEGIN, kTransaction),
    X(XEND, kTransaction),  X(XABORT, kTransaction), X(XTEST, kTransaction), X(XSAVE, kXsave),
    X(XSAVE64, kXsave),     X(XSAVEC, kXsave),       X(XSAVEC64, kXsave),    X(XSAVEOPT, kXsave),
    X(XSAVEOPT64, kXsave),  X(UMWAIT, kWait),        X(TPAUSE, kWait),       X(UMONITOR, kWait),
    X(MWAITX, kWait),       X(MONITORX, kWait),      X(ENCLU, kSgx),         X(ENCLS, kSgx),
    X(ENCLV, kSgx),         X(GETSEC, kSgx),
};
#undef X

constexpr u8 kLinuxSyscallVector = 0x80;

bool is_16_bit(const Decoded& decoded) { return decoded.operands[0].size == 16; }

}  // namespace

std::span<const Exclusion> exclusions() { return kExclusions; }

std::optional<std::string_view> excluded(const Decoded& decoded) {
  const ZydisMnemonic mnemonic = decoded.insn.mnemonic;
  const auto found = std::ranges::find(kExclusions, mnemonic, &Exclusion::mnemonic);
  if (found != kExclusions.end()) return found->reason;
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

}  // namespace vert::diff

#include "diff/harness/waivers.hpp"

#include <algorithm>
#include <cstring>

#include "diff/harness/decoder.hpp"
#include "x86/cpu_model.hpp"
#include "x86/exception.hpp"

namespace vert::diff {

namespace {

constexpr u64 kLow32 = 0xFFFF'FFFF;

bool host_is_amd() {
  static const bool kAmd = x86::host_vendor() == x86::Vendor::kAmd;
  return kAmd;
}

std::optional<Decoded> faulting_instruction(const Input& input, const Output& output) {
  const u64 offset = output.registers.rip - kCodeBase;
  if (offset >= kCodeSize) return std::nullopt;
  return decode(std::span(input.code).subspan(offset));
}

/// Both fault in memory: which byte of it is at fault does not matter.
void waive_memory_fault(const Output& native, Output& guest) {
  const auto of_memory = [](u32 vector) {
    return vector == x86::kGP || vector == x86::kSS || vector == x86::kPF || vector == x86::kAC;
  };
  if (!of_memory(native.vector) || !of_memory(guest.vector)) return;
  guest.vector = native.vector;
  guest.error_code = native.error_code;
  guest.cr2 = native.cr2;
}

bool compares(const Decoded& decoded) {
  switch (decoded.insn.mnemonic) {
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ:
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ: return true;
    default: return false;
  }
}

/// A CMPS or SCAS that faults: AMD's processors may read the second operand first, and have the flags of an
/// iteration that they had begun.
void waive_comparison(const Output& native, Output& guest) {
  waive_memory_fault(native, guest);
  const u64 arithmetic = x86::rflags::kArithmetic;
  guest.registers.rflags = (guest.registers.rflags & ~arithmetic) | (native.registers.rflags & arithmetic);
}

/// A string instruction with 32-bit addresses: processors zero-extend its registers before it faults.
void waive_string(Output& native, Output& guest) {
  for (Output* output : {&native, &guest}) {
    for (const x86::Gpr reg : {x86::kRcx, x86::kRsi, x86::kRdi}) output->registers.gpr[reg] &= kLow32;
  }
}

/// MASKMOVQ and MASKMOVDQU may fault for bytes that the mask leaves out (SDM 2B, MASKMOVDQU): whether, and
/// with which CR2, is the processor's own choice. Nothing after it can be compared.
bool waive_masked_move(const Decoded& decoded, const Output& native, Output& guest) {
  switch (decoded.insn.mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: break;
    default: return false;
  }
  if (native.vector != x86::kPF) return false;
  guest = native;
  return true;
}

/// Whether AMD's processors check the alignment of a masked operand depends on more than the mask. Nothing
/// after it can be compared.
bool waive_masked_alignment(const Input& input, const Output& native, Output& guest) {
  if (!host_is_amd() || (native.vector == x86::kAC) == (guest.vector == x86::kAC)) return false;
  const auto decoded = faulting_instruction(input, native.vector == x86::kAC ? native : guest);
  if (!decoded) return false;
  const ZydisRegister mask = decoded->insn.avx.mask.reg;
  if (mask == ZYDIS_REGISTER_NONE || mask == ZYDIS_REGISTER_K0) return false;
  guest = native;
  return true;
}

/// A conversion that stores may set flags in MXCSR before its store faults.
void waive_mxcsr(Output& native, Output& guest) { guest.registers.fpu.mxcsr = native.registers.fpu.mxcsr; }

/// FXSAVE, FXRSTOR and those that move the x87 environment may begin anywhere in their area.
void waive_page(Output& native, Output& guest) {
  if (native.vector != x86::kPF || guest.vector != x86::kPF) return;
  guest.cr2 = native.cr2;
  guest.error_code = native.error_code;
}

/// A masked store over the end of a page names the first byte of the second, or its own last.
void waive_masked_store(const Decoded& decoded, Output& native, Output& guest) {
  const auto* memory = decoded.explicit_memory();
  if (memory == nullptr || (memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) == 0) return;
  if (native.vector == x86::kPF && guest.vector == x86::kPF &&
      native.cr2 / kPageSize == guest.cr2 / kPageSize)
    guest.cr2 = native.cr2;
}

/// XRSTOR may read its header and area in any order, before or after it checks their alignment: which fault
/// comes, and which byte is in CR2, follows no rule of the manual (SDM 2D, XRSTOR).
void waive_xsave(const Output& native, Output& guest) { waive_memory_fault(native, guest); }

constexpr u64 kArithmetic = x86::rflags::kArithmetic;

struct FlagUse {
  u64 read = 0;    // or kept, perhaps
  u64 killed = 0;  // overwritten whatever they were
};

/// Whether it changes its flags whatever its operands are: a count of 0 leaves all as it is.
bool always_changes_flags(const Decoded& decoded) {
  constexpr u64 kRepeats = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
  if ((decoded.insn.attributes & kRepeats) != 0) return false;
  const auto category = decoded.insn.meta.category;
  if (category != ZYDIS_CATEGORY_SHIFT && category != ZYDIS_CATEGORY_ROTATE) return true;
  const u64 mask = decoded.insn.operand_width == 64 ? 63 : 31;
  return std::ranges::any_of(decoded.all(), [&](const ZydisDecodedOperand& operand) {
    return operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && (operand.imm.value.u & mask) != 0;
  });
}

/// Flags that the manual leaves undefined are overwritten all the same where their old values do not show.
FlagUse flag_use(const Decoded& decoded) {
  const ZydisAccessedFlags* flags = decoded.insn.cpu_flags;
  if (flags == nullptr) return {};
  const u64 touched = flags->modified | flags->set_0 | flags->set_1 | flags->undefined;
  FlagUse use;
  if (always_changes_flags(decoded)) {
    use.killed = touched & ~u64{flags->undefined};
    const auto category = decoded.insn.meta.category;
    const bool arithmetic =
        decoded.insn.mnemonic == ZYDIS_MNEMONIC_MUL || decoded.insn.mnemonic == ZYDIS_MNEMONIC_IMUL;
    if (category == ZYDIS_CATEGORY_LOGICAL || category == ZYDIS_CATEGORY_SHIFT || arithmetic)
      use.killed = touched;
  }
  use.read = flags->tested | (touched & ~use.killed);
  return use;
}

/// Where a direct jump or branch goes.
std::optional<u64> direct_target(const Decoded& decoded, u64 rip) {
  const auto category = decoded.insn.meta.category;
  if (category != ZYDIS_CATEGORY_COND_BR && category != ZYDIS_CATEGORY_UNCOND_BR) return std::nullopt;
  const ZydisDecodedOperand& to = decoded.operands[0];
  if (to.type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !to.imm.is_relative) return std::nullopt;
  return rip + decoded.insn.length + static_cast<u64>(to.imm.value.s);
}

bool goes_on_with_next(const Decoded& decoded) {
  switch (decoded.insn.meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSTEM: return false;
    default: return true;
  }
}

/// Of the flags `open`, those that code before the end of the page where the instruction at `rip` ends may
/// read before it overwrites them, on some way from there by direct jumps and branches.
u64 live_flags(const Input& input, u64 rip, u64 open, unsigned& steps) {
  std::optional<u64> page;
  u64 live = 0;
  while (open != 0) {
    const u64 at = rip - kCodeBase;
    if (at >= kCodeSize || (page && at / kPageSize != *page) || steps == 0) return live | open;
    --steps;
    const auto decoded = decode(std::span(input.code).subspan(at));
    if (!decoded) return live | open;
    if (!page) page = (at + decoded->insn.length - 1) / kPageSize;
    const FlagUse use = flag_use(*decoded);
    live |= open & use.read;
    open &= ~(use.read | use.killed);
    const auto target = direct_target(*decoded, rip);
    if (!target && !goes_on_with_next(*decoded)) return live | open;
    if (target && goes_on_with_next(*decoded)) live |= live_flags(input, *target, open, steps);
    rip = target && !goes_on_with_next(*decoded) ? *target : rip + decoded->insn.length;
  }
  return live;
}

/// Flags that are overwritten before they are read, whichever way the code goes from `rip`.
u64 dead_flags(const Input& input, u64 rip) {
  unsigned steps = 200;
  return kArithmetic & ~live_flags(input, rip, kArithmetic, steps);
}

bool accesses_memory(const Decoded& decoded) {
  return std::ranges::any_of(decoded.all(), [](const ZydisDecodedOperand& operand) {
    return operand.type == ZYDIS_OPERAND_TYPE_MEMORY && operand.mem.type != ZYDIS_MEMOP_TYPE_AGEN;
  });
}

/// Faults that a translator takes only after it has used the flags: of memory accesses, and of vector and x87
/// instructions, which run as they are.
bool may_lose_flags(const Decoded& decoded, u32 vector) {
  switch (vector) {
    case x86::kPF:
    case x86::kGP:
    case x86::kSS:
    case x86::kAC: return accesses_memory(decoded);
    case x86::kMF:
    case x86::kXM: return true;
    default: return false;
  }
}

void waive_dead_flags(const Input& input, const Decoded& decoded, const Output& native, Output& guest) {
  if (guest.vector != native.vector || !may_lose_flags(decoded, native.vector)) return;
  const u64 dead = dead_flags(input, native.registers.rip);
  guest.registers.rflags = (guest.registers.rflags & ~dead) | (native.registers.rflags & dead);
}

/// AMD's XSAVE, by which the host's state comes here, shows the pointers only with an exception pending.
void waive_hidden_pointers(const Output& native, Output& guest) {
  const cpu::FpuState& shown = native.registers.fpu;
  if (!host_is_amd() || (shown.fsw & ~shown.fcw & 0x3F) != 0) return;
  cpu::FpuState& fpu = guest.registers.fpu;
  fpu.fop = shown.fop;
  fpu.fip = shown.fip;
  fpu.fdp = shown.fdp;
}

/// The translator stores a call's return address before it looks whether the target is canonical, as Intel's
/// processors do; AMD's look first.
void waive_return_address(const Decoded& decoded, const Output& native, Output& guest) {
  if (decoded.insn.meta.category != ZYDIS_CATEGORY_CALL || native.vector != x86::kGP) return;
  const u64 slot = native.registers.gpr[x86::kRsp] - sizeof(u64);
  for (std::size_t i = 0; i < kWritablePages.size(); ++i) {
    const u64 at = slot - kWritablePages[i];
    if (at > kPageSize - sizeof(u64)) continue;
    std::memcpy(guest.data[i].data() + at, native.data[i].data() + at, sizeof(u64));
  }
}

/// AMD's processors want an address to be canonical before FS's or GS's base is added, too.
void waive_based_address(const Decoded& decoded, const Output& native, Output& guest) {
  const auto* memory = decoded.explicit_memory();
  const bool based = memory != nullptr &&
                     (memory->mem.segment == ZYDIS_REGISTER_FS || memory->mem.segment == ZYDIS_REGISTER_GS);
  if (based && native.vector == x86::kGP && guest.vector != x86::kBP) waive_memory_fault(native, guest);
}

/// What instructions of the processor itself may differ in.
void waive_processor(const Decoded& decoded, Output& native, Output& guest) {
  switch (decoded.insn.mnemonic) {
    case ZYDIS_MNEMONIC_VCVTPS2PH: return waive_mxcsr(native, guest);
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSAVE: return waive_page(native, guest);
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return waive_masked_store(decoded, native, guest);
    default: break;
  }
  const ZydisRegister mask = decoded.insn.avx.mask.reg;
  if (mask != ZYDIS_REGISTER_NONE && mask != ZYDIS_REGISTER_K0)
    return waive_masked_store(decoded, native, guest);
  switch (decoded.insn.meta.category) {
    case ZYDIS_CATEGORY_STRINGOP:
      if (decoded.insn.address_width == 32) waive_string(native, guest);
      if (host_is_amd() && compares(decoded)) waive_comparison(native, guest);
      break;
    case ZYDIS_CATEGORY_XSAVE: waive_xsave(native, guest); break;
    default: break;
  }
}

}  // namespace

Tolerance tolerance_of(std::string_view engine) {
  const bool translates = engine.find("bt") != std::string_view::npos;
  return {.dead_flags = translates, .early_push = translates};
}

void waive(const Input& input, const Tolerance& tolerance, Output& native, Output& guest) {
  waive_hidden_pointers(native, guest);
  if (waive_masked_alignment(input, native, guest) || native.vector == x86::kBP) return;
  const auto decoded = faulting_instruction(input, native);
  if (!decoded || waive_masked_move(*decoded, native, guest)) return;
  if (native.registers.rip != guest.registers.rip) return;
  waive_processor(*decoded, native, guest);
  if (host_is_amd()) waive_based_address(*decoded, native, guest);
  if (tolerance.early_push) waive_return_address(*decoded, native, guest);
  if (tolerance.dead_flags) waive_dead_flags(input, *decoded, native, guest);
}

}  // namespace vert::diff

#include "diff/harness/waivers.hpp"

#include <algorithm>
#include <cstring>

#include "diff/harness/decoder.hpp"
#include "x86/exception.hpp"

namespace vert::diff {

namespace {

constexpr u64 kLow32 = 0xFFFF'FFFF;

std::optional<Decoded> faulting_instruction(const Input& input, const Output& output) {
  const u64 offset = output.registers.rip - kCodeBase;
  if (offset >= kCodeSize) return std::nullopt;
  return decode(std::span(input.code).subspan(offset));
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
void waive_xsave(Output& native, Output& guest) {
  const auto of_memory = [](u32 vector) {
    return vector == x86::kGP || vector == x86::kSS || vector == x86::kPF || vector == x86::kAC;
  };
  if (!of_memory(native.vector) || !of_memory(guest.vector)) return;
  guest.vector = native.vector;
  guest.error_code = native.error_code;
  guest.cr2 = native.cr2;
}

}  // namespace

void waive(const Input& input, Output& native, Output& guest) {
  if (native.vector == x86::kBP) return;
  const auto decoded = faulting_instruction(input, native);
  if (!decoded || waive_masked_move(*decoded, native, guest)) return;
  if (native.registers.rip != guest.registers.rip) return;
  switch (decoded->insn.mnemonic) {
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
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return waive_masked_store(*decoded, native, guest);
    default: break;
  }
  const ZydisRegister mask = decoded->insn.avx.mask.reg;
  if (mask != ZYDIS_REGISTER_NONE && mask != ZYDIS_REGISTER_K0)
    return waive_masked_store(*decoded, native, guest);
  switch (decoded->insn.meta.category) {
    case ZYDIS_CATEGORY_STRINGOP:
      if (decoded->insn.address_width == 32) waive_string(native, guest);
      break;
    case ZYDIS_CATEGORY_XSAVE: waive_xsave(native, guest); break;
    default: break;
  }
}

}  // namespace vert::diff

// From the decoder library's view of an instruction to the flat one of x86/insn.hpp. Pure, any thread.
#include "x86/decode.hpp"

#include <algorithm>

namespace vert::x86 {

namespace {

ZydisDecoder make_decoder(ZydisMachineMode mode, ZydisStackWidth width, Vendor vendor) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, mode, width);
  // Hints that no CPU model has are NOPs (SDM 2B, NOP and table A-3), so let them decode as such.
  for (const auto hint : {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE})
    ZydisDecoderEnableMode(&decoder, hint, ZYAN_FALSE);
  if (vendor == Vendor::kAmd) ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
  return decoder;
}

std::array<ZydisDecoder, 3> make_decoders(Vendor vendor) {
  return {make_decoder(ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16, vendor),
          make_decoder(ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32, vendor),
          make_decoder(ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64, vendor)};
}

const ZydisDecoder& decoder_for(CodeSize size, Vendor vendor) {
  static const std::array kIntel = make_decoders(Vendor::kIntel);
  static const std::array kAmd = make_decoders(Vendor::kAmd);
  return (vendor == Vendor::kAmd ? kAmd : kIntel)[static_cast<std::size_t>(size)];
}

u8 register_id(ZydisRegister reg) { return static_cast<u8>(ZydisRegisterGetId(reg)); }

Operand register_operand(ZydisRegister reg, u16 bits) {
  const auto size = static_cast<u8>(bits / 8);
  switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
      if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        return {OperandKind::kGprHigh, static_cast<u8>(reg - ZYDIS_REGISTER_AH), 1};
      // Zydis numbers the byte registers with AH..BH in the middle.
      if (reg >= ZYDIS_REGISTER_SPL)
        return {OperandKind::kGpr, static_cast<u8>(reg - ZYDIS_REGISTER_SPL + kRsp), 1};
      return {OperandKind::kGpr, static_cast<u8>(reg - ZYDIS_REGISTER_AL), 1};
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return {OperandKind::kGpr, register_id(reg), size};
    case ZYDIS_REGCLASS_SEGMENT: return {OperandKind::kSegment, register_id(reg), 2};
    case ZYDIS_REGCLASS_CONTROL: return {OperandKind::kControl, register_id(reg), size};
    case ZYDIS_REGCLASS_DEBUG: return {OperandKind::kDebug, register_id(reg), size};
    default: return {OperandKind::kOther, 0, size};
  }
}

u8 address_register(ZydisRegister reg) {
  if (reg == ZYDIS_REGISTER_NONE) return MemoryOperand::kNoRegister;
  if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP) return MemoryOperand::kRip;
  return register_id(reg);
}

void set_memory(const ZydisDecodedOperand& from, Insn& insn) {
  const auto& mem = from.mem;
  insn.mem.segment = register_id(mem.segment);
  insn.mem.base = address_register(mem.base);
  insn.mem.index = address_register(mem.index);
  insn.mem.scale = mem.scale == 0 ? u8{1} : mem.scale;
  if (mem.disp.has_displacement) {
    insn.mem.displacement = static_cast<i32>(mem.disp.value);
    insn.mem.absolute64 = mem.disp.value != insn.mem.displacement;
    if (insn.mem.absolute64) insn.imm = mem.disp.value;
  }
}

/// 0 for an address that is not accessed, and for areas whose size the instruction knows (FXSAVE, XSAVE).
u8 memory_size(const ZydisDecodedOperand& operand, ZydisMnemonic mnemonic) {
  const unsigned bytes = operand.size / 8;
  const bool accessed = operand.mem.type == ZYDIS_MEMOP_TYPE_MEM && mnemonic != ZYDIS_MNEMONIC_INVLPG;
  return accessed && bytes <= 0xFF ? static_cast<u8>(bytes) : u8{0};
}

void set_operand(const ZydisDecodedOperand& from, Insn& insn) {
  Operand& operand = insn.operands[insn.operand_count++];
  switch (from.type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: operand = register_operand(from.reg.value, from.size); break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
      operand = {OperandKind::kMemory, 0, memory_size(from, insn.mnemonic)};
      set_memory(from, insn);
      break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
      operand = {OperandKind::kImmediate, 0, static_cast<u8>(from.size / 8)};
      (insn.operand_count > 1 && insn.mnemonic == ZYDIS_MNEMONIC_ENTER ? insn.imm2 : insn.imm) =
          from.imm.value.s;
      break;
    case ZYDIS_OPERAND_TYPE_POINTER:
      operand = {OperandKind::kFarPointer, 0, static_cast<u8>(from.size / 8)};
      insn.imm = static_cast<i64>(from.ptr.offset);
      insn.imm2 = from.ptr.segment;
      break;
    default: break;
  }
}

bool is_masked_store(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
         mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

/// String instructions, XLAT and MASKMOV have only hidden memory operands; their segment still counts, but
/// for string destinations, which are always in ES.
void set_hidden_segment(std::span<const ZydisDecodedOperand> operands, Insn& insn) {
  for (const auto& operand : operands) {
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
      continue;
    const bool at_rdi = operand.mem.base == ZYDIS_REGISTER_RDI || operand.mem.base == ZYDIS_REGISTER_EDI ||
                        operand.mem.base == ZYDIS_REGISTER_DI;
    if (at_rdi && !is_masked_store(insn.mnemonic)) continue;
    insn.mem.segment = register_id(operand.mem.segment);
  }
}

/// MONITOR's address has a segment too, which the decoder library does not tell.
void set_monitor_segment(const ZydisDecodedInstruction& decoded, CodeSize size, Insn& insn) {
  for (const auto& prefix : std::span(decoded.raw.prefixes).first(decoded.raw.prefix_count)) {
    if (prefix.value == 0x64) insn.mem.segment = kFs;
    if (prefix.value == 0x65) insn.mem.segment = kGs;
    // 26, 2E, 36 and 3E: ES, CS, SS and DS, without effect in 64-bit mode.
    if ((prefix.value & 0xE7) == 0x26 && size != CodeSize::k64) insn.mem.segment = (prefix.value >> 3) & 3;
  }
}

Repeat repeat_of(const ZydisDecodedInstruction& decoded) {
  if ((decoded.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) != 0) return Repeat::kRep;
  if ((decoded.attributes & ZYDIS_ATTRIB_HAS_REPNE) == 0) return Repeat::kNone;
  // Only CMPS and SCAS look at ZF; for the others processors take F2 as F3 (SDM 2B, REP).
  switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ:
    case ZYDIS_MNEMONIC_SCASB:
    case ZYDIS_MNEMONIC_SCASW:
    case ZYDIS_MNEMONIC_SCASD:
    case ZYDIS_MNEMONIC_SCASQ: return Repeat::kRepne;
    default: return Repeat::kRep;
  }
}

/// SDM 2A, table 2-3: with mod 0, a SIB byte of base 5 has a displacement instead of a base, whatever REX.B
/// or VEX.B says. Zydis 4.0 names R13, and no displacement, where a 67h prefix is in front.
void set_baseless_sib(const ZydisDecodedInstruction& decoded, Insn& insn) {
  constexpr u8 kNoBase = 5;
  const bool has_sib = (decoded.attributes & ZYDIS_ATTRIB_HAS_SIB) != 0;
  if (!has_sib || decoded.raw.modrm.mod != 0 || decoded.raw.sib.base != kNoBase) return;
  insn.mem.base = MemoryOperand::kNoRegister;
  insn.mem.displacement = static_cast<i32>(decoded.raw.disp.value);
}

/// With the prefix 66, AMD's near branches go to 16-bit addresses in 64-bit mode, too, and what they move on
/// the stack has 16 bits (APM 3, 1.2.1); REX.W overrides it. Zydis knows of those with 32-bit displacements
/// only.
void set_narrow_branch(const ZydisDecodedInstruction& decoded, Insn& insn) {
  const bool narrow = (decoded.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0 && decoded.raw.rex.W == 0;
  const bool near = decoded.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR ||
                    decoded.meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT;
  if (!narrow || !near) return;
  insn.operand_size = 2;
  Operand& target = insn.operands[0];
  if (target.kind == OperandKind::kGpr || target.kind == OperandKind::kMemory) target.size = 2;
}

/// AMD's processors have F2 and F3 decide what LOOPE and LOOPNE compare with, and take 90 with REX.B for XCHG
/// of R8 whether or not F3 is in front.
void set_amd_form(const ZydisDecodedInstruction& decoded, Insn& insn) {
  if (insn.mnemonic == ZYDIS_MNEMONIC_PAUSE && decoded.raw.rex.B != 0) {
    insn.mnemonic = ZYDIS_MNEMONIC_XCHG;
    insn.operands[0] = {OperandKind::kGpr, kR8, insn.operand_size};
    insn.operands[1] = {OperandKind::kGpr, kRax, insn.operand_size};
    insn.operand_count = 2;
  }
  if (insn.mnemonic != ZYDIS_MNEMONIC_LOOPE && insn.mnemonic != ZYDIS_MNEMONIC_LOOPNE) return;
  for (const auto& prefix : std::span(decoded.raw.prefixes).first(decoded.raw.prefix_count)) {
    if (prefix.value == 0xF2) insn.mnemonic = ZYDIS_MNEMONIC_LOOPNE;
    if (prefix.value == 0xF3) insn.mnemonic = ZYDIS_MNEMONIC_LOOPE;
  }
}

bool is_prefix(u8 byte, CodeSize size) {
  switch (byte) {
    case 0x26:
    case 0x2E:
    case 0x36:
    case 0x3E:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xF0:
    case 0xF2:
    case 0xF3: return true;
    default: return size == CodeSize::k64 && (byte & 0xF0) == 0x40;  // REX
  }
}

/// Bytes of VEX and EVEX prefixes, which in 64-bit mode stand for no other instruction; 0 for all else.
std::size_t vector_prefix_length(u8 byte) {
  switch (byte) {
    case 0xC5: return 2;
    case 0xC4: return 3;
    case 0x62: return 4;
    default: return 0;
  }
}

/// Of the opcode map, processors look at the low two bits for this: 1 is like map 0F, and all of 3 have one.
bool has_immediate8(unsigned map, u8 opcode) {
  if ((map & 3) == 3) return true;
  if ((map & 3) != 1) return false;
  switch (opcode) {
    case 0x70:
    case 0x71:
    case 0x72:
    case 0x73:
    case 0xA4:
    case 0xAC:
    case 0xBA:
    case 0xC2:
    case 0xC4:
    case 0xC5:
    case 0xC6: return true;
    default: return false;
  }
}

/// Bytes of ModRM, SIB and displacement.
std::size_t address_length(std::span<const u8> bytes, bool addresses16) {
  constexpr u8 kSib = 4;
  constexpr u8 kNoBase = 5;
  constexpr u8 kNoBase16 = 6;
  if (bytes.empty()) return 1;
  const unsigned mod = bytes[0] >> 6;
  const unsigned rm = bytes[0] & 7;
  if (mod == 3) return 1;
  if (addresses16) return mod == 1 ? 2 : mod == 2 || rm == kNoBase16 ? 3 : 1;
  const std::size_t length = rm == kSib ? 2 : 1;
  if (mod != 0) return length + (mod == 1 ? 1 : 4);
  const unsigned base = rm == kSib && bytes.size() > 1 ? bytes[1] & 7U : rm;
  return base == kNoBase ? length + 4 : length;
}

/// Whether opcodes of the one-byte map, and of map 0F, have a ModRM (SDM 2D, tables ). Where no
/// processor has an instruction, none.
bool has_modrm(u8 opcode) {
  if (opcode < 0x40) return (opcode & 7) < 4;
  if (opcode >= 0x80 && opcode < 0x90) return true;
  if (opcode >= 0xD8 && opcode < 0xE0) return true;
  switch (opcode) {
    case 0x62:
    case 0x63:
    case 0x69:
    case 0x6B:
    case 0xC0:
    case 0xC1:
    case 0xC4:
    case 0xC5:
    case 0xC6:
    case 0xC7:
    case 0xD0:
    case 0xD1:
    case 0xD2:
    case 0xD3:
    case 0xF6:
    case 0xF7:
    case 0xFE:
    case 0xFF: return true;
    default: return false;
  }
}
bool has_modrm_0f(u8 opcode) {
  switch (opcode >> 4) {
    case 0x0: return opcode < 0x04 || opcode == 0x0D || opcode == 0x0F;
    case 0x2: return opcode < 0x24 || opcode >= 0x28;
    case 0x3:
    case 0x8: return false;
    case 0x7: return opcode != 0x77 && opcode != 0x7A && opcode != 0x7B;
    case 0xA: return (opcode & 7) >= 3 && opcode != 0xA6 && opcode != 0xA7;
    case 0xC: return opcode < 0xC8;
    default: return true;
  }
}

/// Bytes of the immediate of a one-byte opcode with a ModRM, where a register field without a meaning may
/// stand.
std::size_t immediate_length(u8 opcode, std::size_t operand_size) {
  switch (opcode) {
    case 0x82:
    case 0xC6: return 1;
    case 0xC7: return operand_size;
    default: return 0;
  }
}

/// How long an instruction that does not exist is taken to be: processors fetch all of it, and look at its
/// length, before they find that out. What `bytes` do not have counts as it may be at least.
std::size_t undefined_length(std::span<const u8> bytes, CodeSize size) {
  std::size_t at = 0;
  bool operand_prefix = false;
  bool address_prefix = false;
  for (; at < bytes.size() && is_prefix(bytes[at], size); ++at) {
    operand_prefix = operand_prefix || bytes[at] == 0x66;
    address_prefix = address_prefix || bytes[at] == 0x67;
  }
  if (at == bytes.size()) return at + 1;
  const bool addresses16 = size != CodeSize::k64 && (size == CodeSize::k16) != address_prefix;
  const std::size_t operand_size = (size == CodeSize::k16) != operand_prefix ? 2 : 4;
  // With the ModRM at `at`, and `immediate` bytes behind the address.
  const auto with_address = [&](std::size_t immediate) {
    return at + address_length(bytes.subspan(std::min(at, bytes.size())), addresses16) + immediate;
  };
  if (const std::size_t prefix = vector_prefix_length(bytes[at]); size == CodeSize::k64 && prefix != 0) {
    if (at + prefix >= bytes.size()) return at + prefix + 1;
    const unsigned map = prefix == 2 ? 1 : bytes[at + 1];
    at += prefix;
    const u8 opcode = bytes[at++];
    return with_address(has_immediate8(map, opcode) ? 1 : 0);
  }
  const u8 opcode = bytes[at++];
  if (opcode != 0x0F) return has_modrm(opcode) ? with_address(immediate_length(opcode, operand_size)) : at;
  if (at == bytes.size()) return at + 1;
  const u8 second = bytes[at++];
  if (second == 0x38 || second == 0x3A) {
    ++at;
    return with_address(second == 0x3A ? 1 : 0);
  }
  if (second >= 0x20 && second < 0x24) return at + 1;  // MOV CR and DR: registers, whatever Mod says
  return has_modrm_0f(second) ? with_address(has_immediate8(1, second) || second == 0x0F ? 1 : 0) : at;
}

}  // namespace

DecodeStatus decode(std::span<const u8> bytes, CodeSize size, Insn& insn) {
  return decode_as(Vendor::kIntel, bytes, size, insn);
}

DecodeStatus decode(std::span<const u8> bytes, CodeSize size, Insn& insn, InsnDetails& details) {
  return decode_as(Vendor::kIntel, bytes, size, insn, details);
}

DecodeStatus decode_as(Vendor vendor, std::span<const u8> bytes, CodeSize size, Insn& insn) {
  InsnDetails details;
  return decode_as(vendor, bytes, size, insn, details);
}

DecodeStatus decode_as(Vendor vendor, std::span<const u8> bytes, CodeSize size, Insn& insn,
                       InsnDetails& details) {
  if (bytes.empty()) return DecodeStatus::kTruncated;
  auto& [decoded, operands] = details;
  const ZyanStatus status = ZydisDecoderDecodeFull(&decoder_for(size, vendor), bytes.data(), bytes.size(),
                                                   &decoded, operands.data());
  if (status == ZYDIS_STATUS_NO_MORE_DATA)
    return bytes.size() >= ZYDIS_MAX_INSTRUCTION_LENGTH ? DecodeStatus::kTooLong : DecodeStatus::kTruncated;
  if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) return DecodeStatus::kTooLong;
  if (!ZYAN_SUCCESS(status)) {
    const std::size_t length = undefined_length(bytes, size);
    if (length > ZYDIS_MAX_INSTRUCTION_LENGTH) return DecodeStatus::kTooLong;
    return length > bytes.size() ? DecodeStatus::kTruncated : DecodeStatus::kInvalid;
  }

  insn = Insn{};
  // PREFETCHWT1 is one of the encodings that stand for PREFETCHW where it is unknown.
  insn.mnemonic =
      decoded.mnemonic == ZYDIS_MNEMONIC_PREFETCHWT1 ? ZYDIS_MNEMONIC_PREFETCHW : decoded.mnemonic;
  insn.length = decoded.length;
  insn.operand_size = decoded.operand_width / 8;
  insn.address_size = decoded.address_width / 8;
  insn.lock = (decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
  insn.repeat = repeat_of(decoded);
  insn.opcode = decoded.opcode;
  insn.has_modrm = (decoded.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
  if (insn.has_modrm) insn.modrm = bytes[decoded.raw.modrm.offset];
  insn.isa_set = decoded.meta.isa_set;
  std::copy_n(bytes.begin(), decoded.length, insn.bytes.begin());

  const std::span all(operands.data(), decoded.operand_count);
  set_hidden_segment(all, insn);
  if (insn.mnemonic == ZYDIS_MNEMONIC_MONITOR) set_monitor_segment(decoded, size, insn);
  for (const auto& operand : all) {
    if (operand.visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && insn.operand_count < insn.operands.size())
      set_operand(operand, insn);
  }
  set_baseless_sib(decoded, insn);
  if (vendor == Vendor::kAmd) {
    if (size == CodeSize::k64) set_narrow_branch(decoded, insn);
    set_amd_form(decoded, insn);
  } else if (insn.mnemonic == ZYDIS_MNEMONIC_MOVSXD && insn.operand_size == 2) {
    // MOVSXD r16 reads 16 bits (SDM 2B, MOVSX), of AMD's processors 32, as Zydis 4.0 says.
    insn.operands[1].size = 2;
  }
  return DecodeStatus::kOk;
}

}  // namespace vert::x86

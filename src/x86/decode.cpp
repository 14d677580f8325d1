#include "x86/insn.hpp"

#include <algorithm>

namespace vert::x86 {

namespace {

ZydisDecoder make_decoder(ZydisMachineMode mode, ZydisStackWidth width) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, mode, width);
  return decoder;
}

const ZydisDecoder& decoder_for(CodeSize size) {
  static const std::array kDecoders = {
      make_decoder(ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16),
      make_decoder(ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32),
      make_decoder(ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64),
  };
  return kDecoders[static_cast<std::size_t>(size)];
}

u8 register_id(ZydisRegister reg) { return static_cast<u8>(ZydisRegisterGetId(reg)); }

Operand register_operand(ZydisRegister reg) {
  const auto size = static_cast<u8>(ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, reg) / 8);
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

void set_operand(const ZydisDecodedOperand& from, Insn& insn) {
  Operand& operand = insn.operands[insn.operand_count++];
  switch (from.type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: operand = register_operand(from.reg.value); break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
      operand = {OperandKind::kMemory, 0,
                 from.mem.type == ZYDIS_MEMOP_TYPE_MEM ? static_cast<u8>(from.size / 8) : u8{0}};
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

/// String instructions and XLAT have only hidden memory operands; their source segment still counts.
void set_hidden_segment(std::span<const ZydisDecodedOperand> operands, Insn& insn) {
  for (const auto& operand : operands) {
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
      continue;
    if (operand.mem.base == ZYDIS_REGISTER_RDI || operand.mem.base == ZYDIS_REGISTER_EDI ||
        operand.mem.base == ZYDIS_REGISTER_DI)
      continue;
    insn.mem.segment = register_id(operand.mem.segment);
  }
}

}  // namespace

DecodeStatus decode(std::span<const u8> bytes, CodeSize size, Insn& insn) {
  ZydisDecodedInstruction decoded;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;
  const ZyanStatus status =
      ZydisDecoderDecodeFull(&decoder_for(size), bytes.data(), bytes.size(), &decoded, operands.data());
  if (status == ZYDIS_STATUS_NO_MORE_DATA)
    return bytes.size() >= ZYDIS_MAX_INSTRUCTION_LENGTH ? DecodeStatus::kTooLong : DecodeStatus::kTruncated;
  if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) return DecodeStatus::kTooLong;
  if (!ZYAN_SUCCESS(status)) return DecodeStatus::kInvalid;

  insn = Insn{};
  insn.mnemonic = decoded.mnemonic;
  insn.length = decoded.length;
  insn.operand_size = decoded.operand_width / 8;
  insn.address_size = decoded.address_width / 8;
  insn.lock = (decoded.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
  if ((decoded.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) != 0) insn.repeat = Repeat::kRep;
  if ((decoded.attributes & ZYDIS_ATTRIB_HAS_REPNE) != 0) insn.repeat = Repeat::kRepne;
  insn.opcode = decoded.opcode;
  insn.has_modrm = (decoded.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
  if (insn.has_modrm) insn.modrm = bytes[decoded.raw.modrm.offset];
  insn.isa_set = decoded.meta.isa_set;
  std::copy_n(bytes.begin(), decoded.length, insn.bytes.begin());

  const std::span all(operands.data(), decoded.operand_count);
  set_hidden_segment(all, insn);
  for (const auto& operand : all) {
    if (operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && insn.operand_count < insn.operands.size())
      set_operand(operand, insn);
  }
  return DecodeStatus::kOk;
}

}  // namespace vert::x86

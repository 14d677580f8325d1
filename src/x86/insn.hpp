// A decoded instruction, small and flat, as every engine wants it. The decoder library does the decoding.
#pragma once

#include <array>
#include <span>

#include <Zydis/Zydis.h>

#include "base/types.hpp"
#include "x86/registers.hpp"

namespace vert::x86 {

/// The mode that decides how bytes decode: the size of the code segment (SDM 3A, 3.4.5, flags D/B and L).
enum class CodeSize : u8 { k16, k32, k64 };

enum class OperandKind : u8 {
  kNone,
  kGpr,         // reg: 0..15, size: 1, 2, 4, 8
  kGprHigh,     // AH, CH, DH, BH: reg 0..3, size 1
  kMemory,      // Insn::mem, size in bytes (0: an address only, as for LEA and INVLPG, or a save area)
  kImmediate,   // Insn::imm, sign- or zero-extended to 64 bits as the instruction does
  kSegment,     // reg: SegmentRegister
  kControl,     // reg: CRn
  kDebug,       // reg: DRn
  kFarPointer,  // ptr16:16 or ptr16:32: selector in Insn::imm2, offset in Insn::imm
  kOther,       // x87, MMX, vector, mask registers: the vector unit decodes these for itself
};

struct Operand {
  OperandKind kind = OperandKind::kNone;
  u8 reg = 0;
  u8 size = 0;
};

/// [base + index * scale + displacement], in a segment.
struct MemoryOperand {
  static constexpr u8 kNoRegister = 0xFF;
  static constexpr u8 kRip = 0xFE;  // only as base

  u8 segment = kDs;
  u8 base = kNoRegister;
  u8 index = kNoRegister;
  u8 scale = 1;
  i32 displacement = 0;
  /// MOV with a 64-bit absolute address (A0..A3 in 64-bit mode) keeps it in Insn::imm.
  bool absolute64 = false;
};

enum class Repeat : u8 { kNone, kRep, kRepne };

struct Insn {
  ZydisMnemonic mnemonic = ZYDIS_MNEMONIC_INVALID;
  u8 length = 0;
  u8 operand_size = 0;   // effective, in bytes: 1, 2, 4, 8
  u8 address_size = 0;   // effective, in bytes: 2, 4, 8
  u8 operand_count = 0;  // operands of the assembler's notation
  bool lock = false;
  Repeat repeat = Repeat::kNone;
  u8 opcode = 0;  // the last opcode byte, prefixes and escapes left out
  bool has_modrm = false;
  u8 modrm = 0;
  /// Those of Intel's notation, destination first: also the fixed ones it writes (AL in `and al, imm8`, CL or
  /// 1 in shifts, DX in IN), not the silent ones (RAX in MUL, RSI in MOVS).
  std::array<Operand, 4> operands;
  MemoryOperand mem;
  i64 imm = 0;
  i64 imm2 = 0;                                 // ENTER's nesting level, a far pointer's selector
  ZydisISASet isa_set = ZYDIS_ISA_SET_INVALID;  // for the CPUID gate (x86/cpu_model.hpp)
  std::array<u8, 15> bytes{};

  [[nodiscard]] std::span<const u8> encoding() const { return {bytes.data(), length}; }
};

enum class DecodeStatus : u8 {
  kOk,
  kInvalid,    // #UD
  kTooLong,    // more than 15 bytes: #GP(0)
  kTruncated,  // `bytes` ends inside the instruction: fetch more, or fault on the next page
};

/// All that the decoder library tells: encodings, every operand with its access, flags read and written.
struct InsnDetails {
  ZydisDecodedInstruction instruction;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operand_array;

  [[nodiscard]] std::span<const ZydisDecodedOperand> operands() const {
    return {operand_array.data(), instruction.operand_count};
  }
};

/// Decodes the instruction at the start of `bytes`; writes `insn` only with kOk. Pure, any thread.
[[nodiscard]] DecodeStatus decode(std::span<const u8> bytes, CodeSize size, Insn& insn);
[[nodiscard]] DecodeStatus decode(std::span<const u8> bytes, CodeSize size, Insn& insn, InsnDetails& details);

}  // namespace vert::x86

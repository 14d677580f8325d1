// Re-encodes one guest instruction for 64-bit mode with its general registers and its memory operand
// elsewhere.
//
// It moves the fields of the instruction's own bytes, at the offsets that the decoder gives, so every legacy,
// VEX and EVEX instruction goes the same way. No state: any thread may call it.
#pragma once

#include <Zydis/Zydis.h>

#include <array>
#include <span>

#include "base/types.hpp"

namespace vert::bt {

inline constexpr u8 kNone = 0xFF;  // no base or index register

/// Where the operands that an instruction names in its encoding lie on the host.
struct HostOperands {
  enum class Memory : u8 {
    kKeep,     // the guest's own address form, its registers mapped (LEA, multi-byte NOP)
    kHost,     // [base + index + displacement]
    kContext,  // what was a general register in ModRM.rm is gs:[displacement]
  };

  std::array<u8, 16>
      gpr{};  // the host's number of each guest general register; kNone: in none, do not rewrite
  Memory memory = Memory::kKeep;
  u8 base = kNone;
  u8 index = kNone;
  i32 displacement = 0;
};

/// Writes the instruction that does on the host's operands what `decoded` (of `bytes`, with all its
/// `operands`, hidden ones included) does on the guest's, and returns its length. Returns 0, with `to`
/// undefined, where there is none:
///  * AH..BH beside what needs a REX prefix or in memory, or more than 15 bytes;
///  * branches relative to RIP, RIP-relative and 16-bit addresses under kKeep, gathers, scatters, XOP,
///  3DNow!, tiles;
///  * an implicit memory operand (stack, string, XLAT, MASKMOV), or an implicit general register that is
///  elsewhere;
///  * BT, BTS, BTR and BTC of memory with the bit's number in a register, ENQCMD and UMONITOR, which reach
///  memory that
///    the operand does not tell of;
///  * kContext without a general register in ModRM.rm, or where the memory form does something else than the
///  register
///    form: an upper half that a 32-bit write must clear, a narrower write, no such form;
///  * code of other sizes than 64 bits that 64-bit mode cannot do with operands of the same sizes.
/// Segment overrides are dropped. Under kHost and kContext every byte that is accessed lies in the operand.
[[nodiscard]] unsigned rewrite(const ZydisDecodedInstruction& decoded,
                               std::span<const ZydisDecodedOperand> operands, std::span<const u8> bytes,
                               const HostOperands& host, std::span<u8, 16> to);

}  // namespace vert::bt

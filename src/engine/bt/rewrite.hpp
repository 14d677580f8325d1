// Re-encodes one guest instruction for 64-bit mode, with its general registers and its memory elsewhere.
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

  /// The host's number of each guest general register. One that has kNone cannot be named.
  std::array<u8, 16> gpr{};
  Memory memory = Memory::kKeep;
  u8 base = kNone;
  u8 index = kNone;
  i32 displacement = 0;
};

/// Writes the instruction that does on the host's operands what `decoded` (of `bytes`, with all its
/// `operands`, hidden ones included) does on the guest's, and returns its length. Returns 0, with anything in
/// `to`, where there is none, and where the instruction reaches what its operands do not name:
///  * AH..BH beside what needs a REX prefix, or with kContext; more than 15 bytes;
///  * relative branches; with kKeep, addresses relative to RIP or of 16 bits;
///  * gathers, scatters, tiles, XOP, 3DNow!;
///  * implicit memory (stack, strings, XLAT, MASKMOV), implicit general registers that are elsewhere;
///  * BT, BTS, BTR and BTC of memory by a register's bit number; ENQCMD, UMONITOR;
///  * kContext without a general register in ModRM.rm, or where the memory form does something else: a 32-bit
///    write must clear the upper half, PEXTRB and MOV from a segment register write less, RDRAND has none;
///  * outside 64-bit mode, what has no form in 64-bit mode with operands of the same sizes.
/// Segment overrides are dropped. Who calls decides whether the instruction may run on the host at all.
[[nodiscard]] unsigned rewrite(const ZydisDecodedInstruction& decoded,
                               std::span<const ZydisDecodedOperand> operands, std::span<const u8> bytes,
                               const HostOperands& host, std::span<u8, 16> to);

}  // namespace vert::bt

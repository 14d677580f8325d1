// The decoder library in 64-bit mode, with all that the generator asks of it.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>

#include <Zydis/Zydis.h>

#include "base/types.hpp"

namespace vert::diff {

struct Decoded {
  ZydisDecodedInstruction insn;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;

  [[nodiscard]] std::span<const ZydisDecodedOperand> all() const {
    return {operands.data(), insn.operand_count};
  }
  /// The memory operand that ModRM or an absolute address encodes, if there is one.
  [[nodiscard]] const ZydisDecodedOperand* explicit_memory() const;
};

[[nodiscard]] std::optional<Decoded> decode(std::span<const u8> bytes);
/// Intel syntax, as at that address; "(bad)" if the bytes are no instruction.
[[nodiscard]] std::string disassemble(std::span<const u8> bytes, u64 address);

}  // namespace vert::diff

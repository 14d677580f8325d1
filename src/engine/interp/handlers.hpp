// The instruction functions' directory: from a decoded instruction to the function that executes it.
//
// Each family's file ends in a table of rows; a mnemonic has one function for each operand size it exists in.
#pragma once

#include <array>
#include <span>

#include "engine/interp/core.hpp"

namespace vert::interp {

struct HandlerRow {
  ZydisMnemonic mnemonic;
  std::array<Handler, 4> by_size;  // operand size 1, 2, 4, 8 bytes
};

/// A function that looks at insn.operand_size itself, or does not depend on it.
#define VERT_ANY_SIZE(mnemonic, function)                                 \
  {                                                                       \
    ZYDIS_MNEMONIC_##mnemonic, { function, function, function, function } \
  }
/// A function template over the operand's type.
#define VERT_EACH_SIZE(mnemonic, function)                                                   \
  {                                                                                          \
    ZYDIS_MNEMONIC_##mnemonic, { function<u8>, function<u16>, function<u32>, function<u64> } \
  }

std::span<const HandlerRow> arithmetic_handlers();
std::span<const HandlerRow> shift_handlers();
std::span<const HandlerRow> multiply_handlers();
std::span<const HandlerRow> bit_handlers();
std::span<const HandlerRow> move_handlers();
std::span<const HandlerRow> stack_handlers();
std::span<const HandlerRow> control_handlers();
std::span<const HandlerRow> string_handlers();
std::span<const HandlerRow> system_handlers();
std::span<const HandlerRow> descriptor_handlers();
std::span<const HandlerRow> register_handlers();

/// Null if vert has none: the instruction is #UD.
[[nodiscard]] Handler find_handler(const x86::Insn& insn);

}  // namespace vert::interp

// Instructions by mnemonic and kinds of operands ("mov cr3, reg"), for counting. Pure.
#pragma once

#include <string>

#include "x86/insn.hpp"

namespace vert::bt {

struct InsnClass {
  u16 mnemonic = 0;  // a ZydisMnemonic; 0: cannot be decoded
  u16 operands =
      0;  // of the first two a byte each: OperandKind, and above it the number of a system register

  bool operator==(const InsnClass&) const = default;
};

[[nodiscard]] InsnClass class_of(const x86::Insn& insn);
[[nodiscard]] std::string name_of(InsnClass insn_class);

struct InsnClassHash {
  std::size_t operator()(InsnClass insn_class) const {
    return std::size_t{insn_class.mnemonic} << 16 | insn_class.operands;
  }
};

}  // namespace vert::bt

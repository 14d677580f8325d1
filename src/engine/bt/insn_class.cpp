#include "engine/bt/insn_class.hpp"

#include <fmt/format.h>

namespace vert::bt {

using namespace x86;

namespace {

std::string operand_name(unsigned operand) {
  constexpr std::array<const char*, 6> kSegments = {"es", "cs", "ss", "ds", "fs", "gs"};
  const unsigned number = operand >> 4;
  switch (static_cast<OperandKind>(operand & 0xF)) {
    case OperandKind::kNone: break;
    case OperandKind::kGpr:
    case OperandKind::kGprHigh: return "reg";
    case OperandKind::kMemory: return "mem";
    case OperandKind::kImmediate: return "imm";
    case OperandKind::kSegment: return number < kSegments.size() ? kSegments[number] : "seg";
    case OperandKind::kControl: return fmt::format("cr{}", number);
    case OperandKind::kDebug: return fmt::format("dr{}", number);
    case OperandKind::kFarPointer: return "far";
    case OperandKind::kOther: return "vec";
  }
  return "";
}

}  // namespace

InsnClass class_of(const Insn& insn) {
  const auto operand = [&](unsigned i) -> unsigned {
    if (i >= insn.operand_count || i >= insn.operands.size()) return 0;
    const OperandKind kind = insn.operands[i].kind;
    const bool numbered =
        kind == OperandKind::kSegment || kind == OperandKind::kControl || kind == OperandKind::kDebug;
    return static_cast<unsigned>(kind) | (numbered ? (insn.operands[i].reg & 0xFU) << 4 : 0);
  };
  return {static_cast<u16>(insn.mnemonic), static_cast<u16>(operand(0) | operand(1) << 8)};
}

std::string name_of(InsnClass insn_class) {
  if (insn_class.mnemonic == ZYDIS_MNEMONIC_INVALID) return "(undecodable, or crosses a page's end)";
  const char* mnemonic = ZydisMnemonicGetString(static_cast<ZydisMnemonic>(insn_class.mnemonic));
  std::string name = mnemonic != nullptr ? mnemonic : "?";
  const std::string first = operand_name(insn_class.operands & 0xFF);
  const std::string second = operand_name(insn_class.operands >> 8);
  if (!first.empty()) name += " " + first;
  if (!second.empty()) name += ", " + second;
  return name;
}

}  // namespace vert::bt

#include "engine/interp/handlers.hpp"

#include <bit>
#include <vector>

namespace vert::interp {

namespace {

using Row = std::array<Handler, 4>;

std::vector<Row> make_directory() {
  std::vector<Row> directory(ZYDIS_MNEMONIC_MAX_VALUE + 1, Row{});
  for (const auto& rows : {arithmetic_handlers(), shift_handlers(), multiply_handlers(), bit_handlers(),
                           move_handlers(), stack_handlers(), control_handlers(), string_handlers(),
                           system_handlers(), descriptor_handlers(), register_handlers()}) {
    for (const HandlerRow& row : rows) directory[static_cast<std::size_t>(row.mnemonic)] = row.by_size;
  }
  return directory;
}

}  // namespace

Handler find_handler(const x86::Insn& insn) {
  static const std::vector<Row> kDirectory = make_directory();
  const unsigned size = insn.operand_size == 0 ? 8U : insn.operand_size;
  return kDirectory[insn.mnemonic][static_cast<std::size_t>(std::countr_zero(size))];
}

}  // namespace vert::interp

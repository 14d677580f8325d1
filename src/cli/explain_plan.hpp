// What `vert explain` is asked to show: words of the command line made into code. Pure.
#pragma once

#include <string>
#include <vector>

#include "base/error.hpp"
#include "cli/program_file.hpp"
#include "machine/code_listing.hpp"

namespace vert::cli {

/// "48 89 e5 c3", "4889e5c3", "0x48,0x89": hexadecimal bytes.
[[nodiscard]] Result<std::vector<u8>> parse_hex_bytes(std::string_view text);
/// "401000" or "0x401000".
[[nodiscard]] Result<u64> parse_address(std::string_view text);
/// "user", "kernel" or "user32".
[[nodiscard]] Result<machine::CodeKind> parse_code_kind(const std::string& text);

struct ExplainedRange {
  u64 address = 0;
  u64 size = 0;  // 0: one block
};
/// `where` is the name of a function, ADDRESS (one block), or ADDRESS-ADDRESS; empty: main, else the entry
/// point.
[[nodiscard]] Result<ExplainedRange> choose_code(const ProgramFile& program, const std::string& name,
                                                 const std::string& where);

}  // namespace vert::cli

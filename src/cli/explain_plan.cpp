#include "cli/explain_plan.hpp"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "cli/text.hpp"

namespace vert::cli {
namespace {

std::string_view without_prefix(std::string_view text) {
  return text.starts_with("0x") || text.starts_with("0X") ? text.substr(2) : text;
}

Error unknown_function(const ProgramFile& program, const std::string& name, const std::string& where) {
  if (program.functions().empty())
    return {fmt::format("{} has no symbols (it is stripped); give an address, such as 0x{:x}", name,
                        program.entry())};
  std::vector<std::string> names;
  for (const ProgramSymbol& symbol : program.functions()) names.push_back(symbol.name);
  if (const auto hint = closest_match(where, names))
    return {fmt::format("{} has no function '{}'; did you mean '{}'?", name, where, *hint)};
  return {fmt::format("{} has no function '{}'; 'nm -D {}' or 'nm {}' lists its functions", name, where, name,
                      name)};
}

/// What is known to lie at `address`: up to a function's end if it begins there.
ExplainedRange range_from(const ProgramFile& program, u64 address) {
  for (const ProgramSymbol& symbol : program.functions())
    if (symbol.address == address && symbol.size != 0) return {address, symbol.size};
  return {address, 0};
}

}  // namespace

Result<std::vector<u8>> parse_hex_bytes(std::string_view text) {
  std::vector<u8> bytes;
  while (true) {
    const std::size_t first = text.find_first_not_of(" \t\n,");
    if (first == std::string_view::npos) break;
    text.remove_prefix(first);
    const std::size_t end = std::min(text.find_first_of(" \t\n,"), text.size());
    std::string_view word = without_prefix(text.substr(0, end));
    text.remove_prefix(end);
    const std::string whole(word);
    if (word.size() == 1) return make_error("--bytes: '{}' is half a byte; write '0{}'", whole, whole);
    if (word.size() % 2 != 0 || word.empty())
      return make_error("--bytes: '{}' has an odd number of digits", whole);
    for (; !word.empty(); word.remove_prefix(2)) {
      u8 byte = 0;
      const auto [rest, error] = std::from_chars(word.data(), word.data() + 2, byte, 16);
      if (error != std::errc{} || rest != word.data() + 2)
        return make_error("--bytes: '{}' is not hexadecimal; write them as '48 89 e5 c3'", whole);
      bytes.push_back(byte);
    }
  }
  if (bytes.empty()) return make_error("--bytes: no bytes given; write them as '48 89 e5 c3'");
  return bytes;
}

Result<u64> parse_address(std::string_view text) {
  const std::string_view digits = without_prefix(text);
  u64 address = 0;
  const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), address, 16);
  if (error != std::errc{} || rest != digits.data() + digits.size())
    return make_error("'{}' is not an address; write it as 0x401000", text);
  return address;
}

Result<machine::CodeKind> parse_code_kind(const std::string& text) {
  const std::vector<std::string> known = {"user", "kernel", "user32"};
  if (text == known[0]) return machine::CodeKind::kUser;
  if (text == known[1]) return machine::CodeKind::kKernel;
  if (text == known[2]) return machine::CodeKind::kUser32;
  return make_error("--mode {}: choose {}", text, join_alternatives(known));
}

Result<ExplainedRange> choose_code(const ProgramFile& program, const std::string& name,
                                   const std::string& where) {
  if (where.empty()) {
    const ProgramSymbol* const main = program.function("main");
    return range_from(program, main != nullptr ? main->address : program.entry());
  }
  if (const ProgramSymbol* const function = program.function(where))
    return ExplainedRange{function->address, function->size};
  const std::size_t dash = where.find('-');
  const auto first = parse_address(where.substr(0, dash));
  if (!first) return std::unexpected(unknown_function(program, name, where));
  if (dash == std::string::npos) return ExplainedRange{*first, 0};
  VERT_ASSIGN(const u64 end, parse_address(where.substr(dash + 1)));
  if (end <= *first)
    return make_error("{} is empty: the second address must be greater than the first", where);
  return ExplainedRange{*first, end - *first};
}

}  // namespace vert::cli

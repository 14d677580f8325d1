// Small conversions between what people write and what vert means. Pure; any thread.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::cli {

/// "512M", "2G", "1T", also with "iB" or "B" behind: bytes. The error says what is wrong.
[[nodiscard]] Result<u64> parse_size(std::string_view text);

/// 536870912 as "512 MiB"; one decimal where it is not whole.
[[nodiscard]] std::string format_size(u64 bytes);

/// The candidate that `word` is most likely a slip of, if one is near enough to be worth a hint.
[[nodiscard]] std::optional<std::string> closest_match(std::string_view word,
                                                       std::span<const std::string> candidates);

/// Refuses a name that is not among `known`, with the nearest that is.
[[nodiscard]] Status check_name(std::string_view what, const std::string& name,
                                const std::vector<std::string>& known);

/// "a, b or c".
[[nodiscard]] std::string join_alternatives(std::span<const std::string> words);

/// One line of a table: each cell padded to its column's width (0: as it is), two spaces between.
[[nodiscard]] std::string table_row(std::span<const std::string> cells, std::span<const std::size_t> widths);

/// Lines of rows that have as many cells as the first, in aligned columns.
[[nodiscard]] std::string format_table(std::span<const std::vector<std::string>> rows);

}  // namespace vert::cli

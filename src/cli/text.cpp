// Sizes, near misses and tables; see text.hpp.
#include "cli/text.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <vector>

namespace vert::cli {
namespace {

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> above(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(above.begin(), above.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substitution = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

}  // namespace

Result<u64> parse_size(std::string_view text) {
  u64 number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc::result_out_of_range) return make_error("{} is too large", text);
  if (error != std::errc{}) return make_error("'{}' is not a size; write 512M or 2G", text);

  std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  if (unit.empty()) return make_error("'{}' lacks a unit; write {}M or {}G", text, text, text);
  const auto position = std::string_view("KMGT").find(static_cast<char>(unit[0] & ~0x20));
  const std::string_view tail = unit.substr(1);
  if (position == std::string_view::npos || !(tail.empty() || tail == "B" || tail == "iB")) {
    return make_error("'{}' has the unknown unit '{}'; write K, M, G or T", text, unit);
  }
  const unsigned shift = 10 * (static_cast<unsigned>(position) + 1);
  if (number > std::numeric_limits<u64>::max() >> shift) return make_error("{} is too large", text);
  return number << shift;
}

std::string format_size(u64 bytes) {
  static constexpr std::string_view kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  double value = static_cast<double>(bytes);
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  const bool whole = value == static_cast<double>(static_cast<u64>(value));
  return fmt::format("{:.{}f} {}", value, whole ? 0 : 1, kUnits[unit]);
}

std::optional<std::string> closest_match(std::string_view word, std::span<const std::string> candidates) {
  std::optional<std::string> best;
  // A third of the word may be wrong: 'intrep' is 'interp', but 'x' is nothing.
  std::size_t best_distance = word.size() / 3 + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

Status check_name(std::string_view what, const std::string& name, const std::vector<std::string>& known) {
  if (std::ranges::find(known, name) != known.end()) return {};
  if (const auto hint = closest_match(name, known)) {
    return make_error("unknown {} '{}'; did you mean '{}'?", what, name, *hint);
  }
  return make_error("unknown {} '{}'; it can be {}", what, name, join_alternatives(known));
}

std::string join_alternatives(std::span<const std::string> words) {
  std::string joined;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) joined += i + 1 == words.size() ? " or " : ", ";
    joined += words[i];
  }
  return joined;
}

std::string table_row(std::span<const std::string> cells, std::span<const std::size_t> widths) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += "  ";
    line += i < widths.size() ? fmt::format("{:<{}}", cells[i], widths[i]) : cells[i];
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::string format_table(std::span<const std::vector<std::string>> rows) {
  std::vector<std::size_t> widths(rows[0].size());
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const auto& row : rows) text += table_row(row, widths) + "\n";
  return text;
}

}  // namespace vert::cli

#include "machine/disk_boot/version_order.hpp"

#include <algorithm>

namespace vert::machine::disk_boot {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_separator(char c) {
  return !is_digit(c) && !is_letter(c) && c != '~' && c != '-' && c != '^' && c != '.';
}

void skip(std::string_view& text, bool (*belongs)(char)) {
  while (!text.empty() && belongs(text.front())) text.remove_prefix(1);
}

std::string_view take(std::string_view& text, bool (*belongs)(char)) {
  const std::string_view before = text;
  skip(text, belongs);
  return before.substr(0, before.size() - text.size());
}

bool take_char(std::string_view& text, char c) {
  if (!text.starts_with(c)) return false;
  text.remove_prefix(1);
  return true;
}

std::strong_ordering compare_numbers(std::string_view a, std::string_view b) {
  const auto is_zero = [](char c) { return c == '0'; };
  skip(a, is_zero);
  skip(b, is_zero);
  return a.size() != b.size() ? a.size() <=> b.size() : a <=> b;
}

}  // namespace

std::strong_ordering compare_versions(std::string_view a, std::string_view b) {
  while (true) {
    skip(a, is_separator);
    skip(b, is_separator);
    // Each of these makes its version the lower one, if the other has something else in that place.
    for (const char c : {'~', '\0', '-', '^', '.'}) {
      const bool in_a = c != '\0' ? take_char(a, c) : a.empty();
      const bool in_b = c != '\0' ? take_char(b, c) : b.empty();
      if (in_a != in_b) return in_a ? std::strong_ordering::less : std::strong_ordering::greater;
      if (in_a && c == '\0') return std::strong_ordering::equal;
    }
    const bool numbers = (!a.empty() && is_digit(a.front())) || (!b.empty() && is_digit(b.front()));
    const std::string_view part_a = take(a, numbers ? is_digit : is_letter);
    const std::string_view part_b = take(b, numbers ? is_digit : is_letter);
    if (numbers && part_a.empty() != part_b.empty())
      return part_a.empty() ? std::strong_ordering::less : std::strong_ordering::greater;
    const auto order = numbers ? compare_numbers(part_a, part_b) : part_a <=> part_b;
    if (order != std::strong_ordering::equal) return order;
  }
}

}  // namespace vert::machine::disk_boot

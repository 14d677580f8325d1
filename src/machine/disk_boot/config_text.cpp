#include "machine/disk_boot/config_text.hpp"

#include <sstream>

namespace vert::machine::disk_boot {

namespace {

constexpr std::string_view kBlanks = " \t\r";

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  std::istringstream in{std::string(text)};
  for (std::string line; std::getline(in, line);) lines.emplace_back(trim(line));
  return lines;
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  std::istringstream in{std::string(text)};
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::vector<ConfigLine> config_lines(std::string_view text) {
  std::vector<ConfigLine> lines;
  for (const std::string& line : split_lines(text)) {
    if (line.empty() || line.starts_with('#')) continue;
    const auto end = line.find_first_of(kBlanks);
    const std::string_view value = end == std::string::npos ? "" : std::string_view(line).substr(end);
    lines.push_back({lower_case(line.substr(0, end)), std::string(trim(value))});
  }
  return lines;
}

Variables parse_grub_environment(std::string_view text) {
  Variables variables;
  for (const std::string& line : split_lines(text)) {
    const auto equals = line.find('=');
    if (line.starts_with('#') || equals == std::string::npos) continue;
    variables[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return variables;
}

}  // namespace vert::machine::disk_boot

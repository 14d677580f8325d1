// What the boot loaders' configuration files have in common: lines of a keyword and its value, and names to
// look up.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace vert::machine::disk_boot {

using Variables = std::map<std::string, std::string, std::less<>>;

struct ConfigLine {
  std::string key;  // in lower case
  std::string value;
};

[[nodiscard]] std::string lower_case(std::string_view text);
[[nodiscard]] std::vector<std::string> split_lines(std::string_view text);
[[nodiscard]] std::vector<std::string> split_words(std::string_view text);
/// Lines of a keyword and a value, without comments.
[[nodiscard]] std::vector<ConfigLine> config_lines(std::string_view text);

/// GRUB's environment block: a head, lines of name=value, and padding.
[[nodiscard]] Variables parse_grub_environment(std::string_view text);

}  // namespace vert::machine::disk_boot

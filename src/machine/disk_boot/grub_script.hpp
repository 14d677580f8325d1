// GRUB's grub.cfg as a tree of menu entries (GNU GRUB manual, "Writing full configuration files directly").
//
// Only what distributions write is understood: conditions are not evaluated, functions are skipped.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "machine/disk_boot/config_text.hpp"

namespace vert::machine::disk_boot {

/// A word, with the variables in it not yet replaced.
struct GrubWord {
  struct Piece {
    bool is_variable = false;
    std::string text;
  };
  std::vector<Piece> pieces;
  bool quoted = false;

  [[nodiscard]] bool is(std::string_view text) const;
  [[nodiscard]] bool is_lone_variable() const;
  /// As it is written.
  [[nodiscard]] std::string source() const;
  /// With its variables' values; nothing if one is unknown.
  [[nodiscard]] std::optional<std::string> expand(const Variables& variables) const;
};

using GrubCommand = std::vector<GrubWord>;  // not empty

struct GrubEntry {
  std::string title;
  std::string id;
  bool is_submenu = false;
  std::vector<GrubCommand> commands;
  std::vector<GrubEntry> entries;  // of a submenu
};

/// The file as the topmost menu. Nothing if its blocks do not match, or nest too deeply.
[[nodiscard]] std::optional<GrubEntry> parse_grub_script(std::string_view text);

/// What `set` gives variables outside of entries, if it is the same wherever it is done; `known` is what they
/// have before.
[[nodiscard]] Variables grub_variables(const GrubEntry& script, const Variables& known);

/// The entry that is booted without anybody choosing; null if there is none.
[[nodiscard]] const GrubEntry* grub_default(const GrubEntry& script, const Variables& known);

}  // namespace vert::machine::disk_boot

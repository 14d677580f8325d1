// The escape key of a console on a terminal: Ctrl-A x quits, Ctrl-A d detaches, Ctrl-A Ctrl-A sends one
// Ctrl-A. Pure.
#pragma once

#include <span>
#include <vector>

#include "base/types.hpp"

namespace vert::cli {

/// Takes typed bytes as they come, in pieces of any size.
class EscapeFilter {
 public:
  enum class Command { kNone, kQuit, kDetach, kHelp };

  /// Appends to `out` what the guest shall get, and returns what was asked for. After kQuit and kDetach the
  /// rest of `typed` is dropped.
  Command feed(std::span<const u8> typed, std::vector<u8>& out) {
    Command command = Command::kNone;
    for (const u8 byte : typed) {
      if (!escaped_) {
        escaped_ = byte == kControlA;
        if (!escaped_) out.push_back(byte);
        continue;
      }
      escaped_ = false;
      if (byte == 'x' || byte == 'X') return Command::kQuit;
      if (byte == 'd' || byte == 'D') return Command::kDetach;
      if (byte == 'h' || byte == '?') command = Command::kHelp;
      if (byte == kControlA) out.push_back(byte);
    }
    return command;
  }

 private:
  static constexpr u8 kControlA = 1;
  bool escaped_ = false;
};

}  // namespace vert::cli

// What the differential test leaves out, and why: the only place.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "diff/harness/decoder.hpp"

namespace vert::diff {

struct Exclusion {
  ZydisMnemonic mnemonic;
  std::string_view reason;
};

[[nodiscard]] std::span<const Exclusion> exclusions();

/// The reason why this instruction cannot be compared with the host, if there is one.
[[nodiscard]] std::optional<std::string_view> excluded(const Decoded& decoded);
/// The same for bytes that decode to nothing.
[[nodiscard]] std::optional<std::string_view> excluded_undefined(std::span<const u8> bytes);

}  // namespace vert::diff

// Differences that are explained: what one processor does where the manual leaves it open, or does not say.
#pragma once

#include <string_view>

#include "diff/harness/case.hpp"

namespace vert::diff {

/// What an engine does not promise, though the processor does.
struct Tolerance {
  /// Arithmetic flags at a fault of a memory access or of floating point, where the code that follows
  /// overwrites them before it reads them: a translator checks addresses, and whether the guest's vector
  /// registers are loaded, with instructions that change flags, and keeps only those that matter.
  bool dead_flags = false;
  /// A call to an address that is not canonical stores its return address, on AMD's hosts too.
  bool early_push = false;
};
[[nodiscard]] Tolerance tolerance_of(std::string_view engine);

/// Makes equal in both outputs what need not be equal, after a fault of the instruction that the outputs
/// name.
void waive(const Input& input, const Tolerance& tolerance, Output& native, Output& guest);

}  // namespace vert::diff

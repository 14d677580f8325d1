// Differences between two outputs of the same case, in words.
#pragma once

#include <string>
#include <vector>

#include "diff/harness/case.hpp"

namespace vert::diff {

/// Nothing if the outputs agree. `undefined_flags` are not compared.
[[nodiscard]] std::vector<std::string> differences(const Output& native, const Output& guest,
                                                   u64 undefined_flags);

/// What is worth knowing about an input before an instruction, for reports.
[[nodiscard]] std::string describe(const Registers& registers, bool with_vectors);

}  // namespace vert::diff

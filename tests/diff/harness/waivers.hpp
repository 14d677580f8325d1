// Differences that are explained: what one processor does where the manual leaves it open, or does not say.
#pragma once

#include "diff/harness/case.hpp"

namespace vert::diff {

/// Makes equal in both outputs what need not be equal, after a fault of the instruction that the outputs
/// name.
void waive(const Input& input, Output& native, Output& guest);

}  // namespace vert::diff

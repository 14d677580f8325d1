// One qcow2 file of any content through everything that reads or writes it: for fuzzers of any kind.
#pragma once

#include <span>

#include "base/types.hpp"

namespace vert::storage::qcow2 {

/// Aborts if vert does what it must not. Gives whether the image could be opened.
bool exercise_image(std::span<const u8> file);

}  // namespace vert::storage::qcow2

// Sound qcow2 images, changed in a few places: how fuzzers get past the header.
#pragma once

#include <span>

#include "base/types.hpp"

namespace vert::storage::qcow2 {

/// The first byte chooses an image, each 8 that follow are one change of it. Exercises the result; gives
/// whether it could be opened.
bool exercise_edited_image(std::span<const u8> input);

}  // namespace vert::storage::qcow2

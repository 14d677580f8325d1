// Edited qcow2 images, led by coverage.
#include <cstddef>

#include "fuzz/qcow2/edited_image.hpp"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const vert::u8* bytes, std::size_t size) {
  vert::storage::qcow2::exercise_edited_image({bytes, size});
  return 0;
}

// Hostile drivers of virtio devices, led by coverage.
#include <cstddef>

#include "fuzz/virtio/hostile_driver.hpp"

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const vert::u8* bytes, std::size_t size) {
  vert::fuzz::drive_virtio({bytes, size});
  return 0;
}

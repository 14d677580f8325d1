// A hostile driver of one virtio device, made of bytes: what it writes to guest memory and to registers, when
// it notifies, resets, pauses and saves.
#pragma once

#include <span>

#include "base/types.hpp"

namespace vert::fuzz {

/// Runs the driver that `bytes` describe; returns when the device has gone. Aborts on what must not be.
void drive_virtio(std::span<const u8> bytes);

}  // namespace vert::fuzz

// What firmware leaves for real mode: interrupt vectors and their handlers, the BIOS data area, and the way
// from the reset vector to a reset. No BIOS services: those calls just return.
#pragma once

#include "memory/guest_memory.hpp"

namespace vert::machine {

/// Memory below kBiosCodeBase + 512 bytes is RAM and all zeroes but for ACPI tables.
void put_real_mode_firmware(memory::GuestMemory& memory);

}  // namespace vert::machine

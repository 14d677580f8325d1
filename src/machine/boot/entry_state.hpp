// The processor state that boot protocols ask for at a kernel's entry, with its GDT and page tables.
#pragma once

#include "cpu/cpu_state.hpp"
#include "machine/boot/placement.hpp"

namespace vert::machine {

/// Flat 32-bit protected mode without paging, interrupts off, a 32-bit TSS loaded (PVH and multiboot 1, 3.2).
void enter_flat32(Placement& placement, cpu::CpuState& state, u32 entry);

/// 64-bit mode with the first 4 GiB mapped one to one (Linux x86 boot protocol, 64-bit entry).
void enter_long_mode(Placement& placement, cpu::CpuState& state, u64 entry);

}  // namespace vert::machine

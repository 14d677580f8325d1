// Where everything lies in guest-physical memory, and the E820 list that tells the guest.
//
// Q35-shaped: RAM up to a hole below 4 GiB that holds ECAM, the PCI window and the interrupt controllers;
// the rest of RAM follows at 4 GiB. Pure values, made once for each machine.
#pragma once

#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"
#include "memory/guest_memory.hpp"

namespace vert::machine {

inline constexpr u64 kEbdaBase = 0x9FC00;  // end of conventional memory
inline constexpr u64 kBiosTablesBase =
    0xE0000;  // ACPI tables: where an OS looks for the RSDP (ACPI 6.4, 5.2.5.1)
inline constexpr u64 kBiosTablesEnd = 0xFFE00;
inline constexpr u64 kBiosCodeBase = kBiosTablesEnd;  // real-mode interrupt handlers
inline constexpr u64 kOneMiB = 0x100000;
inline constexpr u64 kEcamBase = 0xB0000000;  // also the end of low RAM
inline constexpr u64 kEcamSize = 0x10000000;
inline constexpr u64 kPciWindowBase = 0xC0000000;
inline constexpr u64 kPciWindowEnd = 0xFEC00000;
inline constexpr u64 kIoApicBase = 0xFEC00000;
inline constexpr u64 kLocalApicBase = 0xFEE00000;
inline constexpr u64 kFourGiB = u64{1} << 32;

/// The least and the most RAM that a machine can have.
inline constexpr u64 kMinMemory = u64{4} << 20;
inline constexpr u64 kMaxMemory = u64{1} << 42;

/// Types as INT 15h AX=E820h gives them (ACPI 6.4, table 15-374). Multiboot and PVH use the same numbers.
enum class E820Type : u32 { kRam = 1, kReserved = 2 };

struct E820Entry {
  u64 base = 0;
  u64 size = 0;
  E820Type type = E820Type::kRam;
  bool operator==(const E820Entry&) const = default;
};

class MemoryMap {
 public:
  /// For that much RAM. Error: too little, too much, or not whole pages.
  [[nodiscard]] static Result<MemoryMap> make(u64 memory_bytes);

  /// End of RAM below 4 GiB.
  [[nodiscard]] u64 low_end() const { return low_end_; }
  /// End of RAM above 4 GiB; kFourGiB if there is none.
  [[nodiscard]] u64 high_end() const { return high_end_; }
  /// What GuestMemory is made of.
  [[nodiscard]] std::vector<memory::RamRegion> ram_regions() const;
  /// Ascending and disjoint.
  [[nodiscard]] std::vector<E820Entry> e820() const;

 private:
  MemoryMap(u64 low_end, u64 high_end) : low_end_(low_end), high_end_(high_end) {}

  u64 low_end_;
  u64 high_end_;
};

}  // namespace vert::machine

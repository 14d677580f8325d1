// The ACPI tables of the machine: RSDP, XSDT, FADT, FACS, MADT, MCFG and DSDT (ACPI 6.4, chapter 5).
//
// Made at no particular address. vert lays them into RAM from kBiosTablesBase on, which the E820 list
// reserves; firmware gets them by fw_cfg, with the commands that tell it how to place them
// (table_loader.hpp).
#pragma once

#include <vector>

#include "base/types.hpp"

namespace vert::machine {

/// What the tables say besides the power-management device's own constants (device/legacy/acpi_pm.hpp).
namespace acpi {
/// The power-management timer has 32 bits; its device must be made so.
inline constexpr bool kWidePmTimer = true;
inline constexpr u16 kResetPort = 0xCF9;
inline constexpr u8 kResetValue = 6;
inline constexpr u8 kRtcCenturyIndex = 0x32;
inline constexpr u8 kIoApicId = 0;
/// PCI interrupt pins are wired to this I/O APIC input and the seven after it.
inline constexpr u8 kPciIrqBase = 16;
inline constexpr u8 kPciIrqCount = 8;
}  // namespace acpi

/// The I/O APIC input of a PCI function's interrupt pin (0 is INTA): what _PRT says.
[[nodiscard]] constexpr u8 pci_interrupt(u8 slot, u8 pin) {
  return static_cast<u8>(acpi::kPciIrqBase + (slot + pin) % acpi::kPciIrqCount);
}

/// Tables as they are before anybody has given them an address.
struct AcpiBlob {
  /// To be raised by the address of AcpiTables::tables.
  struct Pointer {
    u32 offset = 0;
    u8 size = 0;
  };
  /// The byte at `offset`, 0 as yet, makes the sum of the range 0, once all pointers are right.
  struct Checksum {
    u32 offset = 0;
    u32 start = 0;
    u32 size = 0;
  };
  std::vector<u8> bytes;
  std::vector<Pointer> pointers;
  std::vector<Checksum> checksums;
};

struct AcpiTables {
  AcpiBlob rsdp;
  AcpiBlob tables;  // all others; to lie at a multiple of kAlignment
  static constexpr u32 kAlignment = 64;
};

/// `cpus` is 1 to 255; their APIC IDs are 0 to cpus - 1.
[[nodiscard]] AcpiTables make_acpi_tables(unsigned cpus);

/// To be copied to `base`, a multiple of AcpiTables::kAlignment: the RSDP, and behind it the tables.
[[nodiscard]] std::vector<u8> place_acpi_tables(AcpiTables tables, u64 base);

/// The DSDT alone, with its header.
[[nodiscard]] std::vector<u8> make_dsdt(unsigned cpus);

}  // namespace vert::machine

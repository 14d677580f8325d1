// The ACPI tables of the machine: RSDP, XSDT, FADT, FACS, MADT, MCFG and DSDT (ACPI 6.4, chapter 5).
//
// Made once for each machine and laid into RAM from kBiosTablesBase on; the E820 list reserves that range.
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

struct AcpiTables {
  /// To be copied to kBiosTablesBase; ends before kBiosTablesEnd. The RSDP comes first.
  std::vector<u8> image;
};

/// `cpus` is 1 to 255; their APIC IDs are 0 to cpus - 1.
[[nodiscard]] AcpiTables make_acpi_tables(unsigned cpus);

/// The DSDT alone, with its header.
[[nodiscard]] std::vector<u8> make_dsdt(unsigned cpus);

}  // namespace vert::machine

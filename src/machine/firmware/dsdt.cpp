// The DSDT: what the guest cannot enumerate by itself.
#include <fmt/format.h>

#include "device/legacy/acpi_pm.hpp"
#include "device/legacy/fw_cfg.hpp"
#include "machine/firmware/acpi_tables.hpp"
#include "machine/firmware/aml.hpp"
#include "machine/firmware/memory_map.hpp"
#include "machine/firmware/table_builder.hpp"

namespace vert::machine {

namespace {

using aml::Bytes;

Bytes processors(unsigned cpus) {
  std::vector<Bytes> devices;
  for (unsigned cpu = 0; cpu < cpus; ++cpu)
    devices.push_back(aml::device(
        fmt::format("C{:03X}", cpu),
        aml::join({aml::name("_HID", aml::string("ACPI0007")), aml::name("_UID", aml::integer(cpu))})));
  return aml::join(devices);
}

/// _PRT: fixed wiring of each slot's pins to I/O APIC inputs (ACPI 6.4, 6.2.13).
Bytes pci_routing() {
  constexpr u8 kSlots = 32;
  constexpr u8 kPins = 4;
  constexpr u32 kAnyFunction = 0xFFFF;
  std::vector<Bytes> routes;
  for (u8 slot = 0; slot < kSlots; ++slot) {
    for (u8 pin = 0; pin < kPins; ++pin) {
      const Bytes route[] = {aml::integer((u32{slot} << 16) | kAnyFunction), aml::integer(pin),
                             aml::integer(0), aml::integer(pci_interrupt(slot, pin))};
      routes.push_back(aml::package(route));
    }
  }
  return aml::name("_PRT", aml::package(routes));
}

/// _OSC: the OS may have what it asks for, out of what PCI Firmware 3.3, table 4-5 knows.
Bytes pci_operating_system_capabilities() {
  constexpr u64 kUnknownUuid = 1U << 2;
  constexpr u64 kGranted = 0x3F;  // hot plug, SHPC, PME, AER, PCIe capability structures, LTR
  const Bytes status = aml::path("CDW1");
  const Bytes control = aml::path("CDW3");
  return aml::method(
      "_OSC", 4,
      aml::join({aml::create_dword_field(aml::argument(3), 0, "CDW1"),
                 aml::if_then(aml::equal(aml::argument(0), aml::uuid("33DB4D5B-1FF7-401C-9657-7441C03DD766")),
                              aml::join({aml::create_dword_field(aml::argument(3), 8, "CDW3"),
                                         aml::bit_and(control, aml::integer(kGranted), control)})),
                 aml::otherwise(aml::bit_or(status, aml::integer(kUnknownUuid), status)),
                 aml::return_value(aml::argument(3))}));
}

Bytes pci_root() {
  constexpr u16 kConfigPorts = 0xCF8;
  constexpr u16 kConfigPortCount = 8;
  return aml::device(
      "PCI0",
      aml::join({aml::name("_HID", aml::eisa_id("PNP0A08")), aml::name("_CID", aml::eisa_id("PNP0A03")),
                 aml::name("_UID", aml::integer(0)), aml::name("_SEG", aml::integer(0)),
                 aml::name("_BBN", aml::integer(0)), aml::name("_CCA", aml::integer(1)),
                 aml::name("_CRS", aml::resources({aml::bus_numbers(0, 255),
                                                   aml::io_ports(kConfigPorts, kConfigPortCount),
                                                   aml::io_window(0, kConfigPorts - 1),
                                                   aml::io_window(kConfigPorts + kConfigPortCount, 0xFFFF),
                                                   aml::memory_window(static_cast<u32>(kPciWindowBase),
                                                                      static_cast<u32>(kPciWindowEnd - 1))})),
                 pci_routing(), pci_operating_system_capabilities()}));
}

Bytes isa_device(std::string_view name, std::string_view id, u64 unique_id,
                 std::initializer_list<Bytes> descriptors) {
  return aml::device(
      name, aml::join({aml::name("_HID", aml::eisa_id(id)), aml::name("_UID", aml::integer(unique_id)),
                       aml::name("_CRS", aml::resources(descriptors))}));
}

Bytes isa_devices() {
  constexpr u8 kPmPortCount = 0x80;
  constexpr u8 kPresentHidden = 0xB;  // present, enabled, working, but not for users (ACPI 6.4, 6.3.7)
  return aml::join({
      isa_device("COM1", "PNP0501", 1, {aml::io_ports(0x3F8, 8), aml::isa_irq(4)}),
      isa_device("RTC_", "PNP0B00", 0, {aml::io_ports(0x70, 2), aml::isa_irq(8)}),
      isa_device("KBD_", "PNP0303", 0, {aml::io_ports(0x60, 1), aml::io_ports(0x64, 1), aml::isa_irq(1)}),
      isa_device("MOU_", "PNP0F13", 0, {aml::isa_irq(12)}),
      isa_device("SPKR", "PNP0800", 0, {aml::io_ports(0x61, 1)}),
      // What no driver owns; that ECAM is here lets the OS trust MCFG (PCI Firmware 3.3, 4.1.2).
      isa_device("MBRD", "PNP0C02", 0,
                 {aml::io_ports(device::kAcpiSmiCommandPort, 2),
                  aml::io_ports(device::kAcpiPm1EventBlock, kPmPortCount),
                  aml::fixed_memory(static_cast<u32>(kEcamBase), static_cast<u32>(kEcamSize))}),
      // QEMU, docs/specs/fw_cfg.rst, "ACPI Interface".
      aml::device("FWCF", aml::join({aml::name("_HID", aml::string("QEMU0002")),
                                     aml::name("_STA", aml::integer(kPresentHidden)),
                                     aml::name("_CRS", aml::resources({aml::io_ports(
                                                           device::FwCfg::kBase, device::FwCfg::kPorts)}))})),
  });
}

Bytes soft_off() {
  const Bytes sleep_types[] = {aml::integer(device::kAcpiSleepTypeS5), aml::integer(0), aml::integer(0),
                               aml::integer(0)};
  return aml::name("\\_S5_", aml::package(sleep_types));
}

}  // namespace

std::vector<u8> make_dsdt(unsigned cpus) {
  constexpr u8 kRevision = 2;  // 64-bit integers
  return TableBuilder("DSDT", kRevision)
      .bytes(aml::scope("\\_SB_", aml::join({processors(cpus), pci_root(), isa_devices()})))
      .bytes(soft_off())
      .finish();
}

}  // namespace vert::machine

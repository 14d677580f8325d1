#include "machine/firmware/acpi_tables.hpp"

#include <algorithm>
#include <cstring>
#include <span>

#include "base/error.hpp"
#include "device/legacy/acpi_pm.hpp"
#include "machine/firmware/memory_map.hpp"
#include "machine/firmware/table_builder.hpp"

namespace vert::machine {

namespace {

constexpr u8 kAccessByte = 1;
constexpr u8 kAccessWord = 2;
constexpr u8 kAccessDword = 3;

/// ACPI 6.4, 5.2.10. Revision 2, so that it has the 64-bit waking vector.
std::vector<u8> make_facs() {
  constexpr std::size_t kSize = 64;
  constexpr u8 kVersion = 2;
  std::vector<u8> facs(kSize);
  std::ranges::copy(std::string_view("FACS"), facs.begin());
  facs[4] = kSize;
  facs[32] = kVersion;
  return facs;
}

/// ACPI 6.4, 5.2.9.
constexpr u32 kFadtFacs = 36;
constexpr u32 kFadtDsdt = 40;
constexpr u32 kFadtXDsdt = 140;

std::vector<u8> make_fadt(u32 facs, u32 dsdt) {
  constexpr u8 kRevision = 6;
  constexpr u8 kMinorRevision = 4;
  constexpr u8 kProfileUnspecified = 0;
  constexpr u16 kNoC2 = 101;                      // microseconds above what C2 and C3 may take: not supported
  constexpr u16 kNoC3 = 1001;                     // (ACPI 6.4, 8.1.2)
  constexpr u16 kBootArchitecture = (1U << 0)     // legacy devices
                                    | (1U << 1)   // 8042
                                    | (1U << 2)   // no VGA
                                    | (1U << 4);  // no ASPM control
  constexpr u32 kFlags = (1U << 0)                // WBINVD works
                         | (1U << 2)              // C1 on all processors
                         | (1U << 5)              // no fixed sleep button
                         | (1U << 10);            // reset register
  return TableBuilder("FACP", kRevision)
      .u32_(facs)
      .u32_(dsdt)
      .u8_(0)
      .u8_(kProfileUnspecified)
      .u16_(device::kAcpiSciIrq)
      .u32_(device::kAcpiSmiCommandPort)
      .u8_(device::kAcpiEnableCommand)
      .u8_(device::kAcpiDisableCommand)
      .zeroes(2)  // S4BIOS_REQ, PSTATE_CNT
      .u32_(device::kAcpiPm1EventBlock)
      .u32_(0)
      .u32_(device::kAcpiPm1ControlBlock)
      .zeroes(8)  // PM1b_CNT_BLK, PM2_CNT_BLK
      .u32_(device::kAcpiPmTimerBlock)
      .zeroes(8)  // GPE0_BLK, GPE1_BLK
      .u8_(4)     // PM1_EVT_LEN
      .u8_(2)     // PM1_CNT_LEN
      .u8_(0)     // PM2_CNT_LEN
      .u8_(4)     // PM_TMR_LEN
      .zeroes(4)  // GPE0_BLK_LEN, GPE1_BLK_LEN, GPE1_BASE, CST_CNT
      .u16_(kNoC2)
      .u16_(kNoC3)
      .zeroes(8)  // FLUSH_SIZE, FLUSH_STRIDE, DUTY_OFFSET, DUTY_WIDTH, DAY_ALRM, MON_ALRM
      .u8_(acpi::kRtcCenturyIndex)
      .u16_(kBootArchitecture)
      .u8_(0)
      .u32_(kFlags)
      .io_register(acpi::kResetPort, 8, kAccessByte)
      .u8_(acpi::kResetValue)
      .u16_(0)  // ARM_BOOT_ARCH
      .u8_(kMinorRevision)
      .u64_(0)  // X_FIRMWARE_CTRL: FIRMWARE_CTRL says it
      .u64_(dsdt)
      .io_register(device::kAcpiPm1EventBlock, 32, kAccessWord)
      .no_register()
      .io_register(device::kAcpiPm1ControlBlock, 16, kAccessWord)
      .no_register()
      .no_register()  // X_PM2_CNT_BLK
      .io_register(device::kAcpiPmTimerBlock, 32, kAccessDword)
      .no_register()  // X_GPE0_BLK
      .no_register()  // X_GPE1_BLK
      .no_register()  // SLEEP_CONTROL_REG
      .no_register()  // SLEEP_STATUS_REG
      .zeroes(8)      // hypervisor vendor
      .finish();
}

/// ACPI 6.4, 5.2.12.
std::vector<u8> make_madt(unsigned cpus) {
  constexpr u8 kRevision = 5;
  constexpr u32 kPcAtCompatible = 1;  // there are 8259s
  constexpr u8 kLocalApic = 0;
  constexpr u8 kIoApic = 1;
  constexpr u8 kInterruptOverride = 2;
  constexpr u8 kLocalApicNmi = 4;
  constexpr u32 kEnabled = 1;
  constexpr u8 kIsa = 0;
  constexpr u16 kBusDefault = 0;
  constexpr u16 kActiveHighLevel = 0xD;
  constexpr u8 kAllProcessors = 0xFF;

  TableBuilder table("APIC", kRevision);
  table.u32_(static_cast<u32>(kLocalApicBase)).u32_(kPcAtCompatible);
  for (unsigned cpu = 0; cpu < cpus; ++cpu)
    table.u8_(kLocalApic).u8_(8).u8_(static_cast<u8>(cpu)).u8_(static_cast<u8>(cpu)).u32_(kEnabled);
  table.u8_(kIoApic).u8_(12).u8_(acpi::kIoApicId).u8_(0).u32_(static_cast<u32>(kIoApicBase)).u32_(0);
  // The 8254 is wired to input 2 (the 8259s to input 0), the SCI is level-triggered.
  table.u8_(kInterruptOverride).u8_(10).u8_(kIsa).u8_(0).u32_(2).u16_(kBusDefault);
  table.u8_(kInterruptOverride)
      .u8_(10)
      .u8_(kIsa)
      .u8_(u8{device::kAcpiSciIrq})
      .u32_(device::kAcpiSciIrq)
      .u16_(kActiveHighLevel);
  table.u8_(kLocalApicNmi).u8_(6).u8_(kAllProcessors).u16_(kBusDefault).u8_(1);
  return table.finish();
}

/// PCI Firmware 3.3, 4.1.2.
std::vector<u8> make_mcfg() {
  constexpr u8 kRevision = 1;
  return TableBuilder("MCFG", kRevision)
      .zeroes(8)
      .u64_(kEcamBase)
      .u16_(0)  // segment group
      .u8_(0)   // first and last bus
      .u8_(255)
      .zeroes(4)
      .finish();
}

/// ACPI 6.4, 5.2.5.3.
AcpiBlob make_rsdp(u32 xsdt) {
  constexpr u32 kSize = 36;
  constexpr u32 kFirstPart = 20;
  constexpr u8 kRevision = 2;
  constexpr u32 kXsdtAddress = 24;
  std::vector<u8> rsdp(kSize);
  std::ranges::copy(std::string_view("RSD PTR "), rsdp.begin());
  std::ranges::copy(std::string_view("VERT  "), rsdp.begin() + 9);
  rsdp[15] = kRevision;
  rsdp[20] = kSize;
  for (unsigned i = 0; i < 4; ++i) rsdp[kXsdtAddress + i] = static_cast<u8>(xsdt >> (8 * i));
  return {.bytes = rsdp, .pointers = {{kXsdtAddress, 8}}, .checksums = {{8, 0, kFirstPart}, {32, 0, kSize}}};
}

/// Appends tables to a blob, each on a 64-byte boundary (the FACS needs it).
class Layout {
 public:
  /// Offset of the table in the blob.
  u32 add(const std::vector<u8>& table) {
    const u32 offset =
        (static_cast<u32>(blob_.bytes.size()) + AcpiTables::kAlignment - 1) & ~(AcpiTables::kAlignment - 1);
    blob_.bytes.resize(offset);
    blob_.bytes.insert(blob_.bytes.end(), table.begin(), table.end());
    return offset;
  }
  /// A table with offsets of others in it, at these places.
  u32 add(const std::vector<u8>& table, std::span<const AcpiBlob::Pointer> pointers) {
    constexpr u32 kChecksum = 9;
    const u32 offset = add(table);
    for (const AcpiBlob::Pointer& pointer : pointers)
      blob_.pointers.push_back({offset + pointer.offset, pointer.size});
    blob_.bytes[offset + kChecksum] = 0;
    blob_.checksums.push_back({offset + kChecksum, offset, static_cast<u32>(table.size())});
    return offset;
  }
  [[nodiscard]] AcpiBlob take() { return std::move(blob_); }

 private:
  AcpiBlob blob_;
};

void relocate(AcpiBlob& blob, u64 tables) {
  for (const AcpiBlob::Pointer& pointer : blob.pointers) {
    u64 value = 0;
    std::memcpy(&value, &blob.bytes[pointer.offset], pointer.size);
    value += tables;
    std::memcpy(&blob.bytes[pointer.offset], &value, pointer.size);
  }
  for (const AcpiBlob::Checksum& sum : blob.checksums)
    blob.bytes[sum.offset] = TableBuilder::checksum(&blob.bytes[sum.start], sum.size);
}

}  // namespace

AcpiTables make_acpi_tables(unsigned cpus) {
  VERT_CHECK(cpus >= 1 && cpus <= 255);
  Layout layout;
  const u32 facs = layout.add(make_facs());
  const u32 dsdt = layout.add(make_dsdt(cpus));
  const AcpiBlob::Pointer fadt_pointers[] = {{kFadtFacs, 4}, {kFadtDsdt, 4}, {kFadtXDsdt, 8}};
  const u32 tables[] = {layout.add(make_fadt(facs, dsdt), fadt_pointers), layout.add(make_madt(cpus)),
                        layout.add(make_mcfg())};
  TableBuilder xsdt("XSDT", 1);
  std::vector<AcpiBlob::Pointer> xsdt_pointers;
  for (const u32 table : tables) {
    xsdt_pointers.push_back({static_cast<u32>(TableBuilder::kHeaderSize + 8 * xsdt_pointers.size()), 8});
    xsdt.u64_(table);
  }
  AcpiBlob rsdp = make_rsdp(layout.add(xsdt.finish(), xsdt_pointers));
  return {.rsdp = std::move(rsdp), .tables = layout.take()};
}

std::vector<u8> place_acpi_tables(AcpiTables tables, u64 base) {
  VERT_CHECK(base % AcpiTables::kAlignment == 0 && tables.rsdp.bytes.size() <= AcpiTables::kAlignment);
  relocate(tables.rsdp, base + AcpiTables::kAlignment);
  relocate(tables.tables, base + AcpiTables::kAlignment);
  std::vector<u8> image = std::move(tables.rsdp.bytes);
  image.resize(AcpiTables::kAlignment);
  image.insert(image.end(), tables.tables.bytes.begin(), tables.tables.bytes.end());
  return image;
}

}  // namespace vert::machine

#include "machine/firmware/acpi_tables.hpp"

#include <algorithm>

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
std::vector<u8> make_rsdp(u64 xsdt) {
  constexpr std::size_t kSize = 36;
  constexpr std::size_t kFirstPart = 20;
  constexpr u8 kRevision = 2;
  std::vector<u8> rsdp(kSize);
  std::ranges::copy(std::string_view("RSD PTR "), rsdp.begin());
  std::ranges::copy(std::string_view("VERT  "), rsdp.begin() + 9);
  rsdp[15] = kRevision;
  rsdp[20] = kSize;
  for (unsigned i = 0; i < 8; ++i) rsdp[24 + i] = static_cast<u8>(xsdt >> (8 * i));
  rsdp[8] = TableBuilder::checksum(rsdp.data(), kFirstPart);
  rsdp[32] = TableBuilder::checksum(rsdp.data(), kSize);
  return rsdp;
}

/// Appends tables to the image, each on a 64-byte boundary (the FACS needs it).
class Layout {
 public:
  explicit Layout(std::size_t first) : image_(first) {}

  /// Guest-physical address of the table.
  u32 add(const std::vector<u8>& table) {
    constexpr std::size_t kAlignment = 64;
    const std::size_t offset = (image_.size() + kAlignment - 1) & ~(kAlignment - 1);
    image_.resize(offset);
    image_.insert(image_.end(), table.begin(), table.end());
    return static_cast<u32>(kBiosTablesBase + offset);
  }
  [[nodiscard]] std::vector<u8>& image() { return image_; }

 private:
  std::vector<u8> image_;
};

}  // namespace

AcpiTables make_acpi_tables(unsigned cpus) {
  VERT_CHECK(cpus >= 1 && cpus <= 255);
  Layout layout(make_rsdp(0).size());
  const u32 facs = layout.add(make_facs());
  const u32 dsdt = layout.add(make_dsdt(cpus));
  const u32 tables[] = {layout.add(make_fadt(facs, dsdt)), layout.add(make_madt(cpus)),
                        layout.add(make_mcfg())};
  TableBuilder xsdt("XSDT", 1);
  for (const u32 table : tables) xsdt.u64_(table);
  std::ranges::copy(make_rsdp(layout.add(xsdt.finish())), layout.image().begin());
  VERT_CHECK(layout.image().size() <= kBiosTablesEnd - kBiosTablesBase);
  return {std::move(layout.image())};
}

}  // namespace vert::machine

#include "device/pci/pci_host.hpp"

namespace vert::device {
namespace {

constexpr u64 kAddressPort = 0xcf8;
constexpr u64 kDataPort = 0xcfc;
constexpr u32 kAddressEnable = 0x8000'0000;
constexpr u32 kAddressWritable = 0x80ff'fffc;

constexpr u16 kVendorIntel = 0x8086;

constexpr const char* kComponent = "pci-host";
constexpr u32 kVersion = 1;

/// Q35 memory controller hub (Intel 3 Series data sheet, 5.1). Its registers place what vert places itself,
/// so they only tell.
class HostBridge final : public PciDevice {
 public:
  explicit HostBridge(PciBuses buses)
      : PciDevice("pci-host-bridge", buses,
                  {.vendor = kVendorIntel, .device = 0x29c0, .class_code = 0x06'00'00}) {
    constexpr u16 kPciExpressBase = 0x60;  // bits 2-1: 256 MiB
    constexpr u32 kEnabled = 1;
    set_config(kPciExpressBase, 4, static_cast<u32>(kEcamBase) | kEnabled);
    seal();
  }
};

/// ICH9 LPC interface bridge (Intel ICH9 data sheet, 13.1).
class LpcBridge final : public PciDevice {
 public:
  explicit LpcBridge(PciBuses buses)
      : PciDevice("lpc-bridge", buses,
                  {.vendor = kVendorIntel, .device = 0x2918, .class_code = 0x06'01'00, .revision = 2}) {
    set_multifunction();
    set_config(kPciCommand, 2, kPciCommandIo | kPciCommandMemory | kPciCommandBusMaster);  // read-only here
    set_writable(kPciCommand, 2, 0);
    set_config(0x40, 4, 0x0601);  // PMBASE: 0x600, an I/O address
    set_config(0x44, 1, 0x80);    // ACPI_CNTL: decoded, SCI is IRQ 9
    set_config(0x48, 4, 0x0001);  // GPIOBASE: not placed, and not decoded (0x4c)
    for (u16 pirq = 0x60; pirq < 0x64; ++pirq) add_pirq(pirq);
    set_config(0x64, 1, 0xd0);  // SIRQ_CNTL: serial interrupts on, continuous
    for (u16 pirq = 0x68; pirq < 0x6c; ++pirq) add_pirq(pirq);
    set_writable(0x80, 4, 0x3f0f'1377);  // LPC_I/O_DEC, LPC_EN: what legacy ports are decoded
    set_config(0xf0, 4, 0xfed1'c000);    // RCBA: placed, but there is nothing behind it, so off
    seal();
  }

 private:
  /// PIRQn_ROUT: routing off; bit 7 and the interrupt number can be written.
  void add_pirq(u16 offset) {
    set_config(offset, 1, 0x80);
    set_writable(offset, 1, 0x8f);
  }
};

}  // namespace

PciHost::PciHost(PciBuses buses)
    : buses_(buses),
      address_port_(*this),
      data_port_(*this),
      ecam_(*this),
      host_bridge_(std::make_unique<HostBridge>(buses)),
      lpc_bridge_(std::make_unique<LpcBridge>(buses)) {
  devices_[0x00 << 3 | 0] = host_bridge_.get();
  devices_[0x1f << 3 | 0] = lpc_bridge_.get();
}

Status PciHost::map() {
  VERT_TRY(buses_.ports.map(kAddressPort, 1, address_port_, "pci-address"));
  VERT_TRY(buses_.ports.map(kDataPort, 4, data_port_, "pci-data"));
  return buses_.mmio.map(kEcamBase, kEcamSize, ecam_, "pci-ecam");
}

Status PciHost::add(unsigned slot, unsigned function, PciDevice& device) {
  if (slot >= 32 || function >= 8) return make_error("there is no PCI place 00:{:02x}.{}", slot, function);
  PciDevice*& place = devices_[slot << 3 | function];
  if (place != nullptr)
    return make_error("PCI place 00:{:02x}.{} is taken by {}", slot, function, place->name());
  place = &device;
  return {};
}

PciDevice* PciHost::device_at(u64 bus, u64 devfn) const {
  return bus == 0 ? devices_[devfn & 0xff] : nullptr;
}

PciHost::Target PciHost::data_target(u64 offset) const {
  const std::lock_guard lock(mutex_);
  const u32 address = state_.address;
  if ((address & kAddressEnable) == 0) return {};
  return {device_at(address >> 16 & 0xff, address >> 8 & 0xff), static_cast<u16>((address & 0xfc) + offset)};
}

PciHost::Target PciHost::ecam_target(u64 offset) const {
  return {device_at(offset >> 20, offset >> 12 & 0xff), static_cast<u16>(offset & 0xfff)};
}

u64 PciHost::Target::read(unsigned size) const {
  if (device == nullptr) return ~u64{0};
  if (size <= 4) return device->config_read(offset, size);
  const u64 high = device->config_read(static_cast<u16>(offset + 4), 4);
  return high << 32 | device->config_read(offset, 4);
}

void PciHost::Target::write(unsigned size, u64 value) const {
  if (device == nullptr) return;
  device->config_write(offset, size <= 4 ? size : 4, static_cast<u32>(value));
  if (size > 4) device->config_write(static_cast<u16>(offset + 4), 4, static_cast<u32>(value >> 32));
}

// Only whole doublewords reach the address register; anything else passes it by (PCI 3.0, 3.2.2.3.2).

u64 PciHost::AddressPort::read(u64 /*offset*/, unsigned size) {
  if (size != 4) return ~u64{0};
  const std::lock_guard lock(host_.mutex_);
  return host_.state_.address;
}

void PciHost::AddressPort::write(u64 /*offset*/, unsigned size, u64 value) {
  if (size != 4) return;
  const std::lock_guard lock(host_.mutex_);
  host_.state_.address = static_cast<u32>(value) & kAddressWritable;
}

u64 PciHost::DataPort::read(u64 offset, unsigned size) { return host_.data_target(offset).read(size); }
void PciHost::DataPort::write(u64 offset, unsigned size, u64 value) {
  host_.data_target(offset).write(size, value);
}
u64 PciHost::EcamWindow::read(u64 offset, unsigned size) { return host_.ecam_target(offset).read(size); }
void PciHost::EcamWindow::write(u64 offset, unsigned size, u64 value) {
  host_.ecam_target(offset).write(size, value);
}

base::Document PciHost::save() const {
  const std::lock_guard lock(mutex_);
  return base::Document{{"host", base::save(kComponent, kVersion, state_)},
                        {"host_bridge", host_bridge_->save_config()},
                        {"lpc_bridge", lpc_bridge_->save_config()}};
}

Status PciHost::restore(const base::Document& document) {
  for (const char* part : {"host", "host_bridge", "lpc_bridge"})
    if (!document.is_object() || !document.contains(part) || document.size() != 3)
      return make_error("saved state of the PCI host is incomplete, or has more in it than it should");
  VERT_ASSIGN(const PciHostState state, base::restore<PciHostState>(kComponent, kVersion, document["host"]));
  if ((state.address & ~kAddressWritable) != 0)
    return make_error("saved state of the PCI host is out of range");
  VERT_TRY(host_bridge_->restore_config(document["host_bridge"]));
  VERT_TRY(lpc_bridge_->restore_config(document["lpc_bridge"]));
  const std::lock_guard lock(mutex_);
  state_ = state;
  return {};
}

void PciHost::reset() {
  host_bridge_->reset_config();
  lpc_bridge_->reset_config();
  const std::lock_guard lock(mutex_);
  state_ = {};
}

}  // namespace vert::device

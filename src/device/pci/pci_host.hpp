// Bus 0 of a Q35-shaped PC: the host bridge, the ICH9 LPC bridge, and both ways to configuration space
// (PCI 3.0, 3.2.2.3.2: mechanism #1; PCI Express, 7.2.2: ECAM).
//
// Owned by machine/; accesses on any vCPU thread. Devices are added before the guest runs. There is one bus:
// on any other, and where there is no device, reads give all ones and writes vanish.
#pragma once

#include <array>
#include <memory>
#include <mutex>

#include "base/archive.hpp"
#include "device/pci/pci_device.hpp"
#include "memory/bus.hpp"

namespace vert::device {

// What MCFG and the memory map must say.
inline constexpr u64 kEcamBase = 0xb000'0000;
inline constexpr u64 kEcamSize = u64{256} << 20;

struct PciHostState {
  u32 address = 0;  // 0xcf8

  template <typename Archive>
  void fields(Archive& a) {
    a("address", address);
  }
};

class PciHost {
 public:
  explicit PciHost(PciBuses buses);

  /// Claims 0xcf8, 0xcfc-0xcff and the ECAM window. Not 0xcf9: that is the reset register.
  [[nodiscard]] Status map();

  /// Puts a device at 00:slot.function. Error: that place is taken, or there is none such.
  [[nodiscard]] Status add(unsigned slot, unsigned function, PciDevice& device);

  /// The address register and the two bridges; other devices save themselves.
  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  /// As save(): the address register and the bridges.
  void reset();

 private:
  class AddressPort final : public memory::BusDevice {
   public:
    explicit AddressPort(PciHost& host) : host_(host) {}
    [[nodiscard]] u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;

   private:
    PciHost& host_;
  };

  class DataPort final : public memory::BusDevice {
   public:
    explicit DataPort(PciHost& host) : host_(host) {}
    [[nodiscard]] u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;

   private:
    PciHost& host_;
  };

  class EcamWindow final : public memory::BusDevice {
   public:
    explicit EcamWindow(PciHost& host) : host_(host) {}
    [[nodiscard]] u64 read(u64 offset, unsigned size) override;
    void write(u64 offset, unsigned size, u64 value) override;

   private:
    PciHost& host_;
  };

  struct Target {
    PciDevice* device = nullptr;
    u16 offset = 0;

    [[nodiscard]] u64 read(unsigned size) const;
    void write(unsigned size, u64 value) const;
  };
  [[nodiscard]] PciDevice* device_at(u64 bus, u64 devfn) const;
  /// What the data port reaches; nothing while the enable bit is off.
  [[nodiscard]] Target data_target(u64 offset) const;
  [[nodiscard]] Target ecam_target(u64 offset) const;

  PciBuses buses_;
  AddressPort address_port_;
  DataPort data_port_;
  EcamWindow ecam_;
  std::unique_ptr<PciDevice> host_bridge_;
  std::unique_ptr<PciDevice> lpc_bridge_;
  std::array<PciDevice*, 256> devices_{};  // by device and function; fixed once the guest runs

  mutable std::mutex mutex_;
  PciHostState state_;
};

}  // namespace vert::device

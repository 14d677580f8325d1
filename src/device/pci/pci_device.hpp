// A PCI function: its configuration space, BARs and capabilities (PCI 3.0, chapter 6; PCI Express, 7.2).
//
// Owned by machine/; configuration accesses come from PciHost on any vCPU thread. The space is bytes with a
// mask of what a guest may write and one of what it clears by writing 1; nothing else it does has any effect.
// BARs are mapped on the buses while their decoding is on, and where the guest puts them: a BAR on top of
// something else stays unmapped, and answers again once it moves.
//
// A device derives from this, builds its space in its constructor, and from then on only configuration
// accesses change it.
#pragma once

#include <array>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/archive.hpp"
#include "memory/bus.hpp"

namespace vert::device {

// Offsets in the header (PCI 3.0, 6.1).
inline constexpr u16 kPciCommand = 0x04;
inline constexpr u16 kPciStatus = 0x06;
inline constexpr u16 kPciBar0 = 0x10;
inline constexpr u16 kPciSubsystemVendor = 0x2c;
inline constexpr u16 kPciCapabilityPointer = 0x34;
inline constexpr u16 kPciInterruptLine = 0x3c;

inline constexpr u16 kPciCommandIo = 0x0001;
inline constexpr u16 kPciCommandMemory = 0x0002;
inline constexpr u16 kPciCommandBusMaster = 0x0004;
inline constexpr u16 kPciCommandInterruptDisable = 0x0400;

struct PciIdentity {
  u16 vendor = 0;
  u16 device = 0;
  u32 class_code = 0;  // base class, subclass, programming interface: 0x060000
  u8 revision = 0;
  u16 subsystem_vendor = 0;
  u16 subsystem = 0;
};

/// The buses that BARs go to. Both outlive the devices.
struct PciBuses {
  memory::Bus& mmio;
  memory::Bus& ports;
};

struct PciDeviceState {
  std::vector<u8> config;

  template <typename Archive>
  void fields(Archive& a) {
    a("config", config);
  }
};

class PciDevice {
 public:
  static constexpr u16 kConventionalSize = 256;
  static constexpr u16 kExpressSize = 4096;

  enum class BarKind : u8 { kIo, kMemory32, kMemory64, kMemory64Prefetchable };

  virtual ~PciDevice();
  PciDevice(const PciDevice&) = delete;
  PciDevice& operator=(const PciDevice&) = delete;

  /// `size` is 1, 2 or 4. What lies beyond the device's space reads as ones.
  [[nodiscard]] u32 config_read(u16 offset, unsigned size);
  void config_write(u16 offset, unsigned size, u32 value);

  [[nodiscard]] const std::string& name() const { return name_; }

  /// The configuration space; what else the device holds it saves itself.
  [[nodiscard]] base::Document save_config() const;
  [[nodiscard]] Status restore_config(const base::Document& document);
  /// Back to power-on: BARs unmapped.
  void reset_config();

 protected:
  PciDevice(std::string name, PciBuses buses, const PciIdentity& identity,
            u16 config_size = kConventionalSize);

  // For constructors.

  /// `size` is a power of two, at least 16 (4 for I/O). `handler` outlives the device's being mapped.
  void add_bar(unsigned index, BarKind kind, u64 size, memory::BusDevice& handler);
  /// Links a capability of `size` bytes in, header included; returns its offset. The rest of it is zero.
  u16 add_capability(u8 id, u8 size);
  /// The pin (1 is INTA#), and the line register for the guest to note its routing in.
  void set_interrupt_pin(u8 pin);
  void set_multifunction();
  void set_config(u16 offset, unsigned size, u32 value);
  void set_writable(u16 offset, unsigned size, u32 mask);
  void set_write_1_to_clear(u16 offset, unsigned size, u32 mask);
  /// To be called once at the end: what the space holds now is what a reset brings back.
  void seal();

  // For later, on any thread; not from on_config_changed() of the same device with a lock of its own held.

  [[nodiscard]] u32 config(u16 offset, unsigned size) const;
  /// Changes what the guest sees, whatever the masks say (status bits and the like). Restore and reset bring
  /// such bits back to power-on: the device sets them again in on_config_changed().
  void update_config(u16 offset, unsigned size, u32 value);

  // Called with no lock held. An access covers [offset, offset + size).

  /// Before the guest reads: for registers whose reading does something.
  virtual void on_config_read(u16 offset, unsigned size);
  /// After the guest has written `value`: for registers whose writing does something.
  virtual void on_config_written(u16 offset, unsigned size, u32 value);
  /// After any change: by the guest (before on_config_written()), by restore and by reset.
  virtual void on_config_changed();

 private:
  struct Bar {
    BarKind kind = BarKind::kMemory32;
    u64 size = 0;  // 0: there is none
    memory::BusDevice* handler = nullptr;
    std::optional<u64> mapped_at;
  };

  [[nodiscard]] u32 load(u16 offset, unsigned size) const;
  void store(std::vector<u8>& bytes, u16 offset, unsigned size, u32 value) const;
  [[nodiscard]] bool is_io(const Bar& bar) const { return bar.kind == BarKind::kIo; }
  [[nodiscard]] bool is_64bit(const Bar& bar) const { return bar.kind >= BarKind::kMemory64; }
  [[nodiscard]] memory::Bus& bus_of(const Bar& bar) const { return is_io(bar) ? buses_.ports : buses_.mmio; }
  [[nodiscard]] std::optional<u64> wanted_address(unsigned index) const;
  void remap_bars();
  void unmap_bars();

  const std::string name_;
  const PciBuses buses_;
  const u16 config_size_;

  mutable std::mutex mutex_;
  std::vector<u8> config_;
  std::vector<u8> writable_;
  std::vector<u8> clearable_;
  std::vector<u8> power_on_;
  std::array<Bar, 6> bars_;
  u16 last_capability_ = 0;
  u16 free_for_capabilities_ = 0x40;
};

}  // namespace vert::device

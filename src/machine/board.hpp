// The mainboard: every device of the machine but processors, with its wiring and its places on the buses.
//
// Owned by Machine. Devices lock for themselves; create() before any vCPU runs, reset() while none does.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/time.hpp"
#include "cpu/local_apic.hpp"
#include "device/irqchip/i8259.hpp"
#include "device/irqchip/interrupt_router.hpp"
#include "device/irqchip/io_apic.hpp"
#include "device/legacy/acpi_pm.hpp"
#include "device/legacy/cmos_rtc.hpp"
#include "device/legacy/debug_exit.hpp"
#include "device/legacy/fw_cfg.hpp"
#include "device/legacy/i8042.hpp"
#include "device/legacy/i8254.hpp"
#include "device/legacy/ignored_ports.hpp"
#include "device/legacy/pc_testdev.hpp"
#include "device/legacy/reset_control.hpp"
#include "device/legacy/serial_16550.hpp"
#include "device/pci/pci_host.hpp"
#include "device/virtio/console.hpp"
#include "device/virtio/virtio_pci.hpp"
#include "machine/disks.hpp"
#include "machine/firmware/memory_map.hpp"
#include "memory/bus.hpp"

namespace vert::machine {

/// What devices tell the machine; all called with no lock held, on vCPU threads but for console_output, which
/// may come on any.
struct BoardEvents {
  std::function<void()> power_off;
  std::function<void()> reset;
  std::function<void(u32 value)> debug_exit;
  std::function<void(std::span<const u8>)> console_output;
  /// On the thread of a disk: the host has no room for what the guest writes to it.
  std::function<void(const std::string& path)> disk_full;
  /// There, too: the host failed, and the guest sees that its disk did. The error names the file.
  std::function<void(const Error&)> disk_error;
};

class Board {
 public:
  /// `devices` are names of optional_devices(). All arguments but `events` and `devices` outlive the board.
  [[nodiscard]] static Result<std::unique_ptr<Board>> create(const MemoryMap& map,
                                                             memory::GuestMemory& memory,
                                                             base::TimeService& time, cpu::ApicFabric& fabric,
                                                             const BoardEvents& events,
                                                             const std::vector<std::string>& devices);
  /// The next one; before any vCPU runs. `cpus` is how many there are.
  [[nodiscard]] Status add_disk(const DiskConfig& config, unsigned cpus, const BoardEvents& events);
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  /// Names for `--device`.
  [[nodiscard]] static std::span<const std::string_view> optional_devices();

  [[nodiscard]] memory::Bus& mmio() { return mmio_; }
  [[nodiscard]] memory::Bus& pio() { return pio_; }
  [[nodiscard]] device::I8259& pic() { return pic_; }
  /// As Machine has them.
  [[nodiscard]] std::size_t console_input(std::span<const u8> bytes);
  void set_console_ready_callback(const std::function<void()>& on_ready);
  void set_console_size(u16 columns, u16 rows);
  [[nodiscard]] device::AcpiPm& power_management() { return pm_; }

  [[nodiscard]] device::FwCfg& fw_cfg() { return fw_cfg_; }
  [[nodiscard]] device::IoApic& io_apic() { return io_apic_; }

  /// In the order in which they were added.
  [[nodiscard]] std::span<device::virtio::Block* const> disks() const { return disks_; }
  /// What the guest wrote to them is in the images' files. While paused.
  [[nodiscard]] Status flush_disks();

  /// While paused, no device touches guest memory. Timers are the event loop's.
  void pause();
  void resume();
  /// Whether an interrupt of a device, as things stand, is an NMI or INIT.
  [[nodiscard]] bool sends_unmaskable();
  /// All devices as after power-up.
  void reset();
  /// What firmware does to them before it hands over: 8259s and timer as SeaBIOS leaves them.
  void set_up_as_firmware();

 private:
  Board(const MemoryMap& map, memory::GuestMemory& memory, base::TimeService& time, cpu::ApicFabric& fabric,
        const BoardEvents& events);
  [[nodiscard]] Status map_devices();
  [[nodiscard]] Status add_optional(const std::string& name, const BoardEvents& events);
  [[nodiscard]] Status add_virtio(std::string_view name,
                                  std::unique_ptr<device::virtio::VirtioDevice> device);

  memory::Bus mmio_;
  memory::Bus pio_;
  memory::GuestMemory& memory_;
  cpu::ApicFabric& fabric_;
  device::I8259 pic_;
  device::IoApic io_apic_;
  device::InterruptRouter router_;
  device::Serial16550 serial_;
  device::I8254 pit_;
  device::CmosRtc rtc_;
  device::AcpiPm pm_;
  device::I8042 keyboard_;
  device::ResetControl reset_control_;
  device::IgnoredPorts ignored_ports_;
  device::FwCfg fw_cfg_;
  device::PciHost pci_;
  std::optional<device::DebugExit> debug_exit_;
  std::optional<device::PcTestdev> testdev_;
  std::vector<device::virtio::Block*> disks_;                       // of those below
  std::vector<std::unique_ptr<device::virtio::VirtioPci>> virtio_;  // in the order of their slots
  device::virtio::Console* console_ = nullptr;                      // one of these, if there is one
};

}  // namespace vert::machine

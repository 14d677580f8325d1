// The fixed ACPI hardware of the ICH9: PM1a event and control registers, the power-management timer, and
// the SMI command ports that switch ACPI on (ACPI 6.5, 4.8; Intel ICH9 data sheet, 13.8).
//
// Owned by machine/. Ports on any vCPU thread, the power button on any thread, the timer's carry on the timer
// thread. There is no SMM: the commands to enable and disable ACPI act at once.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "base/archive.hpp"
#include "base/time.hpp"
#include "device/interrupt_line.hpp"
#include "device/legacy/port_range.hpp"

namespace vert::device {

// What the FADT must say.
inline constexpr u16 kAcpiPmBase = 0x600;
inline constexpr u16 kAcpiPm1EventBlock = kAcpiPmBase;        // 4 bytes
inline constexpr u16 kAcpiPm1ControlBlock = kAcpiPmBase + 4;  // 2 bytes
inline constexpr u16 kAcpiPmTimerBlock = kAcpiPmBase + 8;     // 4 bytes
inline constexpr u16 kAcpiSmiCommandPort = 0xb2;
inline constexpr u8 kAcpiEnableCommand = 0x02;
inline constexpr u8 kAcpiDisableCommand = 0x03;
inline constexpr unsigned kAcpiSciIrq = 9;
inline constexpr u8 kAcpiSleepTypeS5 = 0;  // for \_S5; as on QEMU's Q35, which guests without ACPI rely on
inline constexpr u64 kAcpiPmTimerHertz = 3'579'545;

struct AcpiPmState {
  u16 status = 0;
  u16 enable = 0;
  u16 control = 0;
  u8 smi_command = 0;
  u8 smi_data = 0;
  u64 seen_carries = 0;  // changes of the timer's top bit that TMR_STS knows of

  template <typename Archive>
  void fields(Archive& a) {
    a("status", status);
    a("enable", enable);
    a("control", control);
    a("smi_command", smi_command);
    a("smi_data", smi_data);
    a("seen_carries", seen_carries);
  }
};

class AcpiPm final : private memory::BusDevice {
 public:
  enum class TimerWidth : u8 { k24 = 24, k32 = 32 };  // the FADT's TMR_VAL_EXT says which

  /// `sci` is level-triggered IRQ 9. `power_off` is called on a vCPU thread with no lock held.
  AcpiPm(base::TimeService& time, InterruptLine& sci, TimerWidth width, std::function<void()> power_off);

  /// Claims 0x600-0x67f and 0xb2-0xb3.
  [[nodiscard]] Status map(memory::Bus& ports);

  void press_power_button();

  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  void reset();

 private:
  // The registers from 0x600. A wide read of the timer is one moment, so bytes will not do.
  [[nodiscard]] u64 read(u64 offset, unsigned size) override;
  void write(u64 offset, unsigned size, u64 value) override;
  [[nodiscard]] u8 read_byte(u64 offset, u32 timer) const;
  [[nodiscard]] u8 read_smi(u64 offset);
  void write_smi(u64 offset, u8 value);
  /// True if the write asks for S5.
  [[nodiscard]] bool write_control(unsigned byte, u8 value);
  [[nodiscard]] u64 ticks() const;
  void on_timer();
  void sync();

  base::TimeService& time_;
  InterruptLine& sci_;
  unsigned timer_bits_;
  std::function<void()> power_off_;
  PortRange smi_ports_;

  mutable std::mutex mutex_;
  AcpiPmState state_;
  std::optional<u64> armed_ns_;
  std::unique_ptr<base::Timer> timer_;  // last: its destructor waits for on_timer()
};

}  // namespace vert::device

// The I/O APIC (82093AA datasheet, Intel 290566; version 20h with the EOI register, ICH9 datasheet, 13.5).
//
// Owned by machine/. Any thread. One mutex, held while messages are sent, so that the remote IRR of a level
// interrupt is set before its EOI can come; the local APICs' locks lie further in. Pins take "asserted", and
// the polarity bits mean nothing.
#pragma once

#include <array>
#include <mutex>

#include "base/archive.hpp"
#include "cpu/local_apic.hpp"
#include "memory/bus.hpp"

namespace vert::device {

struct IoApicState {
  static constexpr unsigned kPins = 24;
  static constexpr u64 kMasked = u64{1} << 16;

  u8 id = 0;
  u8 select = 0;
  u32 levels = 0;  // bit n: pin n is asserted
  std::array<u64, kPins> entries = masked_entries();

  template <typename Archive>
  void fields(Archive& a) {
    a("id", id);
    a("select", select);
    a("levels", levels);
    a("entries", entries);
  }

  static constexpr std::array<u64, kPins> masked_entries() {
    std::array<u64, kPins> entries{};
    entries.fill(kMasked);
    return entries;
  }
};

class IoApic final : public memory::BusDevice, public cpu::EoiListener {
 public:
  static constexpr unsigned kPins = IoApicState::kPins;
  static constexpr u64 kBase = 0xFEC00000;
  static constexpr u64 kSize = 0x1000;

  explicit IoApic(cpu::ApicFabric& fabric) : fabric_(fabric) {}
  IoApic(const IoApic&) = delete;
  IoApic& operator=(const IoApic&) = delete;

  [[nodiscard]] u64 read(u64 offset, unsigned size) override;
  void write(u64 offset, unsigned size, u64 value) override;
  void end_of_interrupt(u8 vector) override;

  /// Drives a pin, 0..23.
  void set_pin(unsigned pin, bool asserted);

  /// An unmasked pin sends NMI or INIT, which reach processors that take no interrupts.
  [[nodiscard]] bool sends_unmaskable();

  /// As after power-up; levels of the pins stay.
  void reset();
  [[nodiscard]] base::Document save();
  [[nodiscard]] Status restore(const base::Document& document);

 private:
  [[nodiscard]] u32 read_register() const;
  void write_register(u32 value);
  void write_entry(unsigned pin, bool high, u32 value);
  void serve_level(unsigned pin);
  [[nodiscard]] bool send(unsigned pin);

  cpu::ApicFabric& fabric_;
  std::mutex mutex_;
  IoApicState state_;
};

}  // namespace vert::device

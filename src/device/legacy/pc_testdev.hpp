// QEMU's pc-testdev, as kvm-unit-tests uses it (hw/misc/pc-testdev.c there tells the ports):
//
//   0xe0-0xe3      a 32-bit register, any width        0xe8-0xeb  the same register, byte by byte
//   0xe4           "flush page": there to be an exit to user space; has no effect a guest can see
//   0x2000-0x2017  each byte sets interrupt line 0-23  0xff000000 64 KiB of memory behind MMIO
//
// Owned by machine/; any vCPU thread.
#pragma once

#include <array>
#include <mutex>
#include <vector>

#include "base/archive.hpp"
#include "device/interrupt_line.hpp"
#include "device/legacy/port_range.hpp"

namespace vert::device {

struct PcTestdevState {
  u32 data = 0;
  std::vector<u8> memory;  // 64 KiB

  template <typename Archive>
  void fields(Archive& a) {
    a("data", data);
    a("memory", memory);
  }
};

class PcTestdev {
 public:
  static constexpr unsigned kLines = 24;
  static constexpr u64 kMemoryBase = 0xff00'0000;
  static constexpr u64 kMemorySize = 0x10000;

  /// `lines` are the I/O APIC's inputs as ISA interrupts reach them; null: not connected.
  explicit PcTestdev(const std::array<InterruptLine*, kLines>& lines);

  [[nodiscard]] Status map(memory::Bus& ports, memory::Bus& mmio);

  [[nodiscard]] base::Document save() const;
  [[nodiscard]] Status restore(const base::Document& document);
  void reset();

 private:
  /// A BusDevice that hands on to two members.
  template <auto Read, auto Write>
  class Window final : public memory::BusDevice {
   public:
    explicit Window(PcTestdev& owner) : owner_(owner) {}
    [[nodiscard]] u64 read(u64 offset, unsigned size) override { return (owner_.*Read)(offset, size); }
    void write(u64 offset, unsigned size, u64 value) override { (owner_.*Write)(offset, size, value); }

   private:
    PcTestdev& owner_;
  };

  [[nodiscard]] u64 read_data(u64 offset, unsigned size);
  void write_data(u64 offset, unsigned size, u64 value);
  [[nodiscard]] u64 read_nothing(u64 offset, unsigned size);
  void write_lines(u64 offset, unsigned size, u64 value);
  void write_nothing(u64 offset, unsigned size, u64 value);
  [[nodiscard]] u64 read_memory(u64 offset, unsigned size);
  void write_memory(u64 offset, unsigned size, u64 value);

  std::array<InterruptLine*, kLines> lines_;
  Window<&PcTestdev::read_data, &PcTestdev::write_data> data_;
  PortRange data_bytes_;
  Window<&PcTestdev::read_nothing, &PcTestdev::write_nothing> flush_;
  Window<&PcTestdev::read_nothing, &PcTestdev::write_lines> line_ports_;
  Window<&PcTestdev::read_memory, &PcTestdev::write_memory> memory_;

  mutable std::mutex mutex_;
  PcTestdevState state_;
};

}  // namespace vert::device

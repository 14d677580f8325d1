// QEMU's isa-debug-exit: a write to port 0xf4 ends the machine with the value written.
//
// Owned by machine/; ports on any vCPU thread. It has no state. Reads give 0, as on QEMU.
#pragma once

#include <functional>

#include "memory/bus.hpp"

namespace vert::device {

class DebugExit final : private memory::BusDevice {
 public:
  static constexpr u64 kBase = 0xf4;
  static constexpr u64 kPorts = 4;

  /// `on_exit` is called on a vCPU thread; the exit status is (value << 1) | 1.
  explicit DebugExit(std::function<void(u32 value)> on_exit) : on_exit_(std::move(on_exit)) {}

  /// Claims 0xf4-0xf7.
  [[nodiscard]] Status map(memory::Bus& ports) { return ports.map(kBase, kPorts, *this, "isa-debug-exit"); }

 private:
  [[nodiscard]] u64 read(u64 /*offset*/, unsigned /*size*/) override { return 0; }
  void write(u64 /*offset*/, unsigned /*size*/, u64 value) override { on_exit_(static_cast<u32>(value)); }

  std::function<void(u32 value)> on_exit_;
};

}  // namespace vert::device

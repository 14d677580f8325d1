// Ports that are written for their delay or for a display that nobody has: 0x80 (POST code) and 0xed.
//
// Owned by machine/; no state. Reads give all ones, as from an empty bus.
#pragma once

#include "memory/bus.hpp"

namespace vert::device {

class IgnoredPorts final : private memory::BusDevice {
 public:
  [[nodiscard]] Status map(memory::Bus& ports) {
    VERT_TRY(ports.map(0x80, 1, *this, "post-code"));
    return ports.map(0xed, 1, *this, "io-delay");
  }

 private:
  [[nodiscard]] u64 read(u64 /*offset*/, unsigned /*size*/) override { return ~u64{0}; }
  void write(u64 /*offset*/, unsigned /*size*/, u64 /*value*/) override {}
};

}  // namespace vert::device

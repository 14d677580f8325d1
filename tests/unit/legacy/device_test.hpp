// What every test of a legacy device needs: a port bus, a clock turned by hand, and lines that remember.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "base/fake_time.hpp"
#include "device/interrupt_line.hpp"
#include "memory/bus.hpp"

namespace vert::device {

class FakeLine final : public InterruptLine {
 public:
  void set(bool new_level) override {
    if (new_level && !level) ++rises;
    level = new_level;
  }
  bool level = false;
  u64 rises = 0;
};

struct PortTest {
  [[nodiscard]] u8 in(u64 port) const { return static_cast<u8>(ports.read(port, 1)); }
  void out(u64 port, unsigned value) const { ports.write(port, 1, value); }

  base::FakeTime time;
  memory::Bus ports;
};

/// Random reads and writes of [base, base + size) with time passing; the same ones for the same seed.
template <typename Each>
void fuzz_range(const memory::Bus& bus, base::FakeTime& time, u64 base, u64 size, unsigned seed,
                Each&& each) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20'000; ++i) {
    const u64 address = base + random() % size;
    const unsigned width = 1u << random() % 4;
    if (random() % 2 == 0) {
      bus.write(address, width, random());
    } else {
      static_cast<void>(bus.read(address, width));
    }
    if (random() % 8 == 0) time.advance(random() % 200'000);
    each(random);
  }
}

}  // namespace vert::device

// From a device's line to the vCPU, through both kinds of controller.
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "device/irqchip/interrupt_router.hpp"
#include "unit/cpu_apic/apic_machine.hpp"

namespace vert::test {
namespace {

using M = ApicMachine;
using device::InterruptLine;

struct Router : testing::Test {
  Router() : m(2, &pic), io(m.fabric), router(pic, io) {
    m.fabric.set_eoi_listener(&io);
    pic.set_output_callback([this] { m.apic().external_interrupt_changed(); });
    EXPECT_TRUE(pic.attach(pio));
    for (const u8 value : std::initializer_list<u8>{0x08, 0x04, 0x01}) {
      if (value == 0x08) pio.write(0x20, 1, 0x11);
      pio.write(0x21, 1, value);
    }
    for (const u8 value : std::initializer_list<u8>{0x70, 0x02, 0x01}) {
      if (value == 0x70) pio.write(0xA0, 1, 0x11);
      pio.write(0xA1, 1, value);
    }
    m.apic().enter_virtual_wire_mode();
    m.apic(1).mmio_write(M::kSvr, 0x1FF);
  }
  void entry(unsigned pin, u32 destination, u32 low) {
    io.write(0x00, 4, 0x11 + pin * 2);
    io.write(0x10, 4, destination << 24);
    io.write(0x00, 4, 0x10 + pin * 2);
    io.write(0x10, 4, low);
  }

  memory::Bus pio;
  device::I8259 pic;
  M m;
  device::IoApic io;
  device::InterruptRouter router;
};

TEST_F(Router, TimerIsInput0AndPin2) {
  InterruptLine& timer = router.connect_isa(0);
  entry(2, 1, 0x30);
  entry(0, 1, 0x99);
  timer.set(true);
  EXPECT_EQ(m.events(0).take(~0U), cpu::VcpuEvents::kInterrupt);
  EXPECT_EQ(m.apic(0).acknowledge(), 0x08);
  EXPECT_EQ(m.drain(1), (std::vector<u8>{0x30}));
}

TEST_F(Router, IsaIrqsReachBothAndPciOnlyTheIoApic) {
  InterruptLine& rtc = router.connect_isa(8);
  InterruptLine& pci = router.connect(17);
  entry(8, 1, 0x38);
  entry(17, 1, 0x8041);
  rtc.set(true);
  EXPECT_EQ(m.apic(0).acknowledge(), 0x70);
  EXPECT_EQ(m.drain(1), (std::vector<u8>{0x38}));
  pci.set(true);
  EXPECT_FALSE(m.apic(0).has_interrupt());
  EXPECT_EQ(m.apic(1).acknowledge(), 0x41);
}

TEST_F(Router, SharedLinesAreOred) {
  InterruptLine& a = router.connect(17);
  InterruptLine& b = router.connect(17);
  entry(17, 1, 0x8041);
  a.set(true);
  a.set(true);
  b.set(true);
  EXPECT_EQ(m.apic(1).acknowledge(), 0x41);
  a.set(false);
  m.apic(1).mmio_write(M::kEoi, 0);
  EXPECT_EQ(m.apic(1).acknowledge(), 0x41);  // b is still there
  b.set(false);
  m.apic(1).mmio_write(M::kEoi, 0);
  EXPECT_FALSE(m.apic(1).has_interrupt());
}

TEST_F(Router, RoundTrip) {
  InterruptLine& a = router.connect(17);
  InterruptLine& b = router.connect(17);
  a.set(true);
  b.set(true);
  const base::Document saved = router.save();
  const base::Document pins = io.save();
  a.set(false);
  b.set(false);
  ASSERT_TRUE(router.restore(saved));
  ASSERT_TRUE(io.restore(pins));
  EXPECT_EQ(router.save(), saved);
  a.set(false);
  EXPECT_EQ(io.save(), pins);
  b.set(false);
  EXPECT_NE(io.save(), pins);
  static_cast<void>(router.connect(18));
  EXPECT_FALSE(router.restore(saved));  // another machine
  base::Document bad = router.save();
  bad["state"]["levels"] = base::Document::binary({0, 1, 2});
  EXPECT_FALSE(router.restore(bad));
}

/// Devices, vCPUs and EOIs at the same time: for the thread sanitizer, and against lost interrupts.
TEST_F(Router, ConcurrentUse) {
  InterruptLine& level = router.connect(17);
  InterruptLine& edge = router.connect_isa(4);
  entry(17, 1, 0x8041);
  entry(4, 1, 0x52);
  std::atomic<bool> asserted = false;
  std::atomic<bool> done = false;
  std::thread vcpu([&] {
    while (!done) {
      const std::optional<u8> vector = m.apic(1).has_interrupt() ? m.apic(1).acknowledge() : std::nullopt;
      if (!vector) {
        std::this_thread::yield();
        continue;
      }
      if (*vector == 0x41) level.set(false);
      m.apic(1).mmio_write(M::kEoi, 0);
      if (*vector == 0x41) asserted = false;
    }
  });
  std::thread bootstrap([&] {
    while (!done) {
      if (m.apic().has_interrupt()) static_cast<void>(m.apic().acknowledge());
      pio.write(0x20, 1, 0x20);
      m.apic().mmio_write(M::kIcrHigh, 1U << 24);
      m.apic().mmio_write(M::kIcrLow, 0x4060);
      std::this_thread::yield();
    }
  });
  for (unsigned i = 0; i < 2000; ++i) {
    asserted = true;
    level.set(true);
    edge.set(i % 2 == 0);
    while (asserted) std::this_thread::yield();  // hangs if a level is lost
  }
  done = true;
  vcpu.join();
  bootstrap.join();
}

}  // namespace
}  // namespace vert::test

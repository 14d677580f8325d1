// The root bus: configuration space through both its doors, BARs, saved state.
#include <gtest/gtest.h>

#include <random>

#include "device/pci/pci_host.hpp"

namespace vert::device {
namespace {

struct Register final : memory::BusDevice {
  u64 read(u64 offset, unsigned) override { return 0x5500 + offset; }
  void write(u64, unsigned, u64) override { ++writes; }
  int writes = 0;
};

class Card final : public PciDevice {
 public:
  explicit Card(PciBuses buses)
      : PciDevice("card", buses, {.vendor = 0x1af4, .device = 0x1041, .class_code = 0x020000}, kExpressSize) {
    add_bar(0, BarKind::kMemory32, 0x1000, registers);
    add_bar(1, BarKind::kIo, 0x20, registers);
    add_bar(4, BarKind::kMemory64Prefetchable, 0x4000, registers);
    first = add_capability(0x11, 12);
    second = add_capability(0x09, 16);
    set_interrupt_pin(1);
    set_write_1_to_clear(kPciStatus, 2, 0xf900);
    seal();
  }
  using PciDevice::update_config;
  void on_config_changed() override { ++told; }
  Register registers;
  u16 first = 0;
  u16 second = 0;
  int told = 0;
};

struct Pci : testing::Test {
  Pci() {
    EXPECT_TRUE(host.map());
    EXPECT_TRUE(host.add(3, 0, card));
  }
  static u32 address(unsigned slot, unsigned reg) { return 0x80000000 | slot << 11 | reg; }
  u64 get(unsigned slot, unsigned reg, unsigned size = 4) {
    ports.write(0xcf8, 4, address(slot, reg));
    return ports.read(0xcfc + (reg & 3), size);
  }
  void put(unsigned slot, unsigned reg, u64 value, unsigned size = 4) {
    ports.write(0xcf8, 4, address(slot, reg));
    ports.write(0xcfc + (reg & 3), size, value);
  }
  static u64 ecam(unsigned slot, unsigned reg) { return kEcamBase + (slot << 15) + reg; }

  memory::Bus mmio;
  memory::Bus ports;
  PciBuses buses{mmio, ports};
  Card card{buses};
  PciHost host{buses};
};

TEST_F(Pci, BridgesAreWhereAQ35HasThem) {
  EXPECT_EQ(get(0, 0), 0x29c08086u);
  EXPECT_EQ(get(0, 0x08), 0x06000000u);
  EXPECT_EQ(get(31, 0), 0x29188086u);
  EXPECT_EQ(get(31, 0x08), 0x06010002u);
  EXPECT_EQ(get(31, 0x0e, 1), 0x80u);
  EXPECT_EQ(get(31, 0x40), 0x601u);
  EXPECT_EQ(get(31, 0x44, 1), 0x80u);
  EXPECT_EQ(get(0, 0x60), 0xb0000001u);
  put(31, 0x60, 0xff, 1);
  EXPECT_EQ(get(31, 0x60), 0x8080808fu);
}

TEST_F(Pci, MechanismOneInAllWidths) {
  EXPECT_EQ(get(3, 0, 2), 0x1af4u);
  EXPECT_EQ(get(3, 2, 2), 0x1041u);
  EXPECT_EQ(get(3, 0x0b, 1), 0x02u);
  EXPECT_EQ(ports.read(0xcf8, 4), address(3, 0x08));
  ports.write(0xcf8, 4, address(3, 0) & 0x7fffffff);
  EXPECT_EQ(ports.read(0xcfc, 4), 0xffffffffu) << "not enabled";
  ports.write(0xcf8, 4, address(3, 0));
  ports.write(0xcf8, 1, 0x00);
  ports.write(0xcf8, 2, 0x00);
  EXPECT_EQ(ports.read(0xcf8, 4), address(3, 0)) << "doublewords only";
  EXPECT_EQ(ports.read(0xcf9, 1), 0xffu) << "is not part of it";
}

TEST_F(Pci, NothingThereIsAllOnes) {
  EXPECT_EQ(get(4, 0), 0xffffffffu);
  ports.write(0xcf8, 4, 0x80010000);
  EXPECT_EQ(ports.read(0xcfc, 4), 0xffffffffu) << "bus 1";
  EXPECT_EQ(mmio.read(kEcamBase + (1 << 20), 4), 0xffffffffu);
  EXPECT_EQ(mmio.read(kEcamBase + kEcamSize - 4, 4), 0xffffffffu);
}

TEST_F(Pci, EcamReachesTheExtendedSpace) {
  EXPECT_EQ(mmio.read(ecam(3, 0), 4), 0x10411af4u);
  EXPECT_EQ(mmio.read(ecam(3, 0x100), 4), 0u);
  EXPECT_EQ(mmio.read(ecam(31, 0x100), 4), 0xffffffffu) << "a conventional device ends at 256";
  EXPECT_EQ(mmio.read(ecam(3, 0), 8), 0x0010000010411af4u);
  EXPECT_EQ(mmio.read(ecam(3, 0xffe), 4), 0xffff0000u);
}

TEST_F(Pci, AddRefusesWhatIsTakenOrNotThere) {
  EXPECT_FALSE(host.add(0, 0, card));
  EXPECT_FALSE(host.add(32, 0, card));
  EXPECT_FALSE(host.add(0, 8, card));
}

TEST_F(Pci, IdentityCannotBeWritten) {
  put(3, 0, 0xffffffff);
  put(3, 8, 0);
  EXPECT_EQ(get(3, 0), 0x10411af4u);
  EXPECT_EQ(get(3, 8), 0x02000000u);
}

TEST_F(Pci, CapabilitiesAreLinked) {
  EXPECT_EQ(get(3, 6, 2) & 0x10, 0x10u);
  EXPECT_EQ(get(3, 0x34, 1), card.first);
  EXPECT_EQ(get(3, card.first, 2), 0x11u | u32{card.second} << 8);
  EXPECT_EQ(get(3, card.second, 2), 0x09u);
  EXPECT_EQ(card.second % 4, 0);
}

TEST_F(Pci, BarsTellTheirSizes) {
  for (const unsigned reg : {0x10u, 0x14u, 0x18u, 0x20u, 0x24u}) put(3, reg, 0xffffffff);
  EXPECT_EQ(get(3, 0x10), 0xfffff000u);
  EXPECT_EQ(get(3, 0x14), 0xffffffe1u);
  EXPECT_EQ(get(3, 0x18), 0u);
  EXPECT_EQ(get(3, 0x20), 0xffffc00cu);
  EXPECT_EQ(get(3, 0x24), 0xffffffffu);
}

TEST_F(Pci, BarsAnswerWhileDecoded) {
  put(3, 0x10, 0xc0000000);
  put(3, 0x14, 0xc000);
  put(3, 0x24, 0x10);
  EXPECT_EQ(mmio.read(0xc0000004, 4), 0xffffffffu);
  put(3, 4, 0x02, 2);
  EXPECT_EQ(mmio.read(0xc0000004, 4), 0x5504u);
  EXPECT_EQ(mmio.read(0x1000000008, 4), 0x5508u);
  EXPECT_EQ(ports.read(0xc004, 4), 0xffffffffu);
  put(3, 4, 0x01, 2);
  EXPECT_EQ(mmio.read(0xc0000004, 4), 0xffffffffu);
  EXPECT_EQ(ports.read(0xc004, 4), 0x5504u);
  put(3, 0x14, 0xd000);
  EXPECT_EQ(ports.read(0xc004, 4), 0xffffffffu);
  EXPECT_EQ(ports.read(0xd004, 4), 0x5504u);
}

TEST_F(Pci, ABarOnTopOfSomethingElseStaysUnmapped) {
  put(3, 4, 0x02, 2);
  put(3, 0x10, static_cast<u32>(kEcamBase));
  EXPECT_EQ(mmio.read(ecam(3, 0), 4), 0x10411af4u);
  put(3, 0x10, 0xc0000000);
  EXPECT_EQ(mmio.read(0xc0000000, 4), 0x5500u);
}

TEST_F(Pci, StatusBitsClearWithOnes) {
  card.update_config(kPciStatus, 2, 0x2010);
  put(3, 6, 0x0000, 2);
  EXPECT_EQ(get(3, 6, 2), 0x2010u);
  put(3, 6, 0xffff, 2);
  EXPECT_EQ(get(3, 6, 2), 0x0010u);
}

TEST_F(Pci, ResetUnmaps) {
  put(3, 0x10, 0xc0000000);
  put(3, 4, 0x02, 2);
  card.reset_config();
  EXPECT_EQ(mmio.read(0xc0000000, 4), 0xffffffffu);
  EXPECT_EQ(get(3, 0x10), 0u);
}

TEST_F(Pci, CardSavesAndRestores) {
  put(3, 0x10, 0xc0000000);
  put(3, 4, 0x06, 2);
  const base::Document saved = card.save_config();
  memory::Bus other_mmio;
  memory::Bus other_ports;
  Card other({other_mmio, other_ports});
  ASSERT_TRUE(other.restore_config(saved));
  EXPECT_EQ(other.save_config(), saved);
  EXPECT_EQ(other_mmio.read(0xc0000000, 4), 0x5500u);
  EXPECT_GT(other.told, 0);

  base::Document bad = saved;
  bad["state"]["config"] = base::Document::binary({1, 2, 3});
  EXPECT_FALSE(other.restore_config(bad));
  bad = saved;
  bad["state"]["config"].get_binary()[0] ^= 1;
  EXPECT_FALSE(other.restore_config(bad));
  bad = saved;
  bad["state"]["config"].get_binary()[0x0b] = 0xff;
  ASSERT_TRUE(other.restore_config(bad));
  EXPECT_EQ(other.save_config(), saved) << "what a guest cannot write, a snapshot cannot either";
}

TEST_F(Pci, HostSavesAndRestores) {
  put(31, 0x60, 0x0b, 1);
  const base::Document saved = host.save();
  memory::Bus other_mmio;
  memory::Bus other_ports;
  PciHost other({other_mmio, other_ports});
  ASSERT_TRUE(other.map());
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.save(), saved);
  EXPECT_EQ(other_ports.read(0xcfc, 4), 0x8080800bu);
  base::Document bad = saved;
  bad["host"]["state"]["address"] = 1;
  EXPECT_FALSE(other.restore(bad));
  bad = saved;
  bad.erase("lpc_bridge");
  EXPECT_FALSE(other.restore(bad));
  EXPECT_FALSE(other.restore(base::Document::array()));
  other.reset();
  EXPECT_EQ(other_ports.read(0xcf8, 4), 0u);
}

TEST_F(Pci, BearsAnything) {
  std::mt19937_64 random(9);
  constexpr std::array<unsigned, 4> kSlots{0, 3, 4, 31};
  for (int i = 0; i < 50'000; ++i) {
    const unsigned slot = kSlots[random() % kSlots.size()];
    const unsigned size = 1u << random() % 4;
    const unsigned reg = static_cast<unsigned>(random() % (random() % 2 == 0 ? 0x40 : 0x1000));
    switch (random() % 4) {
      case 0: mmio.write(ecam(slot, reg), size, random()); break;
      case 1: static_cast<void>(mmio.read(ecam(slot, reg), size)); break;
      case 2: put(slot, reg & 0xff, random(), size); break;
      default: static_cast<void>(ports.read(0xcf8 + random() % 8, size)); break;
    }
  }
  EXPECT_EQ(mmio.read(ecam(3, 0), 4), 0x10411af4u);
  EXPECT_EQ(get(31, 0), 0x29188086u);
}

}  // namespace
}  // namespace vert::device

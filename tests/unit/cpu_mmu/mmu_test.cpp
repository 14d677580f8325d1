// Mmu: the TLB, accesses that cross pages, MMIO, the local APIC's page, read-modify-write, code.
#include <map>

#include "base/fake_time.hpp"
#include "cpu/local_apic.hpp"
#include "paging_rig.hpp"

namespace vert::test {
namespace {

using cpu::AccessKind;
using cpu::Privilege;
namespace pte = x86::pte;
namespace pf = x86::pf;

/// Logs what reaches the bus; reads give the address's low bytes.
class RecordingDevice final : public memory::BusDevice {
 public:
  struct Access {
    u64 offset;
    unsigned size;
    u64 value;
    bool operator==(const Access&) const = default;
  };
  u64 read(u64 offset, unsigned size) override {
    accesses.push_back({offset, size, 0});
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i) value |= ((offset + i) & 0xFF) << (i * 8);
    return value;
  }
  void write(u64 offset, unsigned size, u64 value) override { accesses.push_back({offset, size, value}); }

  std::vector<Access> accesses;
};

class MmuTest : public ::testing::Test {
 protected:
  static constexpr u64 kLow = 0x40'0000;  // two pages, mapped to pages that are not neighbours
  static constexpr u64 kPageA = 0x40000;
  static constexpr u64 kPageB = 0x60000;
  static constexpr u64 kDevice = 0xE000'0000;

  MmuTest() {
    EXPECT_TRUE(mmio.map(kDevice, 2 * kPageSize, device, "device"));
    context.memory = rig.memory.get();
    context.mmio = &mmio;
    context.model = &model;
    mmu = std::make_unique<cpu::Mmu>(context);
    rig.map(kLow, kPageA);
    rig.map(kLow + kPageSize, kPageB);
    mmu->attach(rig.state);
  }
  void set_leaf(u64 linear, u64 value) { rig.set_entry(rig.levels() - 1, linear, value); }
  [[nodiscard]] u64 leaf(u64 linear) const { return rig.entry(rig.levels() - 1, linear); }
  template <typename T>
  [[nodiscard]] T ram(u64 address) const {
    return rig.memory->load<T>(Gpa(address)).value();
  }

  PagingRig rig{Mode::k4Level};
  memory::Bus mmio;
  RecordingDevice device;
  x86::CpuModel model = x86::CpuModel::make("host").value();
  cpu::VcpuContext context;
  std::unique_ptr<cpu::Mmu> mmu;
};

TEST_F(MmuTest, WritesAndReadsBack) {
  ASSERT_TRUE(mmu->write<u64>(Gla(kLow + 8), 0x1122'3344'5566'7788));
  EXPECT_EQ(ram<u64>(kPageA + 8), 0x1122'3344'5566'7788U);
  u16 value = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow + 9), value));
  EXPECT_EQ(value, 0x6677);
  u128 wide = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow + 8), wide));
  EXPECT_EQ(static_cast<u64>(wide), 0x1122'3344'5566'7788U);
}

TEST_F(MmuTest, ReadThenWriteSetsDirty) {
  u8 value = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow), value));
  EXPECT_EQ(leaf(kLow) & (pte::A | pte::D), pte::A);
  ASSERT_TRUE(mmu->write<u8>(Gla(kLow), 1));
  EXPECT_EQ(leaf(kLow) & (pte::A | pte::D), pte::A | pte::D);
}

TEST_F(MmuTest, TranslationsLastUntilFlushed) {
  ASSERT_TRUE(mmu->write<u8>(Gla(kLow), 1));
  set_leaf(kLow, kPageB | kPteOpen);
  ASSERT_TRUE(mmu->write<u8>(Gla(kLow), 2));
  EXPECT_EQ(ram<u8>(kPageA), 2);
  mmu->flush_page(Gla(kLow + 5));
  ASSERT_TRUE(mmu->write<u8>(Gla(kLow), 3));
  EXPECT_EQ(ram<u8>(kPageB), 3);
}

TEST_F(MmuTest, FlushPageKeepsOthers) {
  u8 value = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow), value));
  ASSERT_TRUE(mmu->read(Gla(kLow + kPageSize), value));
  set_leaf(kLow, 0);
  set_leaf(kLow + kPageSize, 0);
  mmu->flush_page(Gla(kLow));
  EXPECT_TRUE(mmu->read(Gla(kLow + kPageSize), value));
  EXPECT_FALSE(mmu->read(Gla(kLow), value));
  EXPECT_EQ(mmu->fault(), x86::Fault::page(0, kLow));
}

TEST_F(MmuTest, FlushPageForgetsAllOfALargePage) {
  rig.map(kLow, 0x20'0000, kPteOpen | pte::PS, rig.levels() - 1);
  u8 value = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow + 0x1000), value));
  ASSERT_TRUE(mmu->read(Gla(kLow + 0x1F'F000), value));
  rig.set_entry(rig.levels() - 2, kLow, 0);
  mmu->flush_page(Gla(kLow + 0x5000));
  EXPECT_FALSE(mmu->read(Gla(kLow + 0x1000), value));
  EXPECT_FALSE(mmu->read(Gla(kLow + 0x1F'F000), value));
}

TEST_F(MmuTest, FlushHoldsWhenGenerationsWrap) {
  u8 value = 0;
  for (unsigned i = 0; i < 2 * kPageSize; ++i) {
    set_leaf(kLow, kPageA | kPteOpen);
    ASSERT_TRUE(mmu->read(Gla(kLow), value));
    set_leaf(kLow, 0);
    mmu->flush();
    ASSERT_FALSE(mmu->read(Gla(kLow), value)) << i;
  }
}

TEST_F(MmuTest, PagesOneTlbSizeApartDoNotMix) {
  rig.map(kLow + (u64{1} << 23), kPageB);  // shares the upper tables' pages, another leaf index
  set_leaf(kLow, kPageA | kPteOpen);
  ASSERT_TRUE(mmu->write<u8>(Gla(kLow), 7));
  EXPECT_EQ(ram<u8>(kPageB), 0);
}

TEST_F(MmuTest, AttachFlushes) {
  u8 value = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow), value));
  set_leaf(kLow, 0);
  mmu->attach(rig.state);
  EXPECT_FALSE(mmu->read(Gla(kLow), value));
}

TEST_F(MmuTest, PrivilegeFollowsCplSmapAndAc) {
  rig.state.cpl = 3;
  mmu->update_privilege();
  EXPECT_EQ(mmu->privilege(), Privilege::kUser);
  rig.state.cpl = 0;
  mmu->update_privilege();
  EXPECT_EQ(mmu->privilege(), Privilege::kSupervisor);
  rig.state.cr4 |= x86::cr4::SMAP;
  mmu->update_privilege();
  EXPECT_EQ(mmu->privilege(), Privilege::kSmap);
  u8 value = 0;
  EXPECT_FALSE(mmu->read(Gla(kLow), value));
  EXPECT_EQ(mmu->fault().error_code, pf::P);
  rig.state.rflags |= x86::rflags::AC;
  mmu->update_privilege();
  EXPECT_TRUE(mmu->read(Gla(kLow), value));
  EXPECT_FALSE(mmu->read_as(Privilege::kSmap, Gla(kLow), value));
}

TEST_F(MmuTest, CrossingAccessIsSplitBetweenPages) {
  ASSERT_TRUE(mmu->write<u32>(Gla(kLow + kPageSize - 1), 0x4433'2211));
  EXPECT_EQ(ram<u8>(kPageA + kPageSize - 1), 0x11);
  EXPECT_EQ(ram<u16>(kPageB), 0x3322);
  u32 value = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow + kPageSize - 1), value));
  EXPECT_EQ(value, 0x4433'2211U);
}

TEST_F(MmuTest, CrossingWriteFaultsBeforeAnythingIsWritten) {
  set_leaf(kLow + kPageSize, kPageB | pte::P | pte::US);  // read-only
  ASSERT_FALSE(mmu->write<u32>(Gla(kLow + kPageSize - 2), 0xFFFF'FFFF));
  EXPECT_EQ(mmu->fault(), x86::Fault::page(pf::P | pf::W, kLow + kPageSize));
  EXPECT_EQ(ram<u16>(kPageA + kPageSize - 2), 0);
}

TEST_F(MmuTest, LongWritesCheckAllPagesFirst) {
  const std::vector<u8> bytes(2 * kPageSize + 16, 0xAB);
  ASSERT_FALSE(mmu->write_bytes(Gla(kLow), bytes));
  EXPECT_EQ(mmu->fault(), x86::Fault::page(pf::W, kLow + 2 * kPageSize));
  EXPECT_EQ(ram<u8>(kPageA), 0);
  ASSERT_TRUE(mmu->write_bytes(Gla(kLow), std::span(bytes).first(2 * kPageSize)));
  EXPECT_EQ(ram<u8>(kPageB + kPageSize - 1), 0xAB);
  std::vector<u8> back(2 * kPageSize - 7);
  ASSERT_TRUE(mmu->read_bytes(Gla(kLow + 7), back));
  EXPECT_EQ(back, std::vector<u8>(back.size(), 0xAB));
}

TEST_F(MmuTest, NonCanonicalAddressesRaiseGp) {
  u64 value = 0;
  for (const u64 address : {u64{0x8000'0000'0000}, u64{0x7FFF'FFFF'FFFC}, u64{0xFFFF'7FFF'FFFF'FFFF}}) {
    EXPECT_FALSE(mmu->read(Gla(address), value));
    EXPECT_EQ(mmu->fault(), x86::Fault::gp(0)) << address;
    EXPECT_FALSE(mmu->write(Gla(address), value));
    EXPECT_EQ(mmu->fault(), x86::Fault::gp(0)) << address;
    EXPECT_FALSE(mmu->probe(AccessKind::kRead, Privilege::kSupervisor, Gla(address), 8));
    EXPECT_EQ(mmu->translate_for_debug(Gla(address | u64{1} << 47 | u64{1} << 62)), std::nullopt);
  }
  cpu::Mmu::CodePage page;
  EXPECT_FALSE(mmu->translate_code(Gla(0x8000'0000'0000), page));
  EXPECT_EQ(mmu->fault(), x86::Fault::gp(0));
  u8* host = nullptr;
  EXPECT_FALSE(mmu->prepare_rmw(Gla(0x8000'0000'0000), 8, host));
}

TEST_F(MmuTest, ProbeChecksWithoutAccess) {
  EXPECT_TRUE(mmu->probe(AccessKind::kWrite, Privilege::kUser, Gla(kLow), 2 * kPageSize));
  EXPECT_FALSE(mmu->probe(AccessKind::kWrite, Privilege::kUser, Gla(kLow), 2 * kPageSize + 1));
  EXPECT_TRUE(mmu->probe(AccessKind::kRead, Privilege::kUser, Gla(0x1234), 0));
}

TEST_F(MmuTest, MmioIsSplitIntoNaturallyAlignedPieces) {
  set_leaf(kLow, kDevice | kPteOpen);
  set_leaf(kLow + kPageSize, (kDevice + kPageSize) | kPteOpen);
  u64 value = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow + 16), value));
  EXPECT_EQ(value, 0x1716'1514'1312'1110U);
  ASSERT_TRUE(mmu->write<u32>(Gla(kLow + 3), 0xDDCC'BBAA));
  ASSERT_TRUE(mmu->write<u16>(Gla(kLow + kPageSize - 1), 0x2211));
  ASSERT_TRUE(mmu->write<u128>(Gla(kLow), u128{1} << 64 | 2));
  const std::vector<RecordingDevice::Access> expected = {
      {16, 8, 0},           {3, 1, 0xAA}, {4, 2, 0xCCBB}, {6, 1, 0xDD}, {kPageSize - 1, 1, 0x11},
      {kPageSize, 1, 0x22}, {0, 8, 2},    {8, 8, 1},
  };
  EXPECT_EQ(device.accesses, expected);
}

TEST_F(MmuTest, ReadAcrossRamAndMmio) {
  set_leaf(kLow + kPageSize, kDevice | kPteOpen);
  ASSERT_TRUE(mmu->write<u16>(Gla(kLow + kPageSize - 2), 0xBBAA));
  u32 value = 0;
  ASSERT_TRUE(mmu->read(Gla(kLow + kPageSize - 2), value));
  EXPECT_EQ(value, 0x0100'BBAAU);
  EXPECT_EQ(device.accesses, (std::vector<RecordingDevice::Access>{{0, 2, 0}}));
}

TEST_F(MmuTest, ApicPageTakesAlignedDwords) {
  base::FakeTime time;
  cpu::VcpuEvents events;
  cpu::ApicFabric fabric;
  cpu::LocalApic apic(0, true, events, fabric, time, 1'000'000'000, nullptr);
  context.apic = &apic;
  cpu::Mmu with_apic(context);
  with_apic.attach(rig.state);
  set_leaf(kLow, cpu::LocalApic::kDefaultBase | kPteOpen);
  constexpr u64 kTpr = 0x80;
  ASSERT_TRUE(with_apic.write<u32>(Gla(kLow + kTpr), 0x20));
  EXPECT_EQ(apic.mmio_read(kTpr), 0x20U);
  ASSERT_TRUE(with_apic.write<u8>(Gla(kLow + kTpr), 0x30));       // too narrow
  ASSERT_TRUE(with_apic.write<u64>(Gla(kLow + kTpr), 0x30));      // too wide
  ASSERT_TRUE(with_apic.write<u32>(Gla(kLow + kTpr + 4), 0x30));  // between registers
  EXPECT_EQ(apic.mmio_read(kTpr), 0x20U);
  u32 dword = 0;
  ASSERT_TRUE(with_apic.read(Gla(kLow + kTpr), dword));
  EXPECT_EQ(dword, 0x20U);
  u64 qword = ~u64{0};
  ASSERT_TRUE(with_apic.read(Gla(kLow + kTpr), qword));
  EXPECT_EQ(qword, 0x20U);
  u8 byte = 0;
  ASSERT_TRUE(with_apic.read(Gla(kLow + kTpr + 1), byte));
  EXPECT_EQ(byte, 0);
  EXPECT_TRUE(device.accesses.empty());
}

TEST_F(MmuTest, RmwGivesTheHostAddressWhereOneExists) {
  u8* host = nullptr;
  ASSERT_TRUE(mmu->prepare_rmw(Gla(kLow + 4), 4, host));
  EXPECT_EQ(host, rig.memory->host(Gpa(kPageA + 4), 4));
  EXPECT_NE(leaf(kLow) & pte::D, 0U);
  // Pages that are not neighbours: no host address.
  ASSERT_TRUE(mmu->prepare_rmw(Gla(kLow + kPageSize - 2), 4, host));
  EXPECT_EQ(host, nullptr);
  // Neighbours: one.
  set_leaf(kLow + kPageSize, (kPageA + kPageSize) | kPteOpen);
  mmu->flush();
  ASSERT_TRUE(mmu->prepare_rmw(Gla(kLow + kPageSize - 2), 4, host));
  EXPECT_EQ(host, rig.memory->host(Gpa(kPageA + kPageSize - 2), 4));
  // MMIO: none.
  set_leaf(kLow, kDevice | kPteOpen);
  mmu->flush();
  ASSERT_TRUE(mmu->prepare_rmw(Gla(kLow), 4, host));
  EXPECT_EQ(host, nullptr);
  set_leaf(kLow, kPageA | pte::P);
  ASSERT_FALSE(mmu->prepare_rmw(Gla(kLow), 4, host));
  EXPECT_EQ(mmu->fault(), x86::Fault::page(pf::P | pf::W, kLow));
}

TEST_F(MmuTest, StoresRaiseCodeVersions) {
  const memory::Frame frame = kPageA >> kPageShift;
  rig.memory->watch_code(frame);
  const u32 before = rig.memory->code_version(frame);
  ASSERT_TRUE(mmu->write<u8>(Gla(kLow), 1));  // fills the TLB
  rig.memory->watch_code(frame);
  ASSERT_TRUE(mmu->write<u8>(Gla(kLow), 2));  // hits it
  EXPECT_EQ(rig.memory->code_version(frame), before + 2);
}

TEST_F(MmuTest, CodePages) {
  cpu::Mmu::CodePage page;
  ASSERT_TRUE(mmu->translate_code(Gla(kLow + 0x123), page));
  EXPECT_EQ(page.host, rig.memory->host(Gpa(kPageA), kPageSize));
  EXPECT_EQ(page.gpa, Gpa(kPageA));
  set_leaf(kLow, 0);
  ASSERT_TRUE(mmu->translate_code(Gla(kLow + 0x456), page));  // from the TLB
  EXPECT_EQ(page.gpa, Gpa(kPageA));
  set_leaf(kLow, kPageA | kPteOpen | pte::XD);
  mmu->flush();
  ASSERT_FALSE(mmu->translate_code(Gla(kLow + 0x123), page));
  EXPECT_EQ(mmu->fault(), x86::Fault::page(pf::P | pf::I, kLow + 0x123));
  set_leaf(kLow, kDevice | kPteOpen);
  ASSERT_TRUE(mmu->translate_code(Gla(kLow), page));
  EXPECT_EQ(page.host, nullptr);
}

TEST_F(MmuTest, DebugTranslation) {
  EXPECT_EQ(mmu->translate_for_debug(Gla(kLow + 0x123)), Gpa(kPageA + 0x123));
  EXPECT_EQ(leaf(kLow) & pte::A, 0U);
  EXPECT_EQ(mmu->translate_for_debug(Gla(kLow + 2 * kPageSize)), std::nullopt);
}

TEST_F(MmuTest, LinearAddressesWrapAt4GiBOutsideLongMode) {
  rig.state.efer = 0;
  rig.state.cr0 = x86::cr0::PE;
  rig.state.cr4 = 0;
  mmu->attach(rig.state);
  ASSERT_TRUE(mmu->write<u8>(Gla(0x1'0000'0040), 0x77));
  EXPECT_EQ(ram<u8>(0x40), 0x77);
  u16 value = 0;
  ASSERT_TRUE(mmu->read(Gla(0xFFFF'FFFF), value));  // nothing there, and then the first byte of RAM
  EXPECT_EQ(value, 0x00FF);
}

}  // namespace
}  // namespace vert::test

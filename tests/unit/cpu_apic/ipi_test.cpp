// Inter-processor interrupts and destinations (SDM 3A, 10.6 and 10.12).
#include <gtest/gtest.h>

#include "unit/cpu_apic/apic_machine.hpp"

namespace vert::test {
namespace {

using M = ApicMachine;
using cpu::DeliveryMode;
using cpu::VcpuEvents;

void ipi(M& m, u32 destination, u32 low) {
  m.apic().mmio_write(M::kIcrHigh, destination << 24);
  m.apic().mmio_write(M::kIcrLow, low);
}

/// Which APICs have an interrupt, as a bit set; takes them.
unsigned receivers(M& m, unsigned count) {
  unsigned set = 0;
  for (unsigned i = 0; i < count; ++i)
    if (m.apic(i).acknowledge()) set |= 1U << i;
  for (unsigned i = 0; i < count; ++i) {
    if (!m.apic(i).msr_write(0x80B, 0)) m.apic(i).mmio_write(M::kEoi, 0);
  }
  return set;
}

TEST(LocalApicIpi, PhysicalDestinationAndShorthands) {
  M m(4);
  m.enable();
  ipi(m, 2, 0x4050);
  EXPECT_EQ(receivers(m, 4), 0b0100U);
  ipi(m, 9, 0x4050);
  EXPECT_EQ(receivers(m, 4), 0U);
  ipi(m, 0xFF, 0x4050);
  EXPECT_EQ(receivers(m, 4), 0b1111U);
  ipi(m, 2, 0x44050);
  EXPECT_EQ(receivers(m, 4), 0b0001U);
  ipi(m, 2, 0x84050);
  EXPECT_EQ(receivers(m, 4), 0b1111U);
  ipi(m, 2, 0xC4050);
  EXPECT_EQ(receivers(m, 4), 0b1110U);
  EXPECT_EQ(m.apic().mmio_read(M::kIcrLow), 0xC4050U);
  EXPECT_EQ(m.apic().mmio_read(M::kIcrHigh), 2U << 24);
}

TEST(LocalApicIpi, FixedIpisAreEdgesWhateverTheTriggerBit) {
  M m(2);
  m.enable();
  ipi(m, 1, 0xC050);
  EXPECT_EQ(m.drain(1), (std::vector<u8>{0x50}));
  EXPECT_TRUE(m.eois.vectors.empty());
}

TEST(LocalApicIpi, FlatLogicalDestination) {
  M m(4);
  m.enable();
  for (unsigned i = 0; i < 4; ++i) m.apic(i).mmio_write(M::kLdr, 0x01000000U << i);
  ipi(m, 0b1010, 0x4850);
  EXPECT_EQ(receivers(m, 4), 0b1010U);
  ipi(m, 0xF0, 0x4850);
  EXPECT_EQ(receivers(m, 4), 0U);
  ipi(m, 0xFF, 0x4850);
  EXPECT_EQ(receivers(m, 4), 0b1111U);
}

TEST(LocalApicIpi, ClusterLogicalDestination) {
  M m(4);
  m.enable();
  for (unsigned i = 0; i < 4; ++i) {
    m.apic(i).mmio_write(M::kDfr, 0x0FFFFFFF);
    m.apic(i).mmio_write(M::kLdr, ((i / 2) << 4 | 1U << (i % 2)) << 24);
  }
  ipi(m, 0x12, 0x4850);
  EXPECT_EQ(receivers(m, 4), 0b1000U);
  ipi(m, 0x03, 0x4850);
  EXPECT_EQ(receivers(m, 4), 0b0011U);
  ipi(m, 0xF1, 0x4850);  // all clusters
  EXPECT_EQ(receivers(m, 4), 0b0101U);
}

TEST(LocalApicIpi, InitSipiNmi) {
  M m(2);
  ipi(m, 1, 0xC500);
  EXPECT_EQ(m.events(1).take(~0U), VcpuEvents::kInit);
  ipi(m, 1, 0x8500);  // INIT level de-assert
  EXPECT_EQ(m.events(1).take(~0U), 0U);
  ipi(m, 1, 0x4699);
  EXPECT_EQ(m.events(1).take(~0U), VcpuEvents::kSipi);
  EXPECT_EQ(m.events(1).sipi_vector, 0x99);
  ipi(m, 0, 0xC4400);  // NMI to all others
  EXPECT_EQ(m.events(1).take(~0U), VcpuEvents::kNmi);
  EXPECT_EQ(m.events(0).take(~0U), 0U);
  ipi(m, 1, 0x4200);
  EXPECT_EQ(m.events(1).take(~0U), VcpuEvents::kSmi);
  ipi(m, 1, 0x4300);  // reserved modes
  ipi(m, 1, 0x4700);
  EXPECT_EQ(m.events(1).take(~0U), 0U);
}

TEST(LocalApicIpi, LowestPriorityGoesToOne) {
  M m(4);
  m.enable();
  m.apic(0).mmio_write(M::kTpr, 0x80);
  m.apic(1).mmio_write(M::kTpr, 0x20);
  m.apic(2).mmio_write(M::kTpr, 0x10);
  m.apic(3).mmio_write(M::kSvr, 0xFF);  // software-disabled: no candidate
  ipi(m, 0xFF, 0x4190);
  EXPECT_EQ(receivers(m, 4), 0b0100U);
  m.send(0x50, 2);
  EXPECT_EQ(m.apic(2).acknowledge(), 0x50);  // its PPR is above that of APIC 1 now
  ipi(m, 0xFF, 0x4190);
  EXPECT_EQ(m.apic(1).acknowledge(), 0x90);
  EXPECT_FALSE(m.fabric.send({.destination = 3, .mode = DeliveryMode::kLowestPriority, .vector = 0x90}));
}

TEST(LocalApicIpi, NobodyTakesWhatIsForNobodyOrDisabled) {
  M m(2);
  EXPECT_FALSE(m.fabric.send({.destination = 7, .vector = 0x50}));
  EXPECT_FALSE(m.fabric.send({.destination = 1, .vector = 0x50}));  // software-disabled
  m.enable();
  EXPECT_TRUE(m.fabric.send({.destination = 1, .vector = 0x50}));
  EXPECT_FALSE(m.fabric.send({.destination = 1, .mode = DeliveryMode::kExtInt}));
  EXPECT_TRUE(m.apic(1).set_base_msr(0xFEE00000));
  EXPECT_FALSE(m.fabric.send({.destination = 1, .vector = 0x50}));
}

TEST(LocalApicX2apic, RegistersFaultAsTheManualSays) {
  M m(2);
  EXPECT_EQ(m.apic().msr_read(0x802), std::nullopt);  // xAPIC mode
  EXPECT_FALSE(m.apic().msr_write(0x80F, 0x1FF));
  m.enter_x2apic();
  cpu::LocalApic& apic = m.apic(1);
  EXPECT_EQ(apic.msr_read(0x802), 1U);
  EXPECT_EQ(apic.msr_read(0x80D), 0x00000002U);
  EXPECT_TRUE(apic.msr_write(0x80F, 0x1FF));
  for (const u32 index : {0x800U, 0x809U, 0x80BU, 0x80CU, 0x80EU, 0x82FU, 0x831U, 0x83FU, 0x8FFU, 0x7FFU})
    EXPECT_EQ(apic.msr_read(index), std::nullopt) << std::hex << index;
  for (const u32 index : {0x802U, 0x803U, 0x80AU, 0x80DU, 0x810U, 0x820U, 0x831U, 0x839U, 0x900U})
    EXPECT_FALSE(apic.msr_write(index, 0)) << std::hex << index;
  EXPECT_FALSE(apic.msr_write(0x80B, 1));
  EXPECT_FALSE(apic.msr_write(0x828, 1));
  EXPECT_FALSE(apic.msr_write(0x808, 0x100));
  EXPECT_FALSE(apic.msr_write(0x838, u64{1} << 32));
  EXPECT_FALSE(apic.msr_write(0x83E, 4));
  EXPECT_FALSE(apic.msr_write(0x832, 0x80000));
  EXPECT_FALSE(apic.msr_write(0x830, 0x100000));
  EXPECT_TRUE(apic.msr_write(0x808, 0x20));
  EXPECT_EQ(apic.cr8(), 2);
}

TEST(LocalApicX2apic, IcrSelfIpiAndClusters) {
  M m(20);
  m.enter_x2apic();
  for (unsigned i = 0; i < 20; ++i) EXPECT_TRUE(m.apic(i).msr_write(0x80F, 0x1FF));
  EXPECT_EQ(m.apic(18).msr_read(0x80D), 0x00010004U);
  EXPECT_TRUE(m.apic().msr_write(0x830, u64{17} << 32 | 0x4050));
  EXPECT_EQ(receivers(m, 20), 1U << 17);
  EXPECT_EQ(m.apic().msr_read(0x830), u64{17} << 32 | 0x4050);
  EXPECT_TRUE(m.apic().msr_write(0x830, u64{0x1000A} << 32 | 0x4850));  // cluster 1, members 1 and 3
  EXPECT_EQ(receivers(m, 20), 1U << 17 | 1U << 19);
  EXPECT_TRUE(m.apic().msr_write(0x830, u64{0xFFFFFFFF} << 32 | 0x4050));
  EXPECT_EQ(receivers(m, 20), 0xFFFFFU);
  EXPECT_TRUE(m.apic().msr_write(0x830, u64{0xFF} << 32 | 0x4050));  // an ID, not a broadcast
  EXPECT_EQ(receivers(m, 20), 0U);
  EXPECT_TRUE(m.apic(3).msr_write(0x83F, 0x61));
  EXPECT_EQ(m.apic(3).acknowledge(), 0x61);
}

}  // namespace
}  // namespace vert::test

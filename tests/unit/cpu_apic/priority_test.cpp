// Acceptance, priority, nesting and EOI (SDM 3A, 10.8), CR8, errors, and the ways to switch the APIC off.
#include <gtest/gtest.h>

#include "unit/cpu_apic/apic_machine.hpp"

namespace vert::test {
namespace {

using M = ApicMachine;
using cpu::VcpuEvents;

TEST(LocalApicPriority, TakesTheHighestVectorFirst) {
  M m(1);
  m.enable();
  for (const u8 vector : std::initializer_list<u8>{0x31, 0xF0, 0x80, 0x32}) m.send(vector);
  EXPECT_EQ(m.drain(), (std::vector<u8>{0xF0, 0x80, 0x32, 0x31}));
  EXPECT_FALSE(m.apic().has_interrupt());
}

TEST(LocalApicPriority, AnnouncesWhatBecomesDeliverable) {
  M m(1);
  m.enable();
  EXPECT_EQ(m.events().take(~0U), 0U);
  m.send(0x41);
  EXPECT_EQ(m.events().take(~0U), VcpuEvents::kInterrupt);
  EXPECT_TRUE(m.apic().has_interrupt());
  EXPECT_EQ(m.apic().acknowledge(), 0x41);
  m.send(0x42);  // same class: waits for the EOI
  EXPECT_EQ(m.events().take(~0U), 0U);
  EXPECT_FALSE(m.apic().has_interrupt());
  EXPECT_EQ(m.apic().acknowledge(), std::nullopt);
  m.apic().mmio_write(M::kEoi, 0);
  EXPECT_EQ(m.events().take(~0U), VcpuEvents::kInterrupt);
  EXPECT_EQ(m.apic().acknowledge(), 0x42);
}

TEST(LocalApicPriority, NestsByClassAndEndsInnermostFirst) {
  M m(1);
  m.enable();
  m.send(0x45);
  EXPECT_EQ(m.apic().acknowledge(), 0x45);
  EXPECT_EQ(m.apic().mmio_read(M::kPpr), 0x40U);
  m.send(0x95);
  EXPECT_EQ(m.apic().acknowledge(), 0x95);
  EXPECT_EQ(m.apic().mmio_read(M::kPpr), 0x90U);
  EXPECT_EQ(m.apic().mmio_read(M::kIsr + 0x20), 1U << 5);
  EXPECT_EQ(m.apic().mmio_read(M::kIsr + 0x40), 1U << 21);
  m.send(0x60);
  EXPECT_FALSE(m.apic().has_interrupt());
  m.apic().mmio_write(M::kEoi, 0);
  EXPECT_EQ(m.apic().mmio_read(M::kIsr + 0x40), 0U);
  EXPECT_EQ(m.apic().acknowledge(), 0x60);
  m.apic().mmio_write(M::kEoi, 0);
  m.apic().mmio_write(M::kEoi, 0);
  EXPECT_EQ(m.apic().mmio_read(M::kPpr), 0U);
  m.apic().mmio_write(M::kEoi, 0);  // nothing in service: no effect
}

TEST(LocalApicPriority, TaskPriorityHoldsItsClassBack) {
  M m(1);
  m.enable();
  m.apic().mmio_write(M::kTpr, 0x5F);
  EXPECT_EQ(m.apic().mmio_read(M::kPpr), 0x5FU);
  m.send(0x5F);
  EXPECT_FALSE(m.apic().has_interrupt());
  m.send(0x60);
  EXPECT_EQ(m.apic().acknowledge(), 0x60);
  m.apic().mmio_write(M::kEoi, 0);
  static_cast<void>(m.events().take(~0U));
  EXPECT_EQ(m.apic().cr8(), 5);
  m.apic().set_cr8(4);
  EXPECT_EQ(m.apic().mmio_read(M::kTpr), 0x40U);
  EXPECT_EQ(m.events().take(~0U), VcpuEvents::kInterrupt);
  EXPECT_EQ(m.apic().acknowledge(), 0x5F);
}

TEST(LocalApicPriority, SameVectorTwiceIsOnceUntilItIsTaken) {
  M m(1);
  m.enable();
  m.send(0x50);
  m.send(0x50);
  EXPECT_EQ(m.apic().acknowledge(), 0x50);
  m.send(0x50);  // one in service, one more pending
  m.apic().mmio_write(M::kEoi, 0);
  EXPECT_EQ(m.drain(), (std::vector<u8>{0x50}));
}

TEST(LocalApicPriority, OnlyLevelEoiIsBroadcast) {
  M m(1);
  m.enable();
  m.send(0x50);
  m.send(0x70, 0, true);
  EXPECT_EQ(m.apic().mmio_read(M::kTmr + 0x30), 1U << 16);
  EXPECT_EQ(m.drain(), (std::vector<u8>{0x70, 0x50}));
  EXPECT_EQ(m.eois.vectors, (std::vector<u8>{0x70}));
  m.send(0x70);  // an edge now
  m.drain();
  EXPECT_EQ(m.eois.vectors.size(), 1U);
  m.apic().mmio_write(M::kSvr, 0x11FF);  // EOI broadcasts suppressed
  m.send(0x70, 0, true);
  m.drain();
  EXPECT_EQ(m.eois.vectors.size(), 1U);
}

TEST(LocalApicPriority, IllegalVectorsAreErrors) {
  M m(1);
  m.enable();
  m.apic().mmio_write(M::kLvtError, 0xFE);
  m.send(0x0F);
  EXPECT_EQ(m.drain(), (std::vector<u8>{0xFE}));
  EXPECT_EQ(m.apic().mmio_read(M::kEsr), 0U);  // until it is written
  m.apic().mmio_write(M::kEsr, 0);
  EXPECT_EQ(m.apic().mmio_read(M::kEsr), 0x40U);
  m.apic().mmio_write(M::kEsr, 0);
  EXPECT_EQ(m.apic().mmio_read(M::kEsr), 0U);
  m.apic().mmio_write(M::kIcrLow, 0x4000F);  // self, vector 15
  m.apic().mmio_write(M::kEsr, 0);
  EXPECT_EQ(m.apic().mmio_read(M::kEsr), 0x20U);
  m.apic().mmio_write(0x3F0, 0x50);  // no register of the xAPIC
  m.apic().mmio_write(M::kEsr, 0);
  EXPECT_EQ(m.apic().mmio_read(M::kEsr), 0x80U);
}

TEST(LocalApicPriority, ErrorEntryWithAnIllegalVectorEndsInEsr) {
  M m(1);
  m.enable();
  m.apic().mmio_write(M::kLvtError, 0x01);
  static_cast<void>(m.apic().mmio_read(0x2F0));
  m.apic().mmio_write(M::kEsr, 0);
  EXPECT_EQ(m.apic().mmio_read(M::kEsr), 0xC0U);
  EXPECT_FALSE(m.apic().has_interrupt());
}

TEST(LocalApicPriority, ResetValues) {
  M m(2);
  EXPECT_EQ(m.apic(0).base_msr(), 0xFEE00900U);
  EXPECT_EQ(m.apic(1).base_msr(), 0xFEE00800U);
  cpu::LocalApic& apic = m.apic(1);
  EXPECT_EQ(apic.mmio_read(M::kId), 1U << 24);
  EXPECT_EQ(apic.mmio_read(M::kVersion), 0x01050014U);
  EXPECT_EQ(apic.mmio_read(M::kSvr), 0xFFU);
  EXPECT_EQ(apic.mmio_read(M::kDfr), 0xFFFFFFFFU);
  for (u32 lvt = M::kLvtTimer; lvt <= M::kLvtError; lvt += 16) EXPECT_EQ(apic.mmio_read(lvt), 0x10000U);
  EXPECT_TRUE(apic.claims(Gpa(0xFEE00000)));
  EXPECT_FALSE(apic.claims(Gpa(0xFEE01000)));
}

TEST(LocalApicPriority, SoftwareDisableMasksTheLvtAndRefusesFixed) {
  M m(1);
  m.enable();
  m.apic().mmio_write(M::kLvtPerf, 0x50);
  m.send(0x44);
  m.apic().mmio_write(M::kSvr, 0xFF);
  EXPECT_EQ(m.apic().mmio_read(M::kLvtPerf), 0x10050U);
  m.apic().mmio_write(M::kLvtPerf, 0x51);
  EXPECT_EQ(m.apic().mmio_read(M::kLvtPerf), 0x10051U);
  m.send(0x45);
  EXPECT_EQ(m.drain(), (std::vector<u8>{0x44}));  // what was accepted before stays
  static_cast<void>(m.events().take(~0U));
  EXPECT_TRUE(m.fabric.send({.destination = 0, .mode = cpu::DeliveryMode::kNmi}));
  EXPECT_EQ(m.events().take(~0U), VcpuEvents::kNmi);
}

TEST(LocalApicPriority, BaseMsrAllowsOnlyLegalSteps) {
  M m(1);
  m.enable();
  cpu::LocalApic& apic = m.apic();
  EXPECT_FALSE(apic.set_base_msr(0xFEE00D00 | u64{1} << 46));  // beyond the physical address
  EXPECT_FALSE(apic.set_base_msr(0xFEE00901));                 // reserved bit
  EXPECT_FALSE(apic.set_base_msr(0xFEE00500));                 // EXTD without EN
  EXPECT_TRUE(apic.set_base_msr(0xFEE00D00));
  EXPECT_FALSE(apic.claims(Gpa(0xFEE00000)));
  EXPECT_EQ(apic.mmio_read(M::kId), 0xFFFFFFFFU);
  EXPECT_FALSE(apic.set_base_msr(0xFEE00900));  // x2APIC to xAPIC
  EXPECT_TRUE(apic.set_base_msr(0xFEE00100));   // off: everything is reset
  EXPECT_FALSE(apic.set_base_msr(0xFEE00D00));  // disabled to x2APIC
  m.send(0x55);
  EXPECT_TRUE(apic.set_base_msr(0xD0000800));  // BSP is read-only
  EXPECT_EQ(apic.base_msr(), 0xD0000900U);
  EXPECT_TRUE(apic.claims(Gpa(0xD0000000)));
  EXPECT_EQ(apic.mmio_read(M::kSvr), 0xFFU);
  EXPECT_FALSE(apic.has_interrupt());
}

TEST(LocalApicPriority, InitKeepsIdAndBase) {
  M m(2);
  m.enter_x2apic();
  cpu::LocalApic& apic = m.apic(1);
  EXPECT_TRUE(apic.msr_write(0x80F, 0x1FF));
  m.send(0x55, 1);
  EXPECT_TRUE(apic.has_interrupt());
  apic.reset(true);
  EXPECT_FALSE(apic.has_interrupt());
  EXPECT_EQ(apic.base_msr(), 0xFEE00C00U);
  EXPECT_EQ(apic.msr_read(0x802), 1U);
  EXPECT_EQ(apic.msr_read(0x80F), 0xFFU);
  apic.reset(false);
  EXPECT_EQ(apic.base_msr(), 0xFEE00800U);
}

TEST(LocalApicExternal, VirtualWireGoesThroughLint0) {
  M m(2);
  m.apic().enter_virtual_wire_mode();
  EXPECT_EQ(m.apic().mmio_read(M::kLint0), 0x700U);
  EXPECT_EQ(m.apic().mmio_read(M::kLint1), 0x400U);
  EXPECT_FALSE(m.apic().has_interrupt());
  m.pic.level = true;
  m.apic().external_interrupt_changed();
  EXPECT_EQ(m.events().take(~0U), VcpuEvents::kInterrupt);
  EXPECT_TRUE(m.apic().has_interrupt());
  EXPECT_EQ(m.apic().acknowledge(), 0x30);
  EXPECT_FALSE(m.apic().has_interrupt());
  EXPECT_EQ(m.apic().mmio_read(M::kIsr + 0x10), 0U);  // ExtINT leaves ISR alone
  m.apic().mmio_write(M::kLint0, 0x10700);
  m.pic.level = true;
  m.apic().external_interrupt_changed();
  EXPECT_FALSE(m.apic().has_interrupt());
  EXPECT_EQ(m.events().take(~0U), 0U);
  m.apic().mmio_write(M::kLint0, 0x700);
  EXPECT_EQ(m.events().take(~0U), VcpuEvents::kInterrupt);
  m.apic(1).external_interrupt_changed();  // no PIC there: nothing
  EXPECT_FALSE(m.apic(1).has_interrupt());
}

TEST(LocalApicExternal, DisabledApicLeavesThePinOpen) {
  M m(1);
  EXPECT_TRUE(m.apic().set_base_msr(0xFEE00100));
  m.pic.level = true;
  EXPECT_TRUE(m.apic().has_interrupt());
  EXPECT_EQ(m.apic().acknowledge(), 0x30);
}

TEST(LocalApicExternal, FixedAndNmiModesTakeEdges) {
  M m(1);
  m.enable();
  m.apic().mmio_write(M::kLint0, 0x66);
  const auto pulse = [&] {
    m.pic.level = true;
    m.apic().external_interrupt_changed();
    m.apic().external_interrupt_changed();  // no new edge
    m.pic.level = false;
    m.apic().external_interrupt_changed();
  };
  pulse();
  EXPECT_EQ(m.drain(), (std::vector<u8>{0x66}));
  static_cast<void>(m.events().take(~0U));
  m.apic().mmio_write(M::kLint0, 0x400);
  pulse();
  EXPECT_EQ(m.events().take(~0U), VcpuEvents::kNmi);
}

}  // namespace
}  // namespace vert::test

// Save and restore of the local APIC, and what a hostile guest or snapshot may do to it.
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "unit/cpu_apic/apic_machine.hpp"

namespace vert::test {
namespace {

using M = ApicMachine;

/// APIC 0 of `m` in the midst of much.
void make_busy(M& m) {
  m.enable();
  cpu::LocalApic& apic = m.apic();
  apic.mmio_write(M::kTpr, 0x12);
  apic.mmio_write(M::kLdr, 0x01000000);
  apic.mmio_write(M::kLint0, 0x700);
  apic.mmio_write(M::kLvtTimer, 1U << 17 | 0x40);
  apic.mmio_write(M::kTimerDivide, 0xB);
  apic.mmio_write(M::kTimerInitial, 50'000);
  m.send(0x55);
  static_cast<void>(apic.acknowledge());
  m.send(0x91, 0, true);
  m.send(0x03);
  apic.mmio_write(M::kIcrHigh, 7U << 24);
  apic.mmio_write(M::kIcrLow, 0x4033);
}

TEST(LocalApicState, RoundTrip) {
  M from(1);
  M to(1);
  make_busy(from);
  from.time.advance(20'000);
  to.time.advance(20'000);
  const base::Document saved = from.apic().save();
  ASSERT_TRUE(to.apic().restore(saved));
  EXPECT_EQ(to.apic().save(), saved);
  EXPECT_EQ(to.events().take(~0U), cpu::VcpuEvents::kInterrupt);
  EXPECT_EQ(to.apic().mmio_read(M::kTimerCurrent), 30'000U);
  EXPECT_EQ(to.drain(), (std::vector<u8>{0x91}));
  EXPECT_EQ(to.eois.vectors, (std::vector<u8>{0x91}));
  to.time.advance(30'000);
  to.apic().mmio_write(M::kEoi, 0);  // 0x55
  EXPECT_EQ(to.drain(), (std::vector<u8>{0x40}));
  to.pic.level = true;
  EXPECT_EQ(to.apic().acknowledge(), 0x30);
}

TEST(LocalApicState, RoundTripOfTheTscDeadline) {
  M from(1);
  M to(1);
  from.enter_x2apic();
  EXPECT_TRUE(from.apic().msr_write(0x80F, 0x1FF));
  EXPECT_TRUE(from.apic().msr_write(0x832, 2U << 17 | 0x40));
  from.apic().set_tsc_deadline(3'000'000, 0);
  to.tsc_error = 1'000'000;  // another host
  ASSERT_TRUE(to.apic().restore(from.apic().save()));
  EXPECT_EQ(to.apic().tsc_deadline(), 3'000'000U);
  to.time.advance(999'999);
  EXPECT_FALSE(to.apic().has_interrupt());
  to.time.advance(1);
  EXPECT_TRUE(to.apic().has_interrupt());
}

TEST(LocalApicState, RefusesWhatCannotBe) {
  const struct {
    const char* what;
    std::function<void(base::Document&)> spoil;
  } cases[] = {
      {"base reserved bits", [](auto& s) { s["base"] = 0xFEE00901U; }},
      {"base EXTD alone", [](auto& s) { s["base"] = 0xFEE00500U; }},
      {"base of another processor", [](auto& s) { s["base"] = 0xFEE00800U; }},
      {"svr", [](auto& s) { s["svr"] = 0x2000U; }},
      {"irr", [](auto& s) { s["irr"][0] = 1U; }},
      {"isr", [](auto& s) { s["isr"][0] = 0x8000U; }},
      {"tmr", [](auto& s) { s["tmr"][0] = 1U; }},
      {"esr", [](auto& s) { s["esr"] = 1U; }},
      {"ldr", [](auto& s) { s["ldr"] = 1U; }},
      {"dfr", [](auto& s) { s["dfr"] = 0U; }},
      {"lvt", [](auto& s) { s["lvt"][0] = 0xFFFFFFFFU; }},
      {"lvt unmasked while disabled", [](auto& s) { s["svr"] = 0U; }},
      {"reserved timer mode, armed", [](auto& s) { s["lvt"][0] = 0x60040U; }},
      {"divider", [](auto& s) { s["timer_divide"] = 4U; }},
      {"armed without a count", [](auto& s) { s["timer_initial"] = 0U; }},
      {"deadline too far", [](auto& s) { s["timer_deadline_ns"] = ~u64{0}; }},
      {"deadline in another mode", [](auto& s) { s["tsc_deadline"] = 5U; }},
      {"deadline mode without deadline", [](auto& s) { s["lvt"][0] = 0x40040U; }},
      {"tpr too wide", [](auto& s) { s["tpr"] = 256U; }},
      {"unknown field", [](auto& s) { s["more"] = 1U; }},
  };
  M m(1);
  make_busy(m);
  const base::Document good = m.apic().save();
  for (const auto& [what, spoil] : cases) {
    base::Document bad = good;
    spoil(bad["state"]);
    EXPECT_FALSE(m.apic().restore(bad)) << what;
    EXPECT_EQ(m.apic().save(), good) << what;
  }
  EXPECT_FALSE(m.apic().restore(base::Document()));
}

/// Whatever a guest writes, registers stay legal: what is saved can be restored, and hints stay true.
void fuzz(bool x2apic) {
  M m(3);
  if (x2apic) m.enter_x2apic();
  std::mt19937_64 random(x2apic ? 2 : 1);
  const auto below = [&](u32 limit) { return static_cast<u32>(random() % limit); };
  for (unsigned step = 0; step < 30'000; ++step) {
    cpu::LocalApic& apic = m.apic(below(3));
    const u32 reg = below(0x44);
    u64 value = random() >> below(64);
    if (below(4) == 0) value |= 0x100;  // enabled now and then
    switch (below(8)) {
      case 0: static_cast<void>(apic.mmio_read(reg * 16 + below(5))); break;
      case 1: static_cast<void>(apic.msr_read(0x7FF + reg)); break;
      case 2: static_cast<void>(apic.acknowledge()); break;
      case 3: apic.set_tsc_deadline(value, random()); break;
      case 4: m.time.advance(below(50'000)); break;
      case 5: m.send(static_cast<u8>(value), below(4), below(2) == 0); break;
      default:
        if (x2apic)
          static_cast<void>(apic.msr_write(0x7FF + reg, value));
        else
          apic.mmio_write(reg * 16, static_cast<u32>(value));
    }
    if (below(512) == 0) static_cast<void>(apic.set_base_msr(0xFEE00000 | (random() & 0xD00)));
    m.pic.level = below(16) == 0;
    if (step % 16 != 0) continue;
    const base::Document before = apic.save();
    const bool ready = apic.has_interrupt();
    ASSERT_EQ(apic.acknowledge().has_value(), ready) << step;
    ASSERT_TRUE(apic.restore(before)) << step;
  }
}

TEST(LocalApicState, SurvivesRandomWritesInXapicMode) { fuzz(false); }
TEST(LocalApicState, SurvivesRandomWritesInX2apicMode) { fuzz(true); }

}  // namespace
}  // namespace vert::test

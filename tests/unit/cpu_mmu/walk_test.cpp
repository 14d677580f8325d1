// Walks: large pages, accessed and dirty flags, reserved bits, PDPTEs, tables outside RAM.
#include "paging_rig.hpp"

namespace vert::test {
namespace {

using cpu::AccessKind;
using cpu::Privilege;
namespace pte = x86::pte;
namespace pf = x86::pf;

constexpr u64 kLinear = 0x4012'3ABC;

class WalkTest : public ::testing::TestWithParam<Mode> {
 protected:
  PagingRig rig_{GetParam()};
};

TEST_P(WalkTest, ReadSetsAccessedInEveryEntryAndNotDirty) {
  rig_.map(kLinear);
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
  EXPECT_EQ(rig_.translation.page, Gpa(PagingRig::kPage));
  EXPECT_FALSE(rig_.translation.writable);
  for (unsigned level = GetParam() == Mode::kPae ? 1 : 0; level < rig_.levels(); ++level)
    EXPECT_EQ(rig_.entry(level, kLinear) & (pte::A | pte::D), pte::A) << level;
}

TEST_P(WalkTest, PdptesHaveNoAccessedFlag) {
  if (GetParam() != Mode::kPae) GTEST_SKIP() << "PAE only";
  rig_.map(kLinear);
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
  EXPECT_EQ(rig_.entry(0, kLinear) & 0xFFF, pte::P);
}

TEST_P(WalkTest, WriteSetsDirtyInTheLastEntryOnly) {
  rig_.map(kLinear);
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kWrite, Privilege::kSupervisor));
  EXPECT_TRUE(rig_.translation.writable);
  const unsigned last = rig_.levels() - 1;
  EXPECT_EQ(rig_.entry(last, kLinear) & (pte::A | pte::D), pte::A | pte::D);
  EXPECT_EQ(rig_.entry(last - 1, kLinear) & pte::D, 0U);
}

TEST_P(WalkTest, ReadOfADirtyPageMayWrite) {
  rig_.map(kLinear, PagingRig::kPage, kPteOpen | pte::A | pte::D);
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kUser));
  EXPECT_TRUE(rig_.translation.writable);
}

TEST_P(WalkTest, FaultLeavesEntriesAlone) {
  rig_.map(kLinear, PagingRig::kPage, pte::P | pte::US);
  ASSERT_FALSE(rig_.walk(kLinear, AccessKind::kWrite, Privilege::kUser));
  EXPECT_EQ(rig_.entry(rig_.levels() - 1, kLinear), PagingRig::kPage | pte::P | pte::US);
}

TEST_P(WalkTest, SettingFlagsIsLogged) {
  rig_.map(kLinear);
  rig_.memory->set_dirty_log(true);
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kUser));
  const auto dirty = rig_.memory->take_dirty();
  const unsigned first = GetParam() == Mode::kPae ? 1 : 0;
  ASSERT_EQ(dirty.size(), rig_.levels() - first);
  EXPECT_EQ(dirty.front(), (PagingRig::kTables >> kPageShift) + first);
}

TEST_P(WalkTest, NotPresentAtEachLevel) {
  for (unsigned level = GetParam() == Mode::kPae ? 1 : 0; level < rig_.levels(); ++level) {
    rig_.map(kLinear);
    rig_.set_entry(level, kLinear, rig_.entry(level, kLinear) & ~pte::P);
    EXPECT_FALSE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kUser));
    EXPECT_EQ(rig_.fault, x86::Fault::page(pf::U, kLinear));
  }
}

TEST_P(WalkTest, ReservedBitAtEachLevel) {
  if (GetParam() == Mode::k32) GTEST_SKIP() << "32-bit entries have none";
  for (unsigned level = GetParam() == Mode::kPae ? 1 : 0; level < rig_.levels(); ++level) {
    for (const unsigned bit : {kPhysicalBits, 51U}) {
      rig_.map(kLinear);
      rig_.set_entry(level, kLinear, rig_.entry(level, kLinear) | u64{1} << bit);
      EXPECT_FALSE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
      EXPECT_EQ(rig_.fault, x86::Fault::page(pf::P | pf::RSVD, kLinear));
    }
    // Bits 58..52 are free in long mode, reserved in PAE.
    rig_.map(kLinear);
    rig_.set_entry(level, kLinear, rig_.entry(level, kLinear) | u64{1} << 52);
    EXPECT_EQ(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor), rig_.is_long());
  }
}

TEST_P(WalkTest, LargePage) {
  const unsigned depth = rig_.levels() - 1;
  const u64 size = GetParam() == Mode::k32 ? u64{4} << 20 : u64{2} << 20;
  rig_.map(kLinear, size, kPteOpen | pte::PS, depth);
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kWrite, Privilege::kUser));
  EXPECT_EQ(rig_.translation.page_size, size);
  EXPECT_EQ(rig_.translation.page, Gpa(size + (kLinear % size)).page_base());
  EXPECT_EQ(rig_.entry(depth - 1, kLinear) & (pte::A | pte::D), pte::A | pte::D);
  const u64 reserved = GetParam() == Mode::k32 ? u64{1} << 21 : u64{1} << 20;
  rig_.map(kLinear, size | reserved, kPteOpen | pte::PS, depth);
  ASSERT_FALSE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
  EXPECT_EQ(rig_.fault.error_code, pf::P | pf::RSVD);
  rig_.map(kLinear, size | pte::PAT_LARGE, kPteOpen | pte::PS, depth);
  EXPECT_TRUE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
}

TEST_P(WalkTest, GiganticPage) {
  if (!rig_.is_long()) GTEST_SKIP() << "long mode only";
  const unsigned depth = rig_.levels() - 2;
  rig_.map(kLinear, u64{3} << 30, kPteOpen | pte::PS, depth);
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kUser));
  EXPECT_EQ(rig_.translation.page, Gpa((u64{3} << 30) + (kLinear & 0x3FFF'F000)));
  EXPECT_EQ(rig_.translation.page_size, u64{1} << 30);
  for (const unsigned bit : {13U, 29U}) {
    rig_.map(kLinear, (u64{3} << 30) | u64{1} << bit, kPteOpen | pte::PS, depth);
    EXPECT_FALSE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kUser)) << bit;
  }
}

TEST_P(WalkTest, GiganticPageIsReservedWhereThereAreNone) {
  if (!rig_.is_long()) GTEST_SKIP() << "long mode only";
  rig_.limits.gigabyte_pages = false;
  rig_.map(kLinear, u64{3} << 30, kPteOpen | pte::PS, rig_.levels() - 2);
  EXPECT_FALSE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
  EXPECT_EQ(rig_.fault, x86::Fault::page(pf::P | pf::RSVD, kLinear));
}

TEST_P(WalkTest, PageSizeIsReservedHigherUp) {
  if (!rig_.is_long()) GTEST_SKIP() << "long mode only";
  for (unsigned level = 0; level + 3 < rig_.levels(); ++level) {
    rig_.map(kLinear);
    rig_.set_entry(level, kLinear, rig_.entry(level, kLinear) | pte::PS);
    EXPECT_FALSE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
    EXPECT_EQ(rig_.fault.error_code, pf::P | pf::RSVD);
  }
}

TEST_P(WalkTest, TablesOutsideRamReadAsOnes) {
  rig_.map(kLinear);
  rig_.set_entry(rig_.levels() - 2, kLinear, (PagingRig::kRamSize + kPageSize) | kPteOpen);
  if (GetParam() == Mode::k32) {
    // All ones is a valid 32-bit entry.
    ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kWrite, Privilege::kUser));
    EXPECT_EQ(rig_.translation.page, Gpa(0xFFFF'F000));
  } else {
    ASSERT_FALSE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
    EXPECT_EQ(rig_.fault.error_code, pf::P | pf::RSVD);
  }
}

TEST_P(WalkTest, GlobalNeedsPge) {
  rig_.map(kLinear, PagingRig::kPage, kPteOpen | pte::G);
  if (GetParam() == Mode::kPae || rig_.is_long()) {
    for (unsigned level = GetParam() == Mode::kPae ? 1 : 0; level + 1 < rig_.levels(); ++level)
      rig_.set_entry(level, kLinear, rig_.entry(level, kLinear) & ~pte::G);
  }
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
  EXPECT_FALSE(rig_.translation.global);
  rig_.state.cr4 |= x86::cr4::PGE;
  ASSERT_TRUE(rig_.walk(kLinear, AccessKind::kRead, Privilege::kSupervisor));
  EXPECT_TRUE(rig_.translation.global);
}

TEST_P(WalkTest, DebugWalkChangesNothing) {
  rig_.map(kLinear, PagingRig::kPage, pte::P);
  EXPECT_EQ(cpu::debug_walk(rig_.state, *rig_.memory, kLimits, Gla(kLinear)), Gpa(PagingRig::kPage));
  EXPECT_EQ(rig_.entry(rig_.levels() - 1, kLinear), PagingRig::kPage | pte::P);
  EXPECT_EQ(cpu::debug_walk(rig_.state, *rig_.memory, kLimits, Gla(kLinear + kPageSize)), std::nullopt);
}

INSTANTIATE_TEST_SUITE_P(Modes, WalkTest,
                         ::testing::Values(Mode::k32, Mode::kPae, Mode::k4Level, Mode::k5Level));

TEST(Walk, WithoutPagingAddressesMapToThemselves) {
  PagingRig rig(Mode::k32);
  rig.state.cr0 = x86::cr0::PE;
  ASSERT_TRUE(rig.walk(0xFFFF'F123, AccessKind::kWrite, Privilege::kUser));
  EXPECT_EQ(rig.translation.page, Gpa(0xFFFF'F000));
  EXPECT_TRUE(rig.translation.writable);
}

TEST(Walk, PageSizeNeedsPse) {
  PagingRig rig(Mode::k32);
  rig.map(kLinear, PagingRig::kPage, kPteOpen | pte::PS);
  rig.state.cr4 = 0;
  ASSERT_TRUE(rig.walk(kLinear, AccessKind::kRead, Privilege::kUser));
  EXPECT_EQ(rig.translation.page_size, kPageSize);
  EXPECT_EQ(rig.translation.page, Gpa(PagingRig::kPage));
}

TEST(Walk, Pse36HoldsFortyBits) {
  PagingRig rig(Mode::k32);
  rig.map(kLinear, (u64{0xA5} << 13) | 0x0080'0000, kPteOpen | pte::PS, 1);
  ASSERT_TRUE(rig.walk(kLinear, AccessKind::kRead, Privilege::kUser));
  EXPECT_EQ(rig.translation.page, Gpa((u64{0xA5} << 32) | 0x0080'0000 | (kLinear & 0x3F'F000)));
}

TEST(Walk, PdptesAreCheckedAndKept) {
  PagingRig rig(Mode::kPae);
  rig.map(kLinear);
  const auto kept = rig.state.pdpte;
  rig.set_entry(0, kLinear, 0);
  EXPECT_TRUE(rig.walk(kLinear, AccessKind::kRead, Privilege::kUser));  // the registers, not memory
  for (const u64 reserved : {pte::RW, pte::US, u64{1} << 5, u64{1} << 8, u64{1} << kPhysicalBits, pte::XD}) {
    rig.set_entry(0, kLinear, kPtePresent | reserved);
    EXPECT_FALSE(cpu::load_pdptes(rig.state, *rig.memory, kLimits)) << reserved;
    EXPECT_EQ(rig.state.pdpte, kept);
    rig.set_entry(0, kLinear, reserved);  // not present: nothing is checked
    EXPECT_TRUE(cpu::load_pdptes(rig.state, *rig.memory, kLimits)) << reserved;
    rig.state.pdpte = kept;
  }
  rig.state.pdpte = {};
  EXPECT_FALSE(rig.walk(kLinear, AccessKind::kRead, Privilege::kUser));
  EXPECT_EQ(rig.fault.error_code, pf::U);
  rig.state.cr3 = PagingRig::kRamSize;
  EXPECT_FALSE(cpu::load_pdptes(rig.state, *rig.memory, kLimits));
}

TEST(Walk, PcidIsNotPartOfTheAddress) {
  PagingRig rig(Mode::k4Level);
  rig.map(kLinear);
  rig.state.cr4 |= x86::cr4::PCIDE;
  rig.state.cr3 |= 0x123;
  EXPECT_TRUE(rig.walk(kLinear, AccessKind::kRead, Privilege::kUser));
}

}  // namespace
}  // namespace vert::test

// leaf_fill_tlb against the walk that sets bits: it fills exactly what that would find without setting any.
#include <algorithm>
#include <random>

#include "tlb_rig.hpp"

namespace vert::test {
namespace {

namespace pte = x86::pte;
using cpu::AccessKind;
using cpu::Privilege;

constexpr u64 kOpen = kPteOpen | pte::A | pte::D;

std::vector<u64> entries_of(const TlbRig& rig, u64 linear) {
  std::vector<u64> entries;
  for (unsigned level = 0; level < rig.paging.levels(); ++level)
    entries.push_back(rig.paging.entry(level, linear));
  return entries;
}

/// One entry, mostly usable, with now and then a bit that matters.
u64 random_entry(std::mt19937_64& random, u64 target, bool last) {
  u64 entry = target | kOpen;
  const auto sometimes = [&](u64 bit) {
    if (random() % 12 == 0) entry ^= bit;
  };
  for (const u64 bit : {pte::RW, pte::US}) sometimes(bit);
  if (random() % 3 == 0) {
    for (const u64 bit :
         {pte::P, pte::A, pte::D, pte::G, pte::XD, u64{1} << 51, u64{1} << 46, u64{1} << 45, u64{1} << 59})
      sometimes(bit);
  }
  if (!last) sometimes(pte::PS);
  if (random() % 24 == 0) entry ^= u64{1} << (13 + random() % 17);
  return entry;
}

bool is_pae(const PagingRig& paging) { return !paging.is_long() && paging.entry_size() == 8; }

void randomize(TlbRig& rig, std::mt19937_64& random, u64 linear) {
  PagingRig& paging = rig.paging;
  const unsigned levels = paging.levels();
  for (unsigned level = 0; level < levels; ++level) {
    const bool last = level + 1 == levels;
    u64 entry =
        random_entry(random, last ? PagingRig::kPage : PagingRig::kTables + (level + 1) * kPageSize, last);
    if (!last && random() % 8 == 0) entry = (entry & ~pte::kAddressMask) | pte::PS;  // a large page at 0
    if (is_pae(paging) && level == 0) entry = (entry & pte::kAddressMask) | pte::P;
    paging.set_entry(level, linear, entry);
  }
  cpu::CpuState& state = paging.state;
  const auto flip = [&](u64& reg, u64 bit) {
    if (random() % 2 == 0) reg ^= bit;
  };
  flip(state.cr0, x86::cr0::WP);
  flip(state.cr4, x86::cr4::SMAP);
  flip(state.cr4, x86::cr4::PGE);
  if (paging.entry_size() == 4) flip(state.cr4, x86::cr4::PSE);
  if (paging.entry_size() == 8) flip(state.efer, x86::efer::NXE);
  if (paging.is_long()) flip(state.cr4, x86::cr4::PKE);
  if (is_pae(paging)) static_cast<void>(cpu::load_pdptes(state, *paging.memory, kLimits));
}

struct Case {
  Mode mode;
  const char* cpu = "host";
};

class WalkTest : public ::testing::TestWithParam<Case> {};

TEST_P(WalkTest, AgreesWithTheFullWalk) {
  constexpr u64 kLinear = 0x1234'5678;
  TlbRig rig(GetParam().mode, GetParam().cpu);
  std::mt19937_64 random(7);
  unsigned filled = 0;
  unsigned refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    randomize(rig, random, kLinear);
    bt::flush_all(*rig.context);
    const bool write = random() % 2 == 0;
    const auto privilege = static_cast<Privilege>(random() % 3);
    const auto before = entries_of(rig, kLinear);
    const bool result = rig.fill(kLinear, write, privilege);
    ASSERT_EQ(entries_of(rig, kLinear), before) << "the guest's tables were written";

    bool expected = rig.paging.walk(kLinear, write ? AccessKind::kWrite : AccessKind::kRead, privilege) &&
                    entries_of(rig, kLinear) == before;
    const u8* host =
        expected ? rig.paging.memory->host(rig.paging.translation.page + (kLinear & kPageOffsetMask), 1)
                 : nullptr;
    expected = expected && host != nullptr;
    const u64 key = u64{0xF} << pte::kProtectionKeyShift;
    const bool keyed = rig.paging.is_long() && (rig.paging.state.cr4 & x86::cr4::PKE) != 0 &&
                       std::ranges::any_of(before, [&](u64 entry) { return (entry & key) != 0; });
    if (keyed && !result) continue;
    ASSERT_EQ(result, expected) << i;
    ASSERT_EQ(rig.lookup(kLinear, write, privilege), host) << i;
    (result ? filled : refused)++;
    // What a read fills for writing must be writable without setting bits, and the other way round.
    if (write || !result) continue;
    const bool writable =
        rig.paging.walk(kLinear, AccessKind::kWrite, privilege) && entries_of(rig, kLinear) == before;
    ASSERT_EQ(rig.lookup(kLinear, true, privilege), writable ? host : nullptr) << i;
  }
  EXPECT_GT(filled, 2000U);
  EXPECT_GT(refused, 2000U);
}
INSTANTIATE_TEST_SUITE_P(Modes, WalkTest,
                         ::testing::Values(Case{Mode::k32}, Case{Mode::kPae}, Case{Mode::k4Level},
                                           Case{Mode::k5Level}, Case{Mode::k4Level, "host,-PDPE1GB"}));

TEST(LeafWalk, RefusesAddressesThatAreNotCanonical) {
  TlbRig rig(Mode::k4Level);
  constexpr u64 kLinear = 0x7000'0000'0000;
  rig.paging.map(kLinear, PagingRig::kPage, kOpen);
  EXPECT_TRUE(rig.fill(kLinear, true, Privilege::kUser));
  EXPECT_FALSE(rig.fill(kLinear | u64{1} << 48, true, Privilege::kUser));
  TlbRig narrow(Mode::kPae);
  narrow.paging.map(0x4000'0000, PagingRig::kPage, kOpen);
  EXPECT_TRUE(narrow.fill(0x4000'0000, true, Privilege::kUser));
  EXPECT_FALSE(narrow.fill(u64{1} << 32 | 0x4000'0000, true, Privilege::kUser));
}

TEST(LeafWalk, WithoutPagingMapsRamToItself) {
  TlbRig rig(Mode::k32);
  rig.paging.state.cr0 &= ~x86::cr0::PG;
  for (const auto privilege : {Privilege::kUser, Privilege::kSupervisor, Privilege::kSmap}) {
    ASSERT_TRUE(rig.fill(0x5008, true, privilege));
    EXPECT_EQ(rig.lookup(0x5008, true, privilege), rig.paging.memory->host(Gpa(0x5008), 1));
  }
  EXPECT_FALSE(rig.fill(PagingRig::kRamSize, false, Privilege::kUser));
  EXPECT_FALSE(rig.fill(u64{1} << 32, false, Privilege::kUser));
}

TEST(LeafWalk, MarkedPagesAreNotForWriting) {
  TlbRig rig(Mode::k4Level);
  constexpr u64 kLinear = 0x40'0000;
  rig.paging.map(kLinear, PagingRig::kPage, kOpen);
  rig.paging.memory->watch_code(PagingRig::kPage >> kPageShift);
  EXPECT_FALSE(rig.fill(kLinear, true, Privilege::kUser));
  EXPECT_TRUE(rig.fill(kLinear, false, Privilege::kUser));
  EXPECT_NE(rig.lookup(kLinear, false, Privilege::kUser), nullptr);
  EXPECT_EQ(rig.lookup(kLinear, true, Privilege::kUser), nullptr);
}

TEST(LeafWalk, EntriesEndWithThePage) {
  TlbRig rig(Mode::k4Level);
  constexpr u64 kLinear = 0x40'0000;
  rig.paging.map(kLinear, PagingRig::kPage, kOpen);
  ASSERT_TRUE(rig.fill(kLinear, true, Privilege::kUser));
  EXPECT_NE(rig.lookup(kLinear + kPageSize - 8, true, Privilege::kUser, 8), nullptr);
  EXPECT_EQ(rig.lookup(kLinear + kPageSize - 7, true, Privilege::kUser, 8), nullptr);
  EXPECT_EQ(rig.lookup(kLinear + kPageSize, true, Privilege::kUser), nullptr);
  EXPECT_EQ(rig.lookup(kLinear, true, Privilege::kSupervisor), nullptr);
}

}  // namespace
}  // namespace vert::test

// What flushes forget, and what they keep.
#include "tlb_rig.hpp"

namespace vert::test {
namespace {

namespace pte = x86::pte;
using cpu::Privilege;

constexpr u64 kOpen = kPteOpen | pte::A | pte::D;
constexpr u64 kUserPage = 0x40'0000;
constexpr u64 kKernelPage = 0xFFFF'8000'0000'5000;

class TlbFlushTest : public ::testing::Test {
 protected:
  void SetUp() override { rig.paging.state.cr4 |= x86::cr4::PGE; }
  void fill(u64 linear, u64 flags, Privilege privilege) {
    rig.paging.map(linear, PagingRig::kPage, flags);
    ASSERT_TRUE(rig.fill(linear, true, privilege));
  }
  [[nodiscard]] bool has(u64 linear, bool write, Privilege privilege) {
    return rig.lookup(linear, write, privilege) != nullptr;
  }
  [[nodiscard]] u32 token(bool user, u64 linear) {
    return static_cast<u32>(rig.context->code_tokens[user ? 1 : 0][bt::token_slot(linear)] >> 32);
  }

  TlbRig rig{Mode::k4Level};
};

TEST_F(TlbFlushTest, NothingHitsAfterInit) {
  for (u64 page = 0; page < 2 * bt::kTlbSize; ++page) {
    for (const auto privilege : {Privilege::kUser, Privilege::kSupervisor, Privilege::kSmap}) {
      ASSERT_FALSE(has(page << kPageShift, false, privilege));
      ASSERT_FALSE(has(page << kPageShift, true, privilege));
    }
  }
}

TEST_F(TlbFlushTest, AddressSpaceKeepsGlobalSupervisorPages) {
  fill(kUserPage, kOpen, Privilege::kUser);
  fill(kKernelPage, (kOpen & ~pte::US) | pte::G, Privilege::kSmap);
  fill(kKernelPage + kPageSize, kOpen & ~pte::US, Privilege::kSmap);
  bt::flush_address_space(*rig.context);
  EXPECT_FALSE(has(kUserPage, false, Privilege::kUser));
  EXPECT_FALSE(has(kUserPage, true, Privilege::kUser));
  EXPECT_FALSE(has(kKernelPage + kPageSize, true, Privilege::kSmap));
  EXPECT_TRUE(has(kKernelPage, true, Privilege::kSmap));
  EXPECT_TRUE(has(kKernelPage, false, Privilege::kSmap));
  bt::flush_all(*rig.context);
  EXPECT_FALSE(has(kKernelPage, false, Privilege::kSmap));
}

TEST_F(TlbFlushTest, NewAddressSpacesHaveNoLargePagesInTheLowerHalf) {
  rig.paging.map(kUserPage, 0, kOpen | pte::PS | pte::G, rig.paging.levels() - 1);
  ASSERT_TRUE(rig.fill(kUserPage, true, Privilege::kUser));
  ASSERT_TRUE(rig.fill(kUserPage, true, Privilege::kSupervisor));
  bt::flush_address_space(*rig.context);
  EXPECT_FALSE(has(kUserPage, true, Privilege::kSupervisor));
  fill(kUserPage, kOpen, Privilege::kUser);
  fill(kUserPage + kPageSize, kOpen, Privilege::kUser);
  bt::flush_page(*rig.context, kUserPage);
  EXPECT_TRUE(has(kUserPage + kPageSize, true, Privilege::kUser));
}

TEST_F(TlbFlushTest, PagesAreGlobalOnlyWithPge) {
  rig.paging.state.cr4 &= ~x86::cr4::PGE;
  fill(kKernelPage, (kOpen & ~pte::US) | pte::G, Privilege::kSmap);
  bt::flush_address_space(*rig.context);
  EXPECT_FALSE(has(kKernelPage, true, Privilege::kSmap));
}

TEST_F(TlbFlushTest, AddressSpaceFlushSurvivesAFullLog) {
  fill(kUserPage, kOpen, Privilege::kUser);
  for (u32 i = 0; i < 2 * bt::Context::kFills; ++i) ASSERT_TRUE(rig.fill(kUserPage, true, Privilege::kUser));
  EXPECT_EQ(rig.context->fill_count, bt::Context::kFills + 1);
  bt::flush_address_space(*rig.context);
  EXPECT_FALSE(has(kUserPage, true, Privilege::kUser));
  EXPECT_EQ(rig.context->fill_count, 0U);
}

TEST_F(TlbFlushTest, InvlpgForgetsOnePageInAllBanks) {
  fill(kUserPage, kOpen, Privilege::kUser);
  ASSERT_TRUE(rig.fill(kUserPage, true, Privilege::kSupervisor));
  fill(kUserPage + kPageSize, kOpen, Privilege::kUser);
  bt::set_token(*rig.context, true, kUserPage, 5, false);
  bt::set_token(*rig.context, false, kUserPage, 6, false);
  bt::set_token(*rig.context, true, kUserPage + kPageSize, 7, false);
  bt::flush_page(*rig.context, kUserPage + 123);
  EXPECT_FALSE(has(kUserPage, true, Privilege::kUser));
  EXPECT_FALSE(has(kUserPage, false, Privilege::kSupervisor));
  EXPECT_TRUE(has(kUserPage + kPageSize, true, Privilege::kUser));
  EXPECT_EQ(token(true, kUserPage), 0U);
  EXPECT_EQ(token(false, kUserPage), 0U);
  EXPECT_EQ(token(true, kUserPage + kPageSize), 7U);
}

TEST_F(TlbFlushTest, InvlpgOfALargePageForgetsAllOfIt) {
  const unsigned depth = rig.paging.levels() - 1;
  rig.paging.map(kUserPage, 0, kOpen | pte::PS, depth);
  ASSERT_TRUE(rig.fill(kUserPage + 0x1000, true, Privilege::kUser));
  ASSERT_TRUE(rig.fill(kUserPage + 0x1F'F000, true, Privilege::kUser));
  EXPECT_EQ(rig.lookup(kUserPage + 0x1F'F123, true, Privilege::kUser),
            rig.paging.memory->host(Gpa(0x1F'F123), 1));
  bt::flush_page(*rig.context, kUserPage + 0x8000);
  EXPECT_FALSE(has(kUserPage + 0x1000, true, Privilege::kUser));
  EXPECT_FALSE(has(kUserPage + 0x1F'F000, false, Privilege::kUser));
}

TEST_F(TlbFlushTest, InvlpgOfAGiantPageForgetsAllOfIt) {
  constexpr u64 kGiant = u64{1} << 30;
  rig.paging.map(kGiant, 0, kOpen | pte::PS, rig.paging.levels() - 2);
  ASSERT_TRUE(rig.fill(kGiant + 0x1000, true, Privilege::kUser));
  bt::flush_page(*rig.context, kGiant + 0x3FFF'F000);
  EXPECT_FALSE(has(kGiant + 0x1000, true, Privilege::kUser));
}

TEST_F(TlbFlushTest, KernelsLargePagesDoNotMakeInvlpgOfUserPagesDear) {
  constexpr u64 kDirectMap = 0xFFFF'8880'0000'0000;
  fill(kUserPage, kOpen, Privilege::kUser);
  fill(kUserPage + kPageSize, kOpen, Privilege::kUser);
  rig.paging.map(kDirectMap + kUserPage, 0, kOpen | pte::PS, rig.paging.levels() - 1);
  ASSERT_TRUE(rig.fill(kDirectMap + kUserPage, true, Privilege::kSupervisor));
  bt::flush_page(*rig.context, kUserPage);
  EXPECT_TRUE(has(kUserPage + kPageSize, true, Privilege::kUser));
}

TEST_F(TlbFlushTest, TokensOfGlobalCodeOutliveTheAddressSpace) {
  bt::set_token(*rig.context, true, kUserPage, 5, true);
  bt::set_token(*rig.context, false, kKernelPage, 6, true);
  bt::set_token(*rig.context, false, kKernelPage + kPageSize, 7, false);
  bt::flush_address_space(*rig.context);
  EXPECT_EQ(token(true, kUserPage), 0U);  // user tokens always go
  EXPECT_EQ(token(false, kKernelPage), 6U);
  EXPECT_EQ(token(false, kKernelPage + kPageSize), 0U);
  for (u64 i = 0; i <= bt::Context::kTokenFills; ++i)
    bt::set_token(*rig.context, true, kUserPage + i * kPageSize, 8, false);
  bt::flush_address_space(*rig.context);
  for (u64 i = 0; i <= bt::Context::kTokenFills; ++i) ASSERT_EQ(token(true, kUserPage + i * kPageSize), 0U);
}

TEST_F(TlbFlushTest, DropWritableFindsEveryMappingOfTheFrame) {
  constexpr memory::Frame kFrame = PagingRig::kPage >> kPageShift;
  fill(kUserPage, kOpen, Privilege::kUser);
  ASSERT_TRUE(rig.fill(kUserPage, true, Privilege::kSupervisor));
  fill(kUserPage + kPageSize, kOpen, Privilege::kUser);  // the same frame
  rig.paging.map(kUserPage + 2 * kPageSize, PagingRig::kPage + kPageSize, kOpen);
  ASSERT_TRUE(rig.fill(kUserPage + 2 * kPageSize, true, Privilege::kUser));

  bt::drop_writable(*rig.context, kFrame + 2);
  EXPECT_TRUE(has(kUserPage, true, Privilege::kUser));
  bt::drop_writable(*rig.context, kFrame);
  EXPECT_FALSE(has(kUserPage, true, Privilege::kUser));
  EXPECT_FALSE(has(kUserPage, true, Privilege::kSupervisor));
  EXPECT_FALSE(has(kUserPage + kPageSize, true, Privilege::kUser));
  EXPECT_TRUE(has(kUserPage, false, Privilege::kUser));
  EXPECT_TRUE(has(kUserPage + 2 * kPageSize, true, Privilege::kUser));
  bt::drop_writable(*rig.context, kFrame + 1);  // still known after the filter was made anew
  EXPECT_FALSE(has(kUserPage + 2 * kPageSize, true, Privilege::kUser));

  ASSERT_TRUE(rig.fill(kUserPage, true, Privilege::kUser));
  bt::drop_all_writable(*rig.context);
  EXPECT_FALSE(has(kUserPage, true, Privilege::kUser));
  EXPECT_TRUE(has(kUserPage, false, Privilege::kUser));
}

}  // namespace
}  // namespace vert::test

// Page faults and their error codes, WP, NX, SMEP, SMAP, accessed and dirty bits, TLB invalidation.
#include "insn/system/system_test.hpp"

namespace vert::test {
namespace {

namespace pf = x86::pf;
namespace pte = x86::pte;

class PagingTest : public SystemTest {
 protected:
  cpu::CpuState user_at_page() {
    cpu::CpuState state = user_state();
    state.gpr[x86::kRsi] = kPage;
    return state;
  }
  cpu::CpuState kernel_at_page() {
    cpu::CpuState state = kernel_state();
    state.gpr[x86::kRsi] = kPage;
    return state;
  }
  void expect_page_fault(const cpu::CpuState& state, u32 error_code, u64 address = kPage) {
    const Caught caught = run_to_exception(state);
    EXPECT_EQ(caught.vector, x86::kPF);
    EXPECT_EQ(caught.error_code, error_code);
    EXPECT_EQ(caught.cr2, address);
  }
  void expect_no_fault(const cpu::CpuState& state) { EXPECT_EQ(run_to_exception(state).vector, x86::kBP); }
};

TEST_P(PagingTest, NotPresent) {
  load_user(SNIPPET(read));
  expect_page_fault(user_at_page(), pf::U);
  load_user(SNIPPET(write));
  expect_page_fault(user_at_page(), pf::U | pf::W);
  load_user(SNIPPET(modify));
  expect_page_fault(user_at_page(), pf::U | pf::W);
  load_user(SNIPPET(jump));
  expect_page_fault(user_at_page(), pf::U | pf::I);
  load_kernel(SNIPPET(read));
  expect_page_fault(kernel_at_page(), 0);
}

TEST_P(PagingTest, UserAndSupervisorPages) {
  rig().map(kPage, 1, {false, true, true});
  load_user(SNIPPET(read));
  expect_page_fault(user_at_page(), pf::P | pf::U);
  load_user(SNIPPET(write));
  expect_page_fault(user_at_page(), pf::P | pf::U | pf::W);
  load_user(SNIPPET(jump));
  expect_page_fault(user_at_page(), pf::P | pf::U | pf::I);
}

TEST_P(PagingTest, ReadOnlyPagesAndWp) {
  rig().map(kPage, 1, {true, false, false});
  load_user(SNIPPET(write));
  expect_page_fault(user_at_page(), pf::P | pf::U | pf::W);
  load_kernel(SNIPPET(write));
  expect_page_fault(kernel_at_page(), pf::P | pf::W);
  cpu::CpuState state = kernel_at_page();
  state.cr0 &= ~x86::cr0::WP;
  expect_no_fault(state);
}

TEST_P(PagingTest, NoExecute) {
  const std::array<u8, 1> int3 = {0xCC};
  rig().write_host(rig().map(kPage, 1, {true, true, false}), int3);
  load_user(SNIPPET(jump));
  expect_page_fault(user_at_page(), pf::P | pf::U | pf::I);
}

TEST_P(PagingTest, WithoutNxeTheBitIsReserved) {
  rig().map(kPage, 1, {true, true, false});
  load_user(SNIPPET(read));
  cpu::CpuState state = user_at_page();
  // The stack page has XD set too, but nothing uses it here.
  state.efer &= ~x86::efer::NXE;
  expect_page_fault(state, pf::P | pf::U | pf::RSVD);
}

TEST_P(PagingTest, ReservedBits) {
  rig().map(kPage, 1, {true, true, true});
  *rig().page_entry(kPage) |= u64{1} << 51;
  load_user(SNIPPET(write));
  expect_page_fault(user_at_page(), pf::P | pf::U | pf::W | pf::RSVD);
}

TEST_P(PagingTest, SmepKeepsTheKernelFromUserCode) {
  const std::array<u8, 1> int3 = {0xCC};
  rig().write_host(rig().map(kPage, 1, {true, false, true}), int3);
  load_kernel(SNIPPET(jump));
  expect_no_fault(kernel_at_page());
  cpu::CpuState state = kernel_at_page();
  state.cr4 |= x86::cr4::SMEP;
  expect_page_fault(state, pf::P | pf::I);
}

TEST_P(PagingTest, SmapKeepsTheKernelFromUserDataUnlessAcIsSet) {
  rig().map(kPage, 1, {true, true, false});
  load_kernel(SNIPPET(write));
  cpu::CpuState state = kernel_at_page();
  state.cr4 |= x86::cr4::SMAP;
  expect_page_fault(state, pf::P | pf::W);
  state.rflags |= x86::rflags::AC;
  expect_no_fault(state);
}

TEST_P(PagingTest, AccessedAndDirtyBits) {
  rig().map(kPage, 1, {true, true, false});
  u64* entry = rig().page_entry(kPage);
  EXPECT_EQ(*entry & (pte::A | pte::D), 0U);
  load_user(SNIPPET(read));
  expect_no_fault(user_at_page());
  EXPECT_EQ(*entry & (pte::A | pte::D), pte::A);
  load_user(SNIPPET(modify));
  expect_no_fault(user_at_page());
  EXPECT_EQ(*entry & (pte::A | pte::D), pte::A | pte::D);
}

TEST_P(PagingTest, AWriteAcrossPagesThatFaultsWritesNothing) {
  u8* page = rig().map(kPage, 1, {true, true, false});
  load_user(SNIPPET(write));
  cpu::CpuState state = user_at_page();
  state.gpr[x86::kRsi] = kPage + kPageSize - 3;
  state.gpr[x86::kRax] = ~u64{0};
  expect_page_fault(state, pf::U | pf::W, kPage + kPageSize);
  for (u64 i = 1; i <= 3; ++i) EXPECT_EQ(page[kPageSize - i], 0);
}

TEST_P(PagingTest, NonCanonicalAddressesAreNoPageFaults) {
  load_user(SNIPPET(read));
  cpu::CpuState state = user_state();
  state.gpr[x86::kRsi] = 0x8000'0000'0000;
  expect_fault(state, x86::kGP, 0);
}

TEST_P(PagingTest, InvlpgAndCr3LoadsForgetTranslations) {
  for (const auto code : {SNIPPET(remap), SNIPPET(remap_cr3)}) {
    const Gpa first = rig().allocate_page();
    const Gpa second = rig().allocate_page();
    *rig().host(first) = 1;
    *rig().host(second) = 2;
    rig().map_page(kPage, first, {false, true, false});
    load_kernel(code);
    cpu::CpuState state = kernel_at_page();
    u64* entry = rig().page_entry(kPage);
    state.gpr[x86::kRdx] = (*entry & ~pte::kAddressMask) | second.value();
    // The table is reached through the direct map.
    state.gpr[x86::kRdi] =
        GuestRig::kDirectMap + static_cast<u64>(reinterpret_cast<u8*>(entry) - rig().host(Gpa(0)));
    const cpu::CpuState& end = run(state);
    EXPECT_EQ(end.gpr[x86::kRax], 1U);
    EXPECT_EQ(end.gpr[x86::kRbx], 2U);
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, PagingTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

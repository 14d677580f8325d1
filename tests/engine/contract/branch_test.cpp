// Branches that lead to where no code can be.
#include "engine/contract/engine_test.hpp"

namespace vert::test {
namespace {

class BranchTest : public EngineTest {};

// SDM 2A, JMP, CALL and Jcc: #GP(0) if the target is not canonical, before anything changes.
TEST_P(BranchTest, DirectOnesToNonCanonicalAddressesFaultThemselves) {
  const auto below_the_upper_half = static_cast<u32>(-0x20'0000);
  const std::vector<std::vector<u8>> branches = {{0xE9}, {0xE8}, {0x0F, 0x84}};  // jmp, call, jz
  for (const std::vector<u8>& opcode : branches) {
    make_rig();
    Assembler a(code());
    a.bytes({0x31, 0xC0}).label("branch");  // xor eax, eax
    for (const u8 byte : opcode) a.bytes({byte});
    a.value(below_the_upper_half);
    start(a);
    EXPECT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
    const auto caught = rig().caught();
    ASSERT_TRUE(caught.has_value());
    EXPECT_EQ(caught->vector, x86::kGP);
    EXPECT_EQ(caught->error_code, 0U);
    EXPECT_EQ(caught->rip, a.address("branch"));
    EXPECT_EQ(caught->rsp, GuestRig::kernel_stack_top() - 0x1000);
  }
}

// A state may say so where SYSRET leaves such a RIP (APM 3, SYSRET): the fetch faults.
TEST_P(BranchTest, StatesAtNonCanonicalAddressesFaultWhenTheyRun) {
  for (const u64 rip : {u64{1} << 47, ~u64{0} << 63, u64{0xFFFF'7FFF'FFFF'FFFF}}) {
    make_rig();
    Assembler a(code());
    start(a.hlt());
    rig().state(0).rip = rip;
    EXPECT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
    const auto caught = rig().caught();
    ASSERT_TRUE(caught.has_value());
    EXPECT_EQ(caught->vector, x86::kGP);
    EXPECT_EQ(caught->rip, rip);
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, BranchTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

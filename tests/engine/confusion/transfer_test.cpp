// IRETQ to user code of several address spaces: each gets to its own, also where code of another space and
// mode lies just where the sum of address and mode is the same.
#include <algorithm>
#include <array>

#include "engine/confusion/confusion_test.hpp"

namespace vert::test {
namespace {

using namespace x86;

using TransferTest = ConfusionTest;

/// Eight address spaces run code at kCode. The ninth has nothing there, and no windows, since its top-level
/// entry is not the user's at first.
TEST_P(TransferTest, ReachesTheAddressOfItsOwnAddressSpace) {
  constexpr u64 kPcide = x86::cr4::PCIDE;
  constexpr u64 kOther = kCode + kPageSize;
  for (u64 distance = 0; distance < 64; distance += 8) {
    make_rig();
    const u64 target = kOther + distance;
    Assembler user(kCode);
    user.bytes({0xCD, kSystemCall}).nop(8);
    while (user.here() < target) user.bytes({0x90});
    user.bytes({0xCC});
    map_user(user);
    Assembler kernel(GuestRig::direct(kKernel));
    const auto load_cr3 = [&](Gpa root, u64 pcid) {
      kernel.load(kRax, root.value() | pcid).bytes({0x0F, 0x22, 0xD8});
    };
    constexpr u64 kSpaces = 8;
    for (u64 pcid = 1; pcid < kSpaces; ++pcid) load_cr3(address_space(std::array{kCode, kStack}), pcid);
    return_to_user(kernel, kCode);
    kernel.label("ninth");
    const Gpa root = address_space(std::array{kOther, kStack});
    u64 entry = 0;
    std::memcpy(&entry, rig().host(root, sizeof entry), sizeof entry);
    set(root, 0, entry & ~pte::US);
    load_cr3(root, kSpaces);
    kernel.load(kRax, GuestRig::direct(root)).bytes({0x48, 0x83, 0x08, pte::US});  // or qword [rax], US
    return_to_user(kernel, target);
    rig().write(kKernel, kernel.finish());
    rig().set_gate(kSystemCall, kernel.address("ninth"), 3);
    cpu::CpuState start =
        rig().initial_state(GuestRig::direct(kKernel), GuestRig::kernel_stack_top() - kPageSize, 0);
    start.cr4 |= kPcide;
    rig().set_state(start);
    (void)rig().run(cpu::kNoBudget);
    const auto caught = rig().caught();
    ASSERT_TRUE(caught);
    EXPECT_EQ(caught->vector, kBP);
    EXPECT_EQ(caught->rip, target + 1) << "distance " << distance;
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, TransferTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

// Returns to addresses that the guest made up: they go where the architecture says, never into code that was
// made for another mode or another address space.
#include <array>
#include <initializer_list>

#include <immintrin.h>

#include "engine/confusion/confusion_test.hpp"

namespace vert::test {
namespace {

using namespace x86;

class ForgedReturn : public ConfusionTest {
 protected:
  /// 64-bit code that is returned to twice, so that it is translated and linked; then the function that it
  /// calls goes to 32-bit code, which returns to `distance` below the landing. There `landing` runs, with
  /// kData in RDI and the number of the call, from 1, in EBP.
  void run(std::initializer_list<u8> landing, u32 distance) {
    make_rig();
    Assembler a(kCode);
    a.bytes({0xB8}).value(u32{kUserDs}).bytes({0x8E, 0xD8, 0x8E, 0xC0});  // mov eax, DS; mov ds and es, eax
    a.load(kRdi, kData).bytes({0x31, 0xED});                              // xor ebp, ebp
    a.label("again").bytes({0x8B, 0x07, 0x89, 0x07});                     // mov eax, [rdi]; mov [rdi], eax
    a.bytes({0x83, 0xC5, 0x01}).branch({0xE8}, "function");               // add ebp, 1
    a.label("landing").bytes(landing);
    a.bytes({0x83, 0xFD, 0x03}).branch({0x0F, 0x82}, "again").bytes({0xCC});  // cmp ebp, 3; jb
    a.label("function").bytes({0x83, 0xFD, 0x03}).branch({0x0F, 0x84}, "forge").bytes({0xC3});
    a.label("forge").bytes({0x6A, kUserCs32, 0x68});  // push CS and the address of what follows; retfq
    a.value(static_cast<u32>(a.here() + sizeof(u32) + 2)).bytes({0x48, 0xCB});
    forged_ = static_cast<u32>(a.address("landing")) - distance;
    a.bytes({0xB8}).value(forged_).bytes({0x89, 0x04, 0x24, 0xC3});  // mov eax, forged; mov [esp], eax; ret
    start_user(a);
    (void)rig().run(cpu::kNoBudget);
  }

  u32 forged_ = 0;
};

TEST_P(ForgedReturn, From32BitCodeFaultsAtItsAddress) {
  constexpr u32 kStep = 0x1000'0000;
  for (unsigned steps = 1; steps < 7; ++steps) {
    run({0x0F, 0x11, 0x07}, steps * kStep);  // movups [rdi], xmm0
    const auto caught = rig().caught();
    ASSERT_TRUE(caught);
    EXPECT_EQ(caught->vector, kPF) << "distance " << steps;
    EXPECT_EQ(caught->rip, forged_);
    EXPECT_EQ(caught->cs, kUserCs32);
  }
}

TEST_P(ForgedReturn, From32BitCodeToTheLandingItselfRunsThatAs32BitCode) {
  run({0x48, 0xCC}, 0);  // 64-bit: int3; 32-bit: dec eax; int3
  const auto caught = rig().caught();
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->vector, kBP);
}

TEST_P(ForgedReturn, LeavesTheHostsFloatingPointControlsAlone) {
  const u32 before = _mm_getcsr() & _MM_MASK_MASK;
  // cmp ebp, 3; jne; fldcw [rdi]; ldmxcsr [rdi]: both 0
  run({0x83, 0xFD, 0x03, 0x75, 0x05, 0xD9, 0x2F, 0x0F, 0xAE, 0x17}, 0x5000'0000);
  u16 control = 0;
  asm volatile("fnstcw %0" : "=m"(control));
  const u32 after = _mm_getcsr() & _MM_MASK_MASK;
  _mm_setcsr(0x1F80);
  asm volatile("fninit");
  EXPECT_EQ(after, before);
  EXPECT_EQ(control, 0x37F);
}

/// The other address space has nothing at the call's page. Its code returns to the call all the same, but for
/// the address's upper half.
TEST_P(ForgedReturn, IntoAnotherAddressSpaceFaultsAtItsAddress) {
  constexpr u64 kOther = kCode + kPageSize;
  for (unsigned upper = 1; upper < 12; ++upper) {
    make_rig();
    Assembler caller(kCode);
    caller.bytes({0x50, 0x58});  // push rax; pop rax: the first access, which the interpreter does
    caller.branch({0xE8}, "function").label("landing").bytes({0xCC});
    caller.label("function").bytes({0xCD, kSystemCall});
    const u64 forged = caller.address("landing") + (u64{upper} << 32);
    while (caller.here() < kOther) caller.bytes({0xCC});
    caller.load(kRax, forged).bytes({0x48, 0x89, 0x04, 0x24, 0xC3});  // mov [rsp], rax; ret
    start_user(caller);
    Assembler kernel(GuestRig::direct(kKernel));
    const Gpa root = address_space(std::array{kOther, kStack});
    kernel.load(kRax, root.value()).bytes({0x0F, 0x22, 0xD8});  // mov cr3, rax
    return_to_user(kernel, kOther);
    rig().write(kKernel, kernel.finish());
    rig().set_gate(kSystemCall, GuestRig::direct(kKernel), 3);
    (void)rig().run(cpu::kNoBudget);
    const auto caught = rig().caught();
    ASSERT_TRUE(caught);
    EXPECT_EQ(caught->vector, kPF) << "upper half " << upper;
    EXPECT_EQ(caught->rip, forged);
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, ForgedReturn, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

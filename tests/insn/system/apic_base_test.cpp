// IA32_APIC_BASE and what CPUID says of it.
#include "insn/system/system_test.hpp"
#include "support/assembler.hpp"

namespace vert::test {
namespace {

constexpr u64 kBase = 0xFEE0'0000 | x86::apic_base::BSP;
constexpr u32 kApicBase = 0x1B;
constexpr u32 kCpuidApic = 1U << 9;  // CPUID.1:EDX

class ApicBaseTest : public testing::TestWithParam<std::string> {
 protected:
  static constexpr Gpa kCode{0x18'0000};

  /// Writes the MSR, then executes CPUID with leaf 1.
  static void write_base(GuestRig& rig, u64 value) {
    Assembler a(GuestRig::direct(kCode));
    a.bytes({0x0F, 0x30, 0xB8, 0x01, 0x00, 0x00, 0x00, 0x0F, 0xA2}).hlt();  // wrmsr; mov eax, 1; cpuid
    rig.write(kCode, a.finish());
    cpu::CpuState state =
        rig.initial_state(GuestRig::direct(kCode), GuestRig::kernel_stack_top() - 0x1000, 0);
    state.gpr[x86::kRcx] = kApicBase;
    state.gpr[x86::kRax] = value & 0xFFFF'FFFF;
    state.gpr[x86::kRdx] = value >> 32;
    rig.set_state(state);
    ASSERT_EQ(rig.run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
  }
};

/// SDM 3A, 10.4.3.
TEST_P(ApicBaseTest, CpuidShowsNoApicWhileItIsDisabled) {
  GuestRig rig(GetParam());
  write_base(rig, kBase);
  EXPECT_EQ(rig.state().gpr[x86::kRdx] & kCpuidApic, 0U);
  write_base(rig, kBase | x86::apic_base::EN);
  EXPECT_NE(rig.state().gpr[x86::kRdx] & kCpuidApic, 0U);
}

TEST_P(ApicBaseTest, X2ApicModeNeedsTheFeature) {
  constexpr u64 kX2apic = kBase | x86::apic_base::EN | x86::apic_base::EXTD;
  GuestRig without(GetParam(), 1, GuestRig::kRamSize, "host,-X2APIC");
  write_base(without, kX2apic);
  ASSERT_TRUE(without.caught().has_value()) << "accepted";
  EXPECT_EQ(without.caught()->vector, x86::kGP);
  GuestRig with(GetParam());
  write_base(with, kX2apic);
  EXPECT_FALSE(with.caught().has_value());
}

INSTANTIATE_TEST_SUITE_P(Engines, ApicBaseTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

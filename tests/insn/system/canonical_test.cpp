// Which loads of linear addresses follow CR4.LA57, and which the width that the processor supports.
#include "insn/system/system_test.hpp"
#include "support/assembler.hpp"

namespace vert::test {
namespace {

constexpr u64 kWide = u64{1} << 50;     // canonical in 57 bits, not in 48
constexpr u64 kNowhere = u64{1} << 60;  // in neither

/// Registers that an instruction finds its operands in.
struct Load {
  const char* name;
  std::vector<u8> code;
  bool in_memory = false;  // the address is in the operand at RBX, not in a register
  u32 msr = 0;
};

std::vector<Load> loads() {
  std::vector<Load> all = {
      {"wrfsbase rax", {0xF3, 0x48, 0x0F, 0xAE, 0xD0}},
      {"wrgsbase rax", {0xF3, 0x48, 0x0F, 0xAE, 0xD8}},
      {"lgdt [rbx + 6]", {0x0F, 0x01, 0x53, 0x06}, true},
      {"lidt [rbx + 6]", {0x0F, 0x01, 0x5B, 0x06}, true},
      {"invpcid rcx, [rbx]", {0x66, 0x0F, 0x38, 0x82, 0x0B}, true},
      {"lldt dx", {0x0F, 0x00, 0xD2}},
      {"ltr dx", {0x0F, 0x00, 0xDA}},
  };
  for (const u32 msr : {0x175U, 0x176U, 0xC000'0082U, 0xC000'0083U, 0xC000'0100U, 0xC000'0101U, 0xC000'0102U})
    all.push_back({"wrmsr", {0x0F, 0x30}, false, msr});
  return all;
}

class CanonicalTest : public testing::TestWithParam<std::string> {
 protected:
  static constexpr Gpa kCode{0x18'0000};
  static constexpr Gpa kOperand{0x19'0000};
  static constexpr u16 kSelector = 0x60;

  /// Loads `address` in kernel code with 4-level paging; the vector of the fault, or none.
  static std::optional<u8> load(GuestRig& rig, const Load& load, u64 address) {
    std::vector<u8> code = load.code;
    code.push_back(0xF4);  // hlt
    rig.write(kCode, code);
    const std::array<u64, 2> operand = {0, address};  // of LGDT and LIDT: the limit is 0
    rig.write(kOperand, {reinterpret_cast<const u8*>(operand.data()), sizeof operand});
    const bool task = load.code.back() == 0xDA;
    rig.set_gdt_entry(kSelector, u64{0x80} << 40 | u64{task ? 0x9U : 0x2U} << 40 |
                                     (address & 0xFF'FFFF) << 16 | (address >> 24 & 0xFF) << 56 | 0x67);
    rig.set_gdt_entry(kSelector + 8, address >> 32);
    cpu::CpuState state =
        rig.initial_state(GuestRig::direct(kCode), GuestRig::kernel_stack_top() - 0x1000, 0);
    state.gpr[x86::kRbx] = GuestRig::direct(kOperand);
    state.gpr[x86::kRcx] = load.msr;
    state.gpr[x86::kRax] = address;
    state.gpr[x86::kRdx] = load.msr != 0 ? address >> 32 : kSelector;
    rig.set_state(state);
    EXPECT_EQ(rig.run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
    const auto caught = rig.caught();
    return caught ? std::optional(caught->vector) : std::nullopt;
  }
};

TEST_P(CanonicalTest, BasesAndMsrsFollowTheSupportedWidth) {
  GuestRig narrow(GetParam(), 1, GuestRig::kRamSize, "host,-LA57");
  GuestRig wide(GetParam(), 1, GuestRig::kRamSize, "host,+LA57");
  for (const Load& each : loads()) {
    SCOPED_TRACE(fmt::format("{} {:x}", each.name, each.msr));
    EXPECT_EQ(load(narrow, each, kWide), x86::kGP);
    EXPECT_EQ(load(wide, each, kNowhere), x86::kGP);
    EXPECT_EQ(load(wide, each, kWide), std::nullopt) << "CR4.LA57 is clear, but the width is supported";
  }
}

TEST_P(CanonicalTest, RipAndAccessesFollowCr4) {
  GuestRig wide(GetParam(), 1, GuestRig::kRamSize, "host,+LA57");
  const Load sysret{"sysretq", {0x48, 0x0F, 0x07}};
  const Load jump{"jmp rax", {0xFF, 0xE0}};
  const Load access{"mov rax, [rax]", {0x48, 0x8B, 0x00}};
  for (const Load& each : {jump, access}) {
    SCOPED_TRACE(each.name);
    EXPECT_EQ(load(wide, each, kWide), x86::kGP);
  }
  cpu::CpuState state = wide.initial_state(GuestRig::direct(kCode), GuestRig::kernel_stack_top() - 0x1000, 0);
  wide.write(kCode, sysret.code);
  state.gpr[x86::kRcx] = kWide;
  wide.set_state(state);
  EXPECT_EQ(wide.run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
  ASSERT_TRUE(wide.caught().has_value());
  EXPECT_EQ(wide.caught()->vector, x86::kGP);
  // On AMD's processors the fetch faults, behind the change of privilege (APM 3, SYSRET).
  constexpr u64 kCsOfStarZero = 16 | 3;
  EXPECT_EQ(wide.caught()->cs, wide.model().vendor() == x86::Vendor::kAmd ? kCsOfStarZero : kKernelCs);
}

INSTANTIATE_TEST_SUITE_P(Engines, CanonicalTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

// All of RFLAGS through the changes of privilege that an engine may do by itself.
#include "engine/contract/engine_test.hpp"

namespace vert::test {
namespace {

namespace rflags = x86::rflags;

class FlagsTest : public EngineTest {
 protected:
  static constexpr u64 kUserCode = 0x40'0000;
  static constexpr u64 kUserStack = 0x50'0000;
  static constexpr u64 kMask = rflags::IF | rflags::AC | rflags::IOPL | rflags::ZF;  // IA32_FMASK
  /// What SYSRET and IRETQ load at CPL 0, of what a test may set without ending up in a trap.
  static constexpr u64 kLoaded = rflags::kDefined & ~(rflags::RF | rflags::VM | rflags::TF);
  static constexpr unsigned kBits = 22;

  /// Kernel code that goes to CPL 3 by `way`, where `user` runs; SYSCALL leads to a HLT.
  void load(const std::string& way, std::initializer_list<u8> user) {
    make_rig();
    rig().write_host(rig().map(kUserCode, 1, {true, false, true}), std::vector<u8>(user));
    rig().map(kUserStack, 1, {true, true, false});
    Assembler a(code());
    if (way == "sysret") a.bytes({0x48, 0x0F, 0x07});
    if (way == "iret") a.bytes({0x48, 0xCF});
    a.label("entry").hlt();
    rig().write(kCode, a.finish());
    entry_ = a.address("entry");
  }
  /// Goes there with these flags, and runs to the HLT.
  void go(u64 flags) {
    cpu::CpuState state = rig().initial_state(code(), GuestRig::kernel_stack_top() - 0x1000, 0);
    state.msr.star = u64{kKernelCs} << 32 | u64{kUserCs32} << 48;
    state.msr.lstar = entry_;
    state.msr.fmask = kMask;
    state.gpr[x86::kRcx] = kUserCode;
    state.gpr[x86::kR11] = flags;
    state.gpr[x86::kRbx] = kUserStack;
    const std::array<u64, 5> frame = {kUserCode, kUserCs, flags, kUserStack + 0x800, kUserDs};
    rig().write(Gpa(state.gpr[x86::kRsp] - GuestRig::kDirectMap),
                {reinterpret_cast<const u8*>(frame.data()), sizeof frame});
    rig().set_state(state);
    ASSERT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
  }
  void expect_each_flag_there_and_back(const std::string& way) {
    load(way, {0x0F, 0x05});  // syscall
    for (unsigned round = 0; round < 2; ++round) {
      for (unsigned bit = 0; bit < kBits; ++bit) {
        const u64 flag = u64{1} << bit;
        if (flag == rflags::TF || flag == rflags::VM) continue;
        go(flag | rflags::kFixed1);
        const u64 expected = (flag & kLoaded) | rflags::kFixed1;
        EXPECT_EQ(reg(x86::kR11), expected) << "at CPL 3, bit " << bit;
        EXPECT_EQ(rig().state().rflags, expected & ~kMask) << "in the kernel, bit " << bit;
      }
    }
  }
  void expect_alignment_checks(const std::string& way) {
    load(way, {0x8B, 0x43, 0x01, 0x0F, 0x05});  // mov eax, [rbx + 1]; syscall
    for (unsigned round = 0; round < 2; ++round) {
      go(rflags::kFixed1);
      EXPECT_FALSE(rig().caught().has_value());
      go(rflags::kFixed1 | rflags::AC);
      ASSERT_TRUE(rig().caught().has_value()) << "no fault";
      EXPECT_EQ(rig().caught()->vector, x86::kAC);
      EXPECT_EQ(rig().caught()->rip, kUserCode);
    }
  }

 private:
  u64 entry_ = 0;
};

TEST_P(FlagsTest, SysretAndSyscallCarryEachFlag) { expect_each_flag_there_and_back("sysret"); }
TEST_P(FlagsTest, IretCarriesEachFlag) { expect_each_flag_there_and_back("iret"); }
TEST_P(FlagsTest, AlignmentIsCheckedAfterSysretSetsAc) { expect_alignment_checks("sysret"); }
TEST_P(FlagsTest, AlignmentIsCheckedAfterIretSetsAc) { expect_alignment_checks("iret"); }

INSTANTIATE_TEST_SUITE_P(Engines, FlagsTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

// SYSCALL, SYSRET and IRETQ against the interpreter: the same state, or untouched.
#include <gtest/gtest.h>
#include <array>
#include <memory>
#include <random>
#include <span>

#include "engine/bt/leaf.hpp"
#include "engine/bt/tlb.hpp"
#include "support/guest_rig.hpp"
#include "x86/paging.hpp"
#include "x86/registers.hpp"

namespace vert::test {
namespace {

using cpu::CpuState;
using cpu::Privilege;
using x86::kR11;
using x86::kRcx;
using x86::kRsp;
namespace rflags = x86::rflags;

constexpr u64 kCode = 0x40'0000;  // the instruction under test
constexpr u64 kTarget = 0x7FFF'F7F0'1000;
constexpr u64 kEntry = 0xFFFF'FFFF'8100'0000;
constexpr u64 kApart = rflags::kArithmetic | rflags::IF | rflags::DF;

class LeafPrivilegeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    code_ = rig.map(kCode, 1, {.user = true, .write = false, .execute = true});
    bt::init(*context, rig.context());
    // A and D, where the stack and the GDT lie, are set as by a guest that runs for a while.
    cpu::Mmu mmu(rig.context());
    CpuState state = kernel_state();
    mmu.attach(state);
    ASSERT_TRUE(mmu.write<u64>(Gla(stack()), 0));
    u64 descriptor = 0;
    ASSERT_TRUE(mmu.read(Gla(GuestRig::gdt_base()), descriptor));
  }

  [[nodiscard]] static u64 stack() { return GuestRig::kernel_stack_top() - 0x200; }
  [[nodiscard]] CpuState kernel_state() const { return with_msrs(rig.initial_state(kCode, stack(), 0)); }
  [[nodiscard]] CpuState user_state() const { return with_msrs(rig.initial_state(kCode, 0x7000, 3)); }
  [[nodiscard]] static CpuState with_msrs(const CpuState& initial) {
    CpuState state = initial;
    state.msr.star = u64{kKernelCs} << 32 | u64{kUserCs32} << 48;
    state.msr.lstar = kEntry;
    state.msr.fmask = 0x47700;
    for (unsigned i = 0; i < x86::kGprCount; ++i)
      if (i != kRsp) state.gpr[i] = 0x1000'0000 + i;
    return state;
  }
  void push_frame(u64 rip, u64 cs, u64 flags, u64 rsp, u64 ss) {
    const std::array<u64, 5> frame = {rip, cs, flags, rsp, ss};
    rig.write(Gpa(stack() - GuestRig::kDirectMap), {reinterpret_cast<const u8*>(frame.data()), sizeof frame});
  }

  /// Runs `leaf` in `before` and the instruction in the interpreter. True if the leaf did it.
  template <typename Leaf>
  [[nodiscard]] bool check(const CpuState& before, std::initializer_list<u8> instruction, Leaf leaf) {
    CpuState state = before;
    context->state = &state;
    context->gpr = before.gpr;
    context->rip = before.rip;
    context->rflags_rest = before.rflags & ~kApart;
    context->rflags_arithmetic = before.rflags & rflags::kArithmetic;
    context->interrupt_flag = (before.rflags & rflags::IF) != 0;
    context->direction_flag = (before.rflags & rflags::DF) != 0;
    bt::flush_all(*context);
    const bool done = leaf();

    // RFLAGS, put together again; what it left in CpuState by itself counts only if it did something.
    const u64 flags = context->rflags_rest | context->rflags_arithmetic |
                      (context->interrupt_flag != 0 ? rflags::IF : 0) |
                      (context->direction_flag != 0 ? rflags::DF : 0);
    EXPECT_EQ(flags, state.rflags);
    state.gpr = context->gpr;
    state.rip = context->rip;
    if (!done) {
      EXPECT_EQ(state, before);
      return false;
    }
    rig.write_host(code_, std::span(instruction.begin(), instruction.size()));
    rig.set_state(before);
    EXPECT_EQ(rig.run(1).instructions, 1U);
    CpuState expected = rig.state();
    expected.rflags &= ~rflags::RF;
    EXPECT_EQ(state.gpr, expected.gpr);
    EXPECT_EQ(state.rip, expected.rip);
    EXPECT_EQ(state.rflags, expected.rflags);
    EXPECT_EQ(state.segment, expected.segment);
    EXPECT_EQ(state, expected);
    return true;
  }
  [[nodiscard]] bool syscall(const CpuState& before) {
    return check(before, {0x0F, 0x05}, [&] { return bt::leaf_syscall(context.get(), before.rip + 2); });
  }
  [[nodiscard]] bool sysret(const CpuState& before) {
    return check(before, {0x48, 0x0F, 0x07}, [&] { return bt::leaf_sysret(context.get()); });
  }
  [[nodiscard]] bool iretq(const CpuState& before) {
    const auto privilege = (before.cr4 & x86::cr4::SMAP) != 0 && (before.rflags & rflags::AC) == 0
                               ? Privilege::kSmap
                               : Privilege::kSupervisor;
    return check(before, {0x48, 0xCF},
                 [&] { return bt::leaf_iretq(context.get(), static_cast<u32>(privilege)); });
  }

  GuestRig rig{"interp"};
  std::unique_ptr<bt::Context> context = std::make_unique<bt::Context>();
  std::mt19937_64 random{3};

 private:
  u8* code_ = nullptr;
};

TEST_F(LeafPrivilegeTest, Syscall) {
  for (int i = 0; i < 200; ++i) {
    CpuState state = user_state();
    state.rflags |= random() & (kApart | rflags::AC | rflags::ID | rflags::IOPL | rflags::NT);
    state.msr.fmask = random() & 0xFFFF'FFFF;
    EXPECT_TRUE(syscall(state));
  }
}

TEST_F(LeafPrivilegeTest, SyscallLeavesTheUnusualAlone) {
  CpuState state = kernel_state();
  EXPECT_FALSE(syscall(state));
  state = user_state();
  state.efer &= ~x86::efer::SCE;
  EXPECT_FALSE(syscall(state));
  state = user_state();
  state.rflags |= rflags::TF;
  EXPECT_FALSE(syscall(state));
  state = user_state();
  state.seg(x86::kCs).attributes ^= x86::Segment::kL | x86::Segment::kDb;
  EXPECT_FALSE(syscall(state));
}

TEST_F(LeafPrivilegeTest, Sysret) {
  for (int i = 0; i < 200; ++i) {
    CpuState state = kernel_state();
    state.rflags |= random() & (kApart | rflags::AC);
    state.gpr[kRcx] = kTarget + i;
    state.gpr[kR11] = random() & ~rflags::TF;
    EXPECT_TRUE(sysret(state));
  }
  CpuState state = kernel_state();
  state.gpr[kRcx] = u64{1} << 47;
  EXPECT_FALSE(sysret(state));
  state.gpr[kRcx] = kTarget;
  state.gpr[kR11] = rflags::TF;
  EXPECT_FALSE(sysret(state));
  EXPECT_FALSE(sysret(user_state()));
}

TEST_F(LeafPrivilegeTest, IretqToUser) {
  push_frame(kTarget, kUserCs, rflags::kFixed1 | rflags::IF | rflags::ZF, 0x7FFF'FFFF'0000, kUserDs);
  EXPECT_TRUE(iretq(kernel_state()));
  push_frame(kTarget, kUserCs, ~(rflags::TF | rflags::VM), u64{1} << 63, kUserDs);  // RF, too
  EXPECT_TRUE(iretq(kernel_state()));
  CpuState state = kernel_state();  // as an interrupt from CPL 3 leaves it
  state.seg(x86::kSs) = {0, 0, 0, 0, true};
  EXPECT_TRUE(iretq(state));
  state.seg(x86::kDs) = state.seg(x86::kFs) = x86::Descriptor{0x00CF'F300'0000'FFFF}.to_segment(kUserDs);
  EXPECT_TRUE(iretq(state));
  state.seg(x86::kGs) = x86::Descriptor{0x00CF'9300'0000'FFFF}.to_segment(kKernelDs);
  EXPECT_FALSE(iretq(state));  // becomes null
}

TEST_F(LeafPrivilegeTest, IretqWithinTheKernel) {
  CpuState state = kernel_state();
  state.cr4 |= x86::cr4::SMAP;
  for (const u64 ss : {u64{kKernelDs}, u64{0}}) {
    push_frame(kEntry, kKernelCs, rflags::kFixed1 | rflags::AC | rflags::DF, stack() - 64, ss);
    EXPECT_TRUE(iretq(state));
  }
}

TEST_F(LeafPrivilegeTest, IretqLeavesTheUnusualAlone) {
  const auto user_frame = [this](u64 flags) {
    push_frame(kTarget, kUserCs, rflags::kFixed1 | flags, 0x7000, kUserDs);
  };
  user_frame(rflags::TF);
  EXPECT_FALSE(iretq(kernel_state()));
  user_frame(rflags::RF);
  CpuState state = kernel_state();
  state.dr7 |= 1;
  EXPECT_FALSE(iretq(state));
  user_frame(0);
  for (const u64 flag : {rflags::NT, rflags::TF}) {
    state = kernel_state();
    state.rflags |= flag;
    EXPECT_FALSE(iretq(state));
  }
  state = kernel_state();
  state.nmi_blocked = true;
  EXPECT_FALSE(iretq(state));
  state = kernel_state();
  state.gpr[kRsp] = 0x1000;  // not mapped
  EXPECT_FALSE(iretq(state));
  EXPECT_FALSE(iretq(user_state()));
  push_frame(u64{1} << 47, kUserCs, rflags::kFixed1, 0x7000, kUserDs);
  EXPECT_FALSE(iretq(kernel_state()));
}

TEST_F(LeafPrivilegeTest, IretqTakesOnlyDescriptorsThatFit) {
  unsigned done = 0;
  constexpr std::array<u16, 11> kSelectors = {
      0, 3, kKernelCs, kKernelDs, kUserCs32, kUserDs, kUserCs, kUserCs - 1, 0x7B, kTssSelector, 0x37};
  for (const u16 cs : kSelectors) {
    for (const u16 ss : kSelectors) {
      push_frame(kTarget, cs, rflags::kFixed1 | rflags::IF, 0x7000, ss);
      done += iretq(kernel_state()) ? 1 : 0;
    }
  }
  EXPECT_EQ(done, 4U);  // kernel with null (0, 3) or kernel SS, user with user SS
  // A descriptor without the accessed bit, of another level, not present, or with D set.
  for (const u64 raw : {0x00AF'FA00'0000'FFFF, 0x00AF'9B00'0000'FFFF, 0x00AF'7B00'0000'FFFF,
                        0x00EF'FB00'0000'FFFF, 0x00AF'FF00'0000'FFFF}) {
    rig.set_gdt_entry(kUserCs, static_cast<u64>(raw));
    push_frame(kTarget, kUserCs, rflags::kFixed1, 0x7000, kUserDs);
    EXPECT_FALSE(iretq(kernel_state())) << std::hex << raw;
  }
}

}  // namespace
}  // namespace vert::test

// REP MOVS and STOS, and single string instructions, over the soft TLB, against element-by-element copies.
#include <array>
#include <random>

#include "tlb_rig.hpp"
#include "x86/registers.hpp"

namespace vert::test {
namespace {

namespace pte = x86::pte;
using cpu::Privilege;
using x86::kRax;
using x86::kRcx;
using x86::kRdi;
using x86::kRsi;

constexpr u64 kOpen = kPteOpen | pte::A | pte::D;
constexpr u64 kBase = 0x40'0000;
constexpr unsigned kPages = 64;
constexpr u32 kUser = static_cast<u32>(Privilege::kUser);

class LeafStringTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (unsigned i = 0; i < kPages; ++i) rig.paging.map(kBase + i * kPageSize, frame(i), kOpen);
    for (u64 i = 0; i < kPages * kPageSize; ++i) byte(kBase + i) = static_cast<u8>(random());
  }
  /// Neighbours in linear memory are not neighbours in RAM.
  [[nodiscard]] static u64 frame(u64 page) {
    return (PagingRig::kPage & ~kPageOffsetMask) + (page * 37 % kPages) * kPageSize;
  }
  [[nodiscard]] u8& byte(u64 linear) {
    return *rig.paging.memory->host(Gpa(frame((linear - kBase) >> kPageShift) + (linear & kPageOffsetMask)),
                                    1);
  }
  [[nodiscard]] std::vector<u8> all() {
    std::vector<u8> bytes;
    for (u64 i = 0; i < kPages * kPageSize; ++i) bytes.push_back(byte(kBase + i));
    return bytes;
  }
  void set(u64 rsi, u64 rdi, u64 rcx) {
    rig.context->gpr[kRsi] = rsi;
    rig.context->gpr[kRdi] = rdi;
    rig.context->gpr[kRcx] = rcx;
  }

  TlbRig rig{Mode::k4Level};
  std::mt19937_64 random{11};
};

/// `count` elements one after the other, each seeing those before it.
void move_elements(std::vector<u8>& bytes, u64 from, u64 to, u64 count, u64 size) {
  for (u64 i = 0; i < count; ++i) {
    std::array<u8, 8> element;
    for (u64 k = 0; k < size; ++k) element[k] = bytes[from + i * size + k];
    for (u64 k = 0; k < size; ++k) bytes[to + i * size + k] = element[k];
  }
}

TEST_F(LeafStringTest, MovsEqualsElementSteps) {
  for (int round = 0; round < 120; ++round) {
    const u32 size = 1U << (random() % 4);
    const u64 from = random() % (8 * kPageSize);
    const bool near = random() % 2 == 0;
    const u64 to = near ? from + random() % 40 : random() % (8 * kPageSize);
    const u64 count = random() % (2 * kPageSize) / size;
    auto expected = all();
    set(kBase + from, kBase + to, count);
    u64 left = count;
    // The elements across pages are the interpreter's: done here by hand.
    for (int guard = 0; left != 0; ++guard) {
      ASSERT_LT(guard, 1000);
      const u64 before = left;
      left = bt::leaf_rep_movs(rig.context.get(), size, kUser);
      ASSERT_EQ(left, rig.context->gpr[kRcx]);
      const u64 rsi = rig.context->gpr[kRsi];
      const u64 rdi = rig.context->gpr[kRdi];
      ASSERT_EQ(rsi, kBase + from + (count - left) * size);
      ASSERT_EQ(rdi, kBase + to + (count - left) * size);
      move_elements(expected, from + (count - before) * size, to + (count - before) * size, before - left,
                    size);
      if (left == 0) break;
      const auto crosses = [size](u64 address) { return (address & kPageOffsetMask) > kPageSize - size; };
      ASSERT_TRUE(crosses(rsi) || crosses(rdi));
      std::array<u8, 8> element;
      for (u64 k = 0; k < size; ++k) element[k] = byte(rsi + k);
      for (u64 k = 0; k < size; ++k) byte(rdi + k) = element[k];
      move_elements(expected, rsi - kBase, rdi - kBase, 1, size);
      set(rsi + size, rdi + size, --left);
    }
    ASSERT_EQ(all(), expected) << "size " << size << " from " << from << " to " << to << " count " << count;
  }
}

TEST_F(LeafStringTest, StosFillsWithTheLowPartOfRax) {
  rig.context->gpr[kRax] = 0x8877'6655'4433'2211;
  for (const u32 size : {1U, 2U, 4U, 8U}) {
    auto expected = all();
    const u64 at = kPageSize - 32;
    for (u64 i = 0; i < 100; ++i)
      for (u64 k = 0; k < size; ++k) expected[at + i * size + k] = static_cast<u8>((k + 1) * 0x11);
    set(0, kBase + at, 100);
    EXPECT_EQ(bt::leaf_rep_stos(rig.context.get(), size, kUser), 0U);
    EXPECT_EQ(rig.context->gpr[kRdi], kBase + at + 100 * size);
    EXPECT_EQ(all(), expected);
  }
}

TEST_F(LeafStringTest, OneCallIsBounded) {
  set(kBase, kBase + kPageSize, 40 * kPageSize);
  EXPECT_EQ(bt::leaf_rep_stos(rig.context.get(), 1, kUser), 24 * kPageSize);
  EXPECT_EQ(bt::leaf_rep_movs(rig.context.get(), 1, kUser), 8 * kPageSize);
}

TEST_F(LeafStringTest, OneThatStopsBetweenIterationsSetsRf) {
  const u64& flags = rig.context->rflags_rest;
  set(0, kBase, 100);
  EXPECT_EQ(bt::leaf_rep_stos(rig.context.get(), 1, kUser), 0U);
  EXPECT_EQ(flags & x86::rflags::RF, 0U) << "it is done";
  set(0, 0, 100);  // not mapped
  EXPECT_EQ(bt::leaf_rep_stos(rig.context.get(), 1, kUser), 100U);
  EXPECT_EQ(flags & x86::rflags::RF, 0U) << "it has not begun";
  set(0, kBase + kPages * kPageSize - 60, 100);
  EXPECT_EQ(bt::leaf_rep_stos(rig.context.get(), 1, kUser), 40U);
  EXPECT_NE(flags & x86::rflags::RF, 0U);
}

TEST_F(LeafStringTest, StopsBeforeWhatItMayNotTouch) {
  rig.paging.map(kBase + 2 * kPageSize, frame(2), kOpen & ~pte::D);
  set(kBase, kBase + kPageSize + 16, 2 * kPageSize);
  EXPECT_EQ(bt::leaf_rep_movs(rig.context.get(), 1, kUser), kPageSize + 16);
  EXPECT_EQ(rig.context->gpr[kRdi], kBase + 2 * kPageSize);
  EXPECT_EQ(rig.context->gpr[kRsi], kBase + kPageSize - 16);
  const auto before = all();
  EXPECT_EQ(bt::leaf_rep_stos(rig.context.get(), 1, kUser), kPageSize + 16);
  EXPECT_FALSE(bt::leaf_movs(rig.context.get(), 1, kUser));
  EXPECT_EQ(all(), before);
  set(0, 0, 0);
  EXPECT_EQ(bt::leaf_rep_movs(rig.context.get(), 8, kUser), 0U);
  EXPECT_EQ(rig.context->gpr[kRsi], 0U);
}

TEST_F(LeafStringTest, SingleElements) {
  bt::Context& context = *rig.context;
  constexpr u64 kValue = 0x1122'3344'5566'7788;
  constexpr std::array<u64, 4> kLoaded = {0xFFFF'FFFF'FFFF'FF88, 0xFFFF'FFFF'FFFF'7788, 0x5566'7788, kValue};
  for (unsigned i = 0; i < 4; ++i) {
    const u32 size = 1U << i;
    set(0, kBase, 9);
    context.gpr[kRax] = kValue;
    ASSERT_TRUE(bt::leaf_stos(&context, size, kUser));
    EXPECT_EQ(context.gpr[kRdi], kBase + size);
    set(kBase, kBase + 64, 9);
    ASSERT_TRUE(bt::leaf_movs(&context, size, kUser));
    EXPECT_EQ(context.gpr[kRsi], kBase + size);
    EXPECT_EQ(context.gpr[kRdi], kBase + 64 + size);
    EXPECT_EQ(context.gpr[kRcx], 9U);
    set(kBase + 64, 0, 9);
    context.gpr[kRax] = ~u64{0};
    ASSERT_TRUE(bt::leaf_lods(&context, size, kUser));
    EXPECT_EQ(context.gpr[kRax], kLoaded[i]);
    EXPECT_EQ(context.gpr[kRsi], kBase + 64 + size);
  }
  set(kBase + kPageSize - 1, 0, 0);
  EXPECT_FALSE(bt::leaf_lods(&context, 2, kUser));
}

}  // namespace
}  // namespace vert::test

// What must be enabled, other modes than 64-bit, and the unit's pool.
#include <gtest/gtest.h>

#include "guest.hpp"

namespace vert::test {
namespace {

using x86::Fault;
namespace cr0 = x86::cr0;
namespace cr4 = x86::cr4;

const std::vector<u8> kAddps = {0x0F, 0x58, 0xC1};
const std::vector<u8> kVaddps = {0xC5, 0xF0, 0x58, 0xC2};
const std::vector<u8> kVaddpsZmm = {0x62, 0xF1, 0x74, 0x48, 0x58, 0xC2};
const std::vector<u8> kPaddb = {0x0F, 0xFC, 0xC1};
const std::vector<u8> kFadd = {0xD8, 0xC1};
const std::vector<u8> kFwait = {0x9B};
const std::vector<u8> kFninit = {0xDB, 0xE3};
const std::vector<u8> kMovnti = {0x0F, 0xC3, 0x07};
const std::vector<u8> kFxsave = {0x0F, 0xAE, 0x07};
const std::vector<u8> kXsave = {0x0F, 0xAE, 0x27};
const std::vector<u8> kCvtpi2ps = {0x0F, 0x2A, 0xC1};

class UnitTest : public ::testing::Test {
 protected:
  /// The fault with these changes to a state in which everything is enabled.
  cpu::MaybeFault with(const std::vector<u8>& bytes, u64 set_cr0, u64 clear_cr4 = 0, u64 xcr0 = 0xE7) {
    guest_.enter_long_mode();
    guest_.attach();
    guest_.state.gpr[x86::kRdi] = Guest::kData;
    guest_.state.cr0 |= set_cr0;
    guest_.state.cr4 &= ~clear_cr4;
    guest_.state.xcr0 = xcr0 & guest_.model().xcr0_allowed();
    guest_.state.fpu.fcw = 0x37F;
    guest_.state.fpu.fsw = pending_ ? 1 : 0;
    if (pending_) guest_.state.fpu.fcw = 0x37E;
    return guest_.execute(bytes);
  }
  Guest guest_;
  bool pending_ = false;
};

TEST_F(UnitTest, Gates) {
  EXPECT_EQ(with(kAddps, 0), std::nullopt);
  EXPECT_EQ(with(kAddps, cr0::EM | cr0::TS), Fault::ud());
  EXPECT_EQ(with(kAddps, cr0::TS, cr4::OSFXSR), Fault::ud());
  EXPECT_EQ(with(kAddps, cr0::TS), Fault::nm());
  EXPECT_EQ(with(kVaddps, 0), std::nullopt);
  EXPECT_EQ(with(kVaddps, cr0::EM), std::nullopt);
  EXPECT_EQ(with(kVaddps, 0, cr4::OSFXSR), std::nullopt);
  EXPECT_EQ(with(kVaddps, cr0::TS, cr4::OSXSAVE), Fault::ud());
  EXPECT_EQ(with(kVaddps, cr0::TS), Fault::nm());
  EXPECT_EQ(with(kVaddps, 0, 0, 3), Fault::ud());
  EXPECT_EQ(with(kVaddpsZmm, 0, 0, 7), Fault::ud());
  EXPECT_EQ(with(kPaddb, cr0::EM | cr0::TS), Fault::ud());
  EXPECT_EQ(with(kPaddb, cr0::TS, cr4::OSFXSR), Fault::nm());
  EXPECT_EQ(with(kFadd, cr0::EM), Fault::nm());
  EXPECT_EQ(with(kFadd, cr0::TS), Fault::nm());
  EXPECT_EQ(with(kFwait, cr0::EM), std::nullopt);
  EXPECT_EQ(with(kFwait, cr0::TS), Fault::nm());
  EXPECT_EQ(with(kFninit, cr0::TS), Fault::nm());
  EXPECT_EQ(with(kMovnti, cr0::EM | cr0::TS, cr4::OSFXSR), std::nullopt);
  EXPECT_EQ(with(kFxsave, cr0::EM), Fault::nm());
  EXPECT_EQ(with(kFxsave, 0, cr4::OSFXSR), std::nullopt);
  EXPECT_EQ(with(kXsave, cr0::TS, cr4::OSXSAVE), Fault::ud());
  EXPECT_EQ(with(kXsave, cr0::TS), Fault::nm());
}

TEST_F(UnitTest, PendingX87Exception) {
  pending_ = true;
  EXPECT_EQ(with(kFadd, 0), Fault::mf());
  EXPECT_EQ(with(kFwait, 0), Fault::mf());
  EXPECT_EQ(with(kPaddb, 0), Fault::mf());
  EXPECT_EQ(with(kCvtpi2ps, 0), Fault::mf());
  EXPECT_EQ(with(kFninit, 0), std::nullopt);
  for (const u8 nop : std::array<u8, 3>{0xE0, 0xE1, 0xE4})
    EXPECT_EQ(with({0xDB, nop}, 0), std::nullopt);  // FENI and so on
  EXPECT_EQ(with(kAddps, 0), std::nullopt);
  EXPECT_EQ(with(kFadd, cr0::TS), Fault::nm());
}

TEST_F(UnitTest, FloatingPointException) {
  const auto divide = [&](u64 clear_cr4) {
    guest_.enter_long_mode();
    guest_.attach();
    guest_.state.cr4 &= ~clear_cr4;
    const float one = 1;
    guest_.state.fpu.zmm[0] = {};
    guest_.state.fpu.zmm[1] = {};
    std::memcpy(guest_.state.fpu.zmm[0].data(), &one, 4);
    guest_.state.fpu.mxcsr = 0x1D80;  // division by zero is unmasked
    return guest_.execute({0xF3, 0x0F, 0x5E, 0xC1});
  };
  EXPECT_EQ(divide(0), Fault::xm());
  EXPECT_EQ(guest_.state.fpu.mxcsr, 0x1D84U);
  EXPECT_EQ(guest_.state.fpu.zmm[0][3], 0x3F);
  EXPECT_EQ(divide(cr4::OSXMMEXCPT), Fault::ud());
}

TEST_F(UnitTest, LegacyModes) {
  guest_.enter_legacy_mode(true);
  guest_.state.gpr[x86::kRdi] = Guest::kData;
  for (std::size_t i = 0; i < 16; ++i) guest_.data()[i] = static_cast<u8>(i + 1);
  ASSERT_FALSE(guest_.execute({0x0F, 0x10, 0x07}));  // movups xmm0, [edi]
  EXPECT_EQ(guest_.state.fpu.zmm[0][15], 16);
  ASSERT_FALSE(guest_.execute({0xC4, 0xE2, 0x3D, 0x00, 0xC1}));  // vpshufb ymm0, ymm0, ymm1: vvvv[3] ignored
  EXPECT_EQ(guest_.state.fpu.zmm[8][0], 0);
  guest_.state.gpr[x86::kRcx] = 0x11223344'55667788;
  ASSERT_FALSE(guest_.execute({0x66, 0x0F, 0x6E, 0xD1}));  // movd xmm2, ecx
  EXPECT_EQ(guest_.state.fpu.zmm[2][3], 0x55);
  EXPECT_EQ(guest_.state.fpu.zmm[2][4], 0);
  ASSERT_FALSE(guest_.execute({0xC4, 0xE1, 0xF9, 0x6E, 0xD1}));  // vmovd with W = 1 stays 32 bits wide
  EXPECT_EQ(guest_.state.fpu.zmm[2][4], 0);

  guest_.enter_legacy_mode(false);  // 16-bit code
  guest_.state.gpr[x86::kRbx] = Guest::kData & 0xFFFF;
  guest_.state.seg(x86::kDs).base = Guest::kData;
  ASSERT_FALSE(guest_.execute({0x0F, 0x10, 0x0F}));  // movups xmm1, [bx]
  EXPECT_EQ(guest_.state.fpu.zmm[1][0], 1);

  guest_.enter_legacy_mode(false, false);  // real mode
  EXPECT_EQ(guest_.execute(kVaddps), Fault::ud());
  EXPECT_EQ(guest_.execute(kAddps), std::nullopt);
}

TEST_F(UnitTest, EnvironmentInRealMode) {
  guest_.enter_legacy_mode(false, false);
  guest_.state.gpr[x86::kRbx] = 0;
  guest_.state.seg(x86::kDs).base = Guest::kData;
  cpu::FpuState& fpu = guest_.state.fpu;
  ASSERT_FALSE(guest_.execute(kFninit));
  fpu.fip = 0x54321;
  fpu.fdp = 0x98765;
  fpu.fop = 0x123;
  ASSERT_FALSE(guest_.execute({0xD9, 0x37}));  // fnstenv [bx], 16 bits wide
  const std::array<u8, 14> expected = {0x7F, 0x03, 0,    0,    0xFF, 0xFF, 0x21,
                                       0x43, 0x23, 0x51, 0x65, 0x87, 0,    0x90};
  EXPECT_EQ(0, std::memcmp(expected.data(), guest_.data(), expected.size()));
  ASSERT_FALSE(guest_.execute({0x66, 0xD9, 0x37}));  // 32 bits wide
  u32 element = 0;
  std::memcpy(&element, guest_.data() + 16, 4);
  EXPECT_EQ(element, 0x5123U);
  fpu.fip = fpu.fdp = fpu.fop = 0;
  ASSERT_FALSE(guest_.execute({0x66, 0xD9, 0x27}));  // fldenv
  EXPECT_EQ(fpu.fip, 0x54321U);
  EXPECT_EQ(fpu.fdp, 0x98765U);
  EXPECT_EQ(fpu.fop, 0x123);
}

TEST_F(UnitTest, NonCanonicalAddresses) {
  guest_.state.gpr[x86::kRdi] = u64{1} << 63;
  guest_.state.gpr[x86::kRsp] = 0x7FFFFFFFFFFF;
  EXPECT_EQ(guest_.execute({0x0F, 0x10, 0x07}), Fault::gp());
  EXPECT_EQ(guest_.execute({0x0F, 0x10, 0x04, 0x24}), Fault::ss());  // the last bytes are beyond
}

TEST_F(UnitTest, MisalignedAndNonCanonical) {
  guest_.state.gpr[x86::kRsp] = (u64{1} << 63) + 8;
  EXPECT_EQ(guest_.execute({0x0F, 0x28, 0x04, 0x24}), Fault::gp());  // movaps xmm0, [rsp]
  EXPECT_EQ(guest_.execute({0x0F, 0xAE, 0x04, 0x24}), Fault::ss());  // fxsave [rsp]
}

/// The supervisor's data page is out of reach at CPL 3, so what passes the alignment check is #PF.
TEST_F(UnitTest, AlignmentCheck) {
  struct Case {
    std::vector<u8> bytes;
    u64 checked;  // by Intel's processors; AMD's check vectors for 16 bytes, and never more than is required
    u64 required;
    u64 amd_checked;
  };
  const bool amd = guest_.model().vendor() == x86::Vendor::kAmd;
  const std::vector<Case> cases = {
      {{0xD9, 0x07}, 4, 1, 4},                          // fld m32
      {{0xDD, 0x07}, 8, 1, 8},                          // fld m64
      {{0xDB, 0x2F}, 8, 1, 8},                          // fld m80
      {{0xDB, 0x3F}, 8, 1, 8},                          // fstp m80
      {{0xD9, 0x2F}, 2, 1, 2},                          // fldcw
      {{0xD9, 0x27}, 4, 1, 4},                          // fldenv
      {{0x66, 0xDD, 0x37}, 2, 1, 2},                    // fnsave, 16-bit
      {{0x0F, 0x6F, 0x07}, 8, 1, 8},                    // movq mm0
      {{0x0F, 0x60, 0x07}, 4, 1, 4},                    // punpcklbw mm0, m32
      {{0x0F, 0xF7, 0xC1}, 8, 1, 8},                    // maskmovq
      {{0x66, 0x0F, 0xF7, 0xC1}, 8, 1, 8},              // maskmovdqu
      {{0x0F, 0xAE, 0x17}, 4, 1, 4},                    // ldmxcsr
      {{0xF3, 0x0F, 0x58, 0x07}, 4, 1, 4},              // addss
      {{0x0F, 0x10, 0x07}, 1, 1, 16},                   // movups
      {{0x0F, 0x58, 0x07}, 1, 16, 16},                  // addps
      {{0x0F, 0xAE, 0x07}, 4, 16, 4},                   // fxsave
      {{0x0F, 0xAE, 0x27}, 4, 64, 64},                  // xsave
      {{0xC4, 0xE2, 0x79, 0x13, 0x07}, 1, 1, 8},        // vcvtph2ps xmm0, m64
      {{0x62, 0xF1, 0x7C, 0x58, 0x58, 0x07}, 4, 1, 4},  // vaddps zmm0, m32{1to16}
  };
  for (const Case& test : cases) {
    for (u64 shift = 0; shift < 64; ++shift) {
      const auto run = [&](u64 flags) {
        guest_.enter_long_mode();
        guest_.state.cpl = 3;
        guest_.state.cr0 |= cr0::AM;
        guest_.state.rflags |= flags;
        guest_.attach();
        guest_.state.fpu.zmm[1].fill(0xFF);
        guest_.state.fpu.st[1].fill(0xFF);
        guest_.state.gpr[x86::kRax] = 7;
        guest_.state.gpr[x86::kRdi] = Guest::kData + shift;
        const auto fault = guest_.execute(test.bytes);
        return fault ? fault->vector : 0;
      };
      const int without = shift % test.required != 0 ? x86::kGP : x86::kPF;
      const u64 checked = amd ? test.amd_checked : test.checked;
      const bool checked_first = !amd || test.amd_checked != test.required || test.required == 1;
      ASSERT_EQ(run(0), without) << int{test.bytes[1]} << " at " << shift;
      ASSERT_EQ(run(x86::rflags::AC), shift % checked != 0 && checked_first ? int{x86::kAC} : without)
          << int{test.bytes[1]} << " at " << shift;
    }
  }
}

/// As processors have it: Intel's have TOP at 0 by then, and the tags come later; AMD's have changed nothing.
TEST_F(UnitTest, MmxStoreThatFaults) {
  guest_.state.fpu.fsw = 3 << 11;
  guest_.state.fpu.ftw = 0x18;
  guest_.state.fpu.st[0].fill(0x55);
  guest_.state.gpr[x86::kRdi] = Guest::kData + kPageSize;
  const auto fault = guest_.execute({0x0F, 0xE7, 0x07});
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->vector, x86::kPF);
  const bool amd = guest_.model().vendor() == x86::Vendor::kAmd;
  EXPECT_EQ(guest_.state.fpu.fsw, amd ? 3 << 11 : 0);
  EXPECT_EQ(guest_.state.fpu.ftw, 0x18);
  EXPECT_EQ(guest_.state.fpu.st[amd ? 0 : 3][0], 0x55);
}

TEST_F(UnitTest, ReservedMxcsrBits) {
  guest_.state.gpr[x86::kRdi] = Guest::kData;
  const u32 wrong = 0x10000;
  std::memcpy(guest_.data(), &wrong, sizeof wrong);
  EXPECT_EQ(guest_.execute({0x0F, 0xAE, 0x17}), Fault::gp());
  EXPECT_EQ(guest_.state.fpu.mxcsr, 0x1F80U);
}

/// More distinct instructions than the pool holds; records handed out before still work.
TEST_F(UnitTest, PoolTurnsOver) {
  x86::Insn first;
  const std::vector<u8> shift = {0x66, 0x0F, 0x73, 0xF8, 1};  // pslldq xmm0, 1
  ASSERT_EQ(x86::decode(shift, x86::CodeSize::k64, first), x86::DecodeStatus::kOk);
  const interp::VectorOp* held = guest_.unit().prepare(first, x86::CodeSize::k64);
  ASSERT_NE(held, nullptr);
  for (u32 i = 0; i < interp::VectorUnit::kCapacity + 10; ++i) {
    // pshufd xmmA, xmmB, imm8 in 16384 variations
    const std::vector<u8> bytes = {0x66, static_cast<u8>(0x40 | (i >> 14 & 1) << 2), 0x0F,
                                   0x70, static_cast<u8>(0xC0 | (i >> 8 & 0x3F)),    static_cast<u8>(i)};
    ASSERT_EQ(guest_.execute(bytes), std::nullopt);
  }
  guest_.state.fpu.zmm[0].fill(7);
  ASSERT_EQ(guest_.unit().execute(*held, first, guest_.state, guest_.mmu(), 0), std::nullopt);
  EXPECT_EQ(guest_.state.fpu.zmm[0][0], 0);
  EXPECT_EQ(guest_.state.fpu.zmm[0][1], 7);
  EXPECT_EQ(guest_.state.fpu.zmm[0][16], 7);
}

}  // namespace
}  // namespace vert::test

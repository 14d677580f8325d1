// FXSAVE and the XSAVE family, against the host and against SDM 1, chapter 13.
#include <bit>
#include <csignal>
#include <random>

#include <gtest/gtest.h>

#include "guest.hpp"

namespace vert::test {
namespace {

using x86::Fault;
using Random = std::mt19937_64;
namespace xcr0 = x86::xcr0;

/// Instruction on [RDI].
struct Form {
  const char* name;
  std::vector<u8> bytes;
};
const Form kFxsave{"fxsave", {0x0F, 0xAE, 0x07}};
const Form kFxsave64{"fxsave64", {0x48, 0x0F, 0xAE, 0x07}};
const Form kFxrstor{"fxrstor", {0x0F, 0xAE, 0x0F}};
const Form kFxrstor64{"fxrstor64", {0x48, 0x0F, 0xAE, 0x0F}};
const Form kXsave{"xsave", {0x0F, 0xAE, 0x27}};
const Form kXsave64{"xsave64", {0x48, 0x0F, 0xAE, 0x27}};
const Form kXsaveopt64{"xsaveopt64", {0x48, 0x0F, 0xAE, 0x37}};
const Form kXsavec64{"xsavec64", {0x48, 0x0F, 0xC7, 0x27}};
const Form kXsaves64{"xsaves64", {0x48, 0x0F, 0xC7, 0x2F}};
const Form kXrstor{"xrstor", {0x0F, 0xAE, 0x2F}};
const Form kXrstor64{"xrstor64", {0x48, 0x0F, 0xAE, 0x2F}};
const Form kXrstors64{"xrstors64", {0x48, 0x0F, 0xC7, 0x1F}};

class XsaveTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if ((guest_.state.xcr0 & xcr0::kAvx512) == 0) GTEST_SKIP() << "the host lacks AVX-512";
    guest_.state.xcr0 = 0xE7;  // what the native side saves and restores
    guest_.state.gpr[x86::kRdi] = Guest::kData;
  }
  void random_state();
  /// What a save of `fpu` keeps (APM 2, 11.5.8).
  [[nodiscard]] cpu::FpuState as_saved(const cpu::FpuState& state) const {
    cpu::FpuState fpu = state;
    if (guest_.model().vendor() != x86::Vendor::kAmd || (fpu.fsw & ~fpu.fcw & 0x3F) != 0) return fpu;
    fpu.fop = 0;
    fpu.fip = fpu.fdp = 0;
    fpu.fcs = fpu.fds = 0;
    return fpu;
  }
  void compare_states(const cpu::CpuState& native);
  void run_both(const Form& form);
  cpu::MaybeFault run(const Form& form) { return guest_.execute(form.bytes); }
  void request(u64 components) {
    guest_.state.gpr[x86::kRax] = static_cast<u32>(components);
    guest_.state.gpr[x86::kRdx] = components >> 32;
  }
  template <typename T>
  void put(std::size_t at, T value) {
    std::memcpy(guest_.data() + at, &value, sizeof value);
  }
  template <typename T>
  T get(std::size_t at) {
    T value;
    std::memcpy(&value, guest_.data() + at, sizeof value);
    return value;
  }

  Guest guest_;
  Random random_{42};
};

void XsaveTest::random_state() {
  cpu::FpuState fpu;
  fpu.fcw = 0x37F;
  const u64 fill = random_();
  for (std::size_t reg = 0; reg < 32; ++reg)
    for (std::size_t i = 0; i < 64; ++i) {
      const unsigned component = reg >= 16 ? 7 : i < 16 ? 1 : i < 32 ? 2 : 6;
      if ((fill >> component & 1) != 0) fpu.zmm[reg][i] = static_cast<u8>(random_());
    }
  if ((fill >> 5 & 1) != 0)
    for (auto& k : fpu.k) k = random_();
  if ((fill & 1) != 0) {
    for (auto& st : fpu.st)
      for (std::size_t i = 0; i < 10; ++i) st[i] = static_cast<u8>(random_());
    fpu.fcw = static_cast<u16>(0x40 | (random_() & 0xF3F));
    fpu.fsw = static_cast<u16>((random_() & 0x7F00) | (random_() & fpu.fcw & 0x3F));
    fpu.ftw = static_cast<u8>(random_());
    fpu.fop = random_() & 0x7FF;
    fpu.fip = random_() & 0x7FFFFFFFFFFF;
    fpu.fdp = random_() & 0x7FFFFFFFFFFF;
  }
  fpu.mxcsr = (fill >> 8 & 1) != 0 ? static_cast<u32>(random_() & 0xFFFF) : 0x1F80;
  guest_.state.fpu = fpu;
}

void XsaveTest::compare_states(const cpu::CpuState& native) {
  const cpu::FpuState& got = guest_.state.fpu;
  EXPECT_TRUE(native.fpu.zmm == got.zmm);
  EXPECT_TRUE(native.fpu.k == got.k);
  EXPECT_TRUE(native.fpu.st == got.st);
  EXPECT_EQ(native.fpu.mxcsr, got.mxcsr);
  EXPECT_EQ(native.fpu.fcw, got.fcw);
  EXPECT_EQ(native.fpu.fsw, got.fsw);
  EXPECT_EQ(native.fpu.ftw, got.ftw);
  EXPECT_PRED2(same_pointer, native.fpu.fop, got.fop);
  EXPECT_PRED2(same_pointer, native.fpu.fip, got.fip);
  EXPECT_PRED2(same_pointer, native.fpu.fdp, got.fdp);
}

/// On the host with the area in its page, and in the unit with the same bytes in the guest's. When the thread
/// is preempted in between, the kernel's own XSAVES and XRSTORS may set XINUSE for SSE (if MXCSR is not its
/// initial value): the host then is asked again.
void XsaveTest::run_both(const Form& form) {
  u8* const page = NativeOracle::instance().page();
  const std::vector<u8> before(guest_.data(), guest_.data() + kPageSize);
  const cpu::CpuState start = guest_.state;
  const auto fault = run(form);
  cpu::CpuState native;
  NativeOutcome outcome;
  for (int attempt = 0; attempt < 5; ++attempt) {
    std::memcpy(page, before.data(), kPageSize);
    native = start;
    native.gpr[x86::kRdi] = reinterpret_cast<u64>(page);
    outcome = NativeOracle::instance().run(form.bytes, native);
    if (std::memcmp(page, guest_.data(), kPageSize) == 0) break;
  }
  ASSERT_EQ(outcome.signal != 0, fault.has_value()) << form.name;
  if (fault) {
    ASSERT_EQ(SIGSEGV, outcome.signal);
    ASSERT_EQ(*fault, Fault::gp());
  } else {
    compare_states(native);  // after #GP for MXCSR the host has restored some components, the unit none
  }
  for (std::size_t i = 0; i < kPageSize; ++i)
    ASSERT_EQ(page[i], guest_.data()[i]) << form.name << " at " << i;
}

TEST_F(XsaveTest, SavesAsTheHost) {
  for (int round = 0; round < 400; ++round) {
    for (const Form* form : {&kXsave, &kXsave64, &kXsaveopt64, &kXsavec64, &kFxsave, &kFxsave64}) {
      random_state();
      for (std::size_t i = 0; i < kPageSize; ++i) guest_.data()[i] = static_cast<u8>(random_());
      put(512, random_() & 0xE7);
      put(520, u64{0});
      request(random_() % 4 == 0 ? ~u64{0} : random_());
      SCOPED_TRACE(fmt::format("{} eax {:#x}", form->name, guest_.state.gpr[x86::kRax] & 0xE7));
      run_both(*form);
      if (HasFailure()) return;
    }
  }
}

TEST_F(XsaveTest, RestoresAsTheHost) {
  for (int round = 0; round < 1500; ++round) {
    random_state();
    for (std::size_t i = 0; i < kPageSize; ++i) guest_.data()[i] = static_cast<u8>(random_());
    for (const std::size_t pointer : {8, 16}) put(pointer, random_() & 0x7FFFFFFFFFFF);
    put(24, static_cast<u32>(random_() & (random_() % 8 == 0 ? 0xFFFFFFFF : 0xFFFF)));
    const bool compacted = random_() % 2 == 0;
    const u64 format = random_() & 0xE7;
    std::memset(guest_.data() + 512, 0, 64);
    put(512, compacted ? random_() & format : random_() & 0xE7);
    if (compacted) put(520, format | u64{1} << 63);
    if (random_() % 16 == 0) put(512 + random_() % 64, static_cast<u8>(1U << random_() % 8));
    request(random_() % 4 == 0 ? ~u64{0} : random_());
    const Form& form = random_() % 4 == 0 ? kFxrstor64 : kXrstor64;
    SCOPED_TRACE(fmt::format("{} eax {:#x} bv {:#x} compact {:#x}", form.name,
                             guest_.state.gpr[x86::kRax] & 0xE7, get<u64>(512), get<u64>(520)));
    run_both(form);
    if (HasFailure()) return;
  }
}

TEST_F(XsaveTest, SupervisorFormsRoundTrip) {
  guest_.state.xcr0 = guest_.model().xcr0_allowed() | xcr0::PKRU;
  for (int round = 0; round < 50; ++round) {
    random_state();
    guest_.state.fpu.pkru = static_cast<u32>(random_());
    const cpu::FpuState before = as_saved(guest_.state.fpu);
    std::memset(guest_.data(), 0, kPageSize);
    request(~u64{0});
    ASSERT_FALSE(run(kXsaves64));
    EXPECT_EQ(get<u64>(520), guest_.state.xcr0 | u64{1} << 63);
    random_state();
    guest_.state.fpu.pkru = 7;
    ASSERT_FALSE(run(kXrstors64));
    EXPECT_TRUE(before == guest_.state.fpu);
  }
}

TEST_F(XsaveTest, NarrowFormsKeepSelectors) {
  random_state();
  guest_.state.fpu.fcw = 0x37E;  // an exception is pending: else AMD's processors store zeroes
  guest_.state.fpu.fsw = 0x8081;
  guest_.state.fpu.fip = 0x12345678;
  guest_.state.fpu.fdp = 0x9ABCDEF0;
  guest_.state.fpu.fcs = 0x23;
  guest_.state.fpu.fds = 0x2B;
  const cpu::FpuState before = guest_.state.fpu;
  ASSERT_FALSE(run(kFxsave));
  EXPECT_EQ(get<u32>(8), 0x12345678U);
  EXPECT_EQ(get<u16>(12), 0x23);
  EXPECT_EQ(get<u32>(16), 0x9ABCDEF0U);
  EXPECT_EQ(get<u16>(20), 0x2B);
  random_state();
  ASSERT_FALSE(run(kFxrstor));
  const bool zeroed = guest_.model().has(x86::Feature::ZERO_FCS_FDS);
  EXPECT_EQ(zeroed ? 0 : before.fcs, guest_.state.fpu.fcs);
  EXPECT_EQ(zeroed ? 0 : before.fds, guest_.state.fpu.fds);
  EXPECT_EQ(before.fip, guest_.state.fpu.fip);
}

TEST_F(XsaveTest, OutsideLongModeOnlyEightRegisters) {
  random_state();
  for (auto& reg : guest_.state.fpu.zmm) reg.fill(0xAA);
  guest_.state.fpu.mxcsr = 0x1F80;
  const cpu::FpuState fpu = guest_.state.fpu;
  guest_.enter_legacy_mode(true);
  guest_.state.fpu = fpu;
  guest_.state.xcr0 = 0xE7;
  guest_.state.gpr[x86::kRdi] = Guest::kData;
  std::memset(guest_.data(), 0, kPageSize);
  request(~u64{0});
  ASSERT_FALSE(run(kXsave));
  EXPECT_EQ(guest_.data()[160 + 127], 0xAA);
  EXPECT_EQ(guest_.data()[160 + 128], 0);
  EXPECT_EQ(guest_.data()[576 + 127], 0xAA);
  EXPECT_EQ(guest_.data()[576 + 128], 0);
  EXPECT_EQ(guest_.data()[guest_.model().xsave_layout()[7].offset], 0);
  std::memset(guest_.data(), 0, kPageSize);
  put(24, u32{0x1F80});
  request(~u64{0});
  ASSERT_FALSE(run(kXrstor));  // XSTATE_BV = 0: all to the initial configuration
  EXPECT_EQ(guest_.state.fpu.zmm[7][0], 0);
  EXPECT_EQ(guest_.state.fpu.zmm[8][0], 0xAA);
  EXPECT_EQ(guest_.state.fpu.zmm[31][0], 0xAA);
}

TEST_F(XsaveTest, FaultsLeaveNothingHalfDone) {
  random_state();
  request(~u64{0});
  guest_.state.gpr[x86::kRdi] = Guest::kData + kPageSize - 1024;  // the AVX-512 part is not present
  std::memset(guest_.data(), 0x55, kPageSize);
  put(kPageSize - 512, u64{0});
  for (const auto& reg : {0, 1}) guest_.state.fpu.zmm[static_cast<std::size_t>(reg)].fill(1);
  const auto fault = run(kXsave64);
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->vector, x86::kPF);
  EXPECT_EQ(fault->address & ~kPageOffsetMask, Guest::kData + kPageSize);
  EXPECT_EQ(get<u64>(kPageSize - 1024), 0x5555555555555555U);

  std::memset(guest_.data(), 0, kPageSize);
  put(kPageSize - 512, u64{0xE7});
  put(kPageSize - 1000, u32{0x1F80});
  const cpu::FpuState before = guest_.state.fpu;
  ASSERT_TRUE(run(kXrstor64));
  EXPECT_TRUE(before == guest_.state.fpu);
}

/// The header is read, too, but what matters is that the area is written, from its start.
TEST_F(XsaveTest, AnAreaThatIsNotMappedIsAWriteAtItsStart) {
  random_state();
  request(7);
  guest_.state.gpr[x86::kRdi] = Guest::kData + kPageSize;
  for (const Form& form : {kXsave64}) {
    const auto fault = run(form);
    ASSERT_TRUE(fault) << form.name;
    EXPECT_EQ(fault->vector, x86::kPF) << form.name;
    EXPECT_EQ(fault->address, Guest::kData + kPageSize) << form.name;
    EXPECT_EQ(fault->error_code, x86::pf::W) << form.name;
  }
}

/// FIP is kept as wide as linear addresses can be, FDP whole.
TEST_F(XsaveTest, PointersThatAreNotCanonical) {
  random_state();
  request(1);
  guest_.state.gpr[x86::kRdi] = Guest::kData;
  std::memset(guest_.data(), 0, kPageSize);
  put(8, u64{0xC123'4567'89AB'CDEF});
  put(16, u64{0xC123'4567'89AB'CDEF});
  put(512, u64{1});
  ASSERT_FALSE(run(kXrstor64));
  EXPECT_EQ(guest_.state.fpu.fip, 0xFF23'4567'89AB'CDEF);
  EXPECT_EQ(guest_.state.fpu.fdp, 0xC123'4567'89AB'CDEF);
}

TEST_F(XsaveTest, ProtectionFaults) {
  const auto expect_gp = [&](const Form& form) {
    const auto fault = run(form);
    ASSERT_TRUE(fault) << form.name;
    EXPECT_EQ(*fault, Fault::gp()) << form.name;
  };
  request(7);
  guest_.state.gpr[x86::kRdi] = Guest::kData + 32;
  for (const Form* form : {&kXsave, &kXsaveopt64, &kXsavec64, &kXsaves64, &kXrstor, &kXrstors64})
    expect_gp(*form);
  guest_.state.gpr[x86::kRdi] = Guest::kData + 8;
  for (const Form* form : {&kFxsave, &kFxrstor}) expect_gp(*form);
  guest_.state.gpr[x86::kRdi] = Guest::kData;
  guest_.state.cpl = 3;
  expect_gp(kXsaves64);
  expect_gp(kXrstors64);
  guest_.state.cpl = 0;
  std::memset(guest_.data(), 0, 576);
  expect_gp(kXrstors64);  // needs the compacted format
  put(512, u64{1} << 9);  // a component that XCR0 does not have
  expect_gp(kXrstor);
}

TEST_F(XsaveTest, ExtendedControlRegister) {
  const std::vector<u8> xgetbv = {0x0F, 0x01, 0xD0};
  const std::vector<u8> xsetbv = {0x0F, 0x01, 0xD1};
  auto& gpr = guest_.state.gpr;
  gpr[x86::kRcx] = 0;
  ASSERT_FALSE(guest_.execute(xgetbv));
  EXPECT_EQ(gpr[x86::kRax], 0xE7U);
  EXPECT_EQ(gpr[x86::kRdx], 0U);
  request(3);
  ASSERT_FALSE(guest_.execute(xsetbv));
  EXPECT_EQ(guest_.state.xcr0, 3U);
  for (const u64 wrong : {u64{2}, u64{5}, u64{0x27}, u64{0xE3}, u64{1} << 62 | 3}) {
    request(wrong);
    EXPECT_EQ(guest_.execute(xsetbv), Fault::gp()) << wrong;
  }
  request(7);
  gpr[x86::kRcx] = 1;
  EXPECT_EQ(guest_.execute(xsetbv), Fault::gp());
  gpr[x86::kRcx] = 2;
  EXPECT_EQ(guest_.execute(xgetbv), Fault::gp());
  gpr[x86::kRcx] = 0;
  guest_.state.cpl = 3;
  EXPECT_EQ(guest_.execute(xsetbv), Fault::gp());
}

TEST_F(XsaveTest, ProtectionKeys) {
  auto& gpr = guest_.state.gpr;
  gpr[x86::kRax] = 0x12345678;
  gpr[x86::kRcx] = gpr[x86::kRdx] = 0;
  ASSERT_FALSE(guest_.execute({0x0F, 0x01, 0xEF}));
  EXPECT_EQ(guest_.state.fpu.pkru, 0x12345678U);
  gpr[x86::kRax] = gpr[x86::kRdx] = ~u64{0};
  ASSERT_FALSE(guest_.execute({0x0F, 0x01, 0xEE}));
  EXPECT_EQ(gpr[x86::kRax], 0x12345678U);
  EXPECT_EQ(gpr[x86::kRdx], 0U);
  gpr[x86::kRdx] = 1;
  EXPECT_EQ(guest_.execute({0x0F, 0x01, 0xEF}), Fault::gp());
  guest_.state.cr4 &= ~x86::cr4::PKE;
  EXPECT_EQ(guest_.execute({0x0F, 0x01, 0xEE}), Fault::ud());
}

}  // namespace
}  // namespace vert::test

// Gathers and scatters against the host, and what they leave behind when an element faults.
#include <random>

#include <gtest/gtest.h>

#include "guest.hpp"

namespace vert::test {
namespace {

using Random = std::mt19937_64;

class GatherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if ((guest_.state.xcr0 & x86::xcr0::kAvx512) == 0) GTEST_SKIP() << "the host lacks AVX-512";
  }
  void randomize();
  void compare(const std::vector<u8>& bytes);

  Guest guest_;
  Random random_{7};
};

/// Small indices everywhere, as 32-bit values and as 64-bit ones; random masks.
void GatherTest::randomize() {
  cpu::FpuState& fpu = guest_.state.fpu;
  for (std::size_t reg = 0; reg < 32; ++reg)
    for (std::size_t i = 0; i < 64; i += 4) {
      const auto value = reg == 1 ? static_cast<u32>(random_()) : static_cast<u32>(random_() % 256);
      std::memcpy(fpu.zmm[reg].data() + i, &value, 4);
    }
  if (random_() % 2 == 0)  // 64-bit indices; negative ones too
    for (std::size_t i = 0; i < 64; i += 8) {
      const i64 value = static_cast<i64>(random_() % 256) - 64;
      std::memcpy(fpu.zmm[2].data() + i, &value, 8);
    }
  for (auto& byte_value : fpu.zmm[3]) byte_value = static_cast<u8>(random_());  // the mask of VEX forms
  for (auto& k : fpu.k) k = random_();
  for (std::size_t i = 0; i < kPageSize; ++i) guest_.data()[i] = static_cast<u8>(random_());
  std::memcpy(NativeOracle::instance().page(), guest_.data(), kPageSize);
  guest_.state.gpr[x86::kRdi] = Guest::kData + 1024;
}

/// If the host completes it, all must be equal; if it faults, the unit must fault in the same page, with the
/// elements below the fault done and their mask bits clear.
void GatherTest::compare(const std::vector<u8>& bytes) {
  cpu::CpuState native = guest_.state;
  native.gpr[x86::kRdi] += reinterpret_cast<u64>(NativeOracle::instance().page()) - Guest::kData;
  const NativeOutcome outcome = NativeOracle::instance().run(bytes, native);
  const auto fault = guest_.execute(bytes);
  ASSERT_EQ(outcome.signal != 0, fault.has_value());
  if (fault) {
    ASSERT_EQ(fault->vector, x86::kPF);
    return;
  }
  ASSERT_TRUE(native.fpu.zmm == guest_.state.fpu.zmm);
  ASSERT_EQ(native.fpu.k, guest_.state.fpu.k);
  ASSERT_EQ(0, std::memcmp(NativeOracle::instance().page(), guest_.data(), kPageSize));
}

TEST_F(GatherTest, Evex) {
  for (int round = 0; round < 40; ++round)
    for (const u8 opcode : std::array<u8, 8>{0x90, 0x91, 0x92, 0x93, 0xA0, 0xA1, 0xA2, 0xA3})
      for (const u8 w : std::array<u8, 2>{0, 0x80})
        for (const u8 length : std::array<u8, 3>{0, 0x20, 0x40}) {
          randomize();
          const auto scale = static_cast<u8>(random_() % 4 << 6);
          // op zmm1 {k5}, [rdi + zmm2 * scale]
          const std::vector<u8> bytes = {
              0x62,   0xF2, static_cast<u8>(0x7D | w),    static_cast<u8>(0x0D | length),
              opcode, 0x0C, static_cast<u8>(scale | 0x17)};
          SCOPED_TRACE(fmt::format("{:02x} w {} length {} scale {}", opcode, w, length, scale));
          compare(bytes);
          if (HasFatalFailure()) return;
        }
}

TEST_F(GatherTest, Vex) {
  for (int round = 0; round < 40; ++round)
    for (const u8 opcode : std::array<u8, 4>{0x90, 0x91, 0x92, 0x93})
      for (const u8 w : std::array<u8, 2>{0, 0x80})
        for (const u8 length : std::array<u8, 2>{0, 4}) {
          randomize();
          const auto scale = static_cast<u8>(random_() % 4 << 6);
          // op ymm1, [rdi + ymm2 * scale], ymm3
          compare(
              {0xC4, 0xE2, static_cast<u8>(0x61 | w | length), opcode, 0x0C, static_cast<u8>(scale | 0x17)});
          if (HasFatalFailure()) return;
        }
}

TEST_F(GatherTest, FaultKeepsWhatIsDone) {
  randomize();
  cpu::FpuState& fpu = guest_.state.fpu;
  const std::array<u32, 4> indices = {0, 4, 0, 8};
  std::memcpy(fpu.zmm[2].data(), indices.data(), sizeof indices);
  fpu.k[5] = 0xF;
  fpu.zmm[1].fill(0xEE);
  const u32 missing = kPageSize + 16 - 64;
  std::memcpy(fpu.zmm[2].data() + 8, &missing, sizeof missing);  // element 2 lies where nothing is
  guest_.state.gpr[x86::kRdi] = Guest::kData + 64;
  const auto fault = guest_.execute({0x62, 0xF2, 0x7D, 0x0D, 0x90, 0x0C, 0x17});
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->address, Guest::kData + kPageSize + 16);
  EXPECT_EQ(fpu.k[5], 0xCU);
  EXPECT_EQ(fpu.zmm[1][8], 0xEE);
  EXPECT_EQ(fpu.zmm[1][16], 0);  // above the vector length
  EXPECT_EQ(0, std::memcmp(fpu.zmm[1].data(), guest_.data() + 64, 8));
}

TEST_F(GatherTest, UndefinedForms) {
  EXPECT_EQ(guest_.execute({0x62, 0xF2, 0x7D, 0x48, 0x90, 0x0C, 0x17}), x86::Fault::ud());  // k0
  EXPECT_EQ(guest_.execute({0x62, 0xF2, 0x7D, 0x49, 0x90, 0x14, 0x17}), x86::Fault::ud());  // zmm2 twice
  EXPECT_EQ(guest_.execute({0xC4, 0xE2, 0x69, 0x90, 0x0C, 0x17}), x86::Fault::ud());        // mask is index
}

}  // namespace
}  // namespace vert::test

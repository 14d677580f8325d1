#include "diff/harness/values.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

namespace vert::diff {

namespace {

constexpr std::array<u32, 16> kSingles = {
    0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001,
    0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x4F000000, 0xCF000001, 0x3F000000, 0xFFFFFFFF};
constexpr std::array<u64, 16> kDoubles = {
    0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0xBFF0000000000000,
    0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0x7FF0000000000001,
    0x0000000000000001, 0x000FFFFFFFFFFFFF, 0x0010000000000000, 0x7FEFFFFFFFFFFFFF,
    0x43E0000000000000, 0xC1E0000000200000, 0x3FE0000000000000, 0x400921FB54442D18};
/// Sign and exponent, then the significand.
constexpr std::array<std::pair<u16, u64>, 14> kExtended = {{{0x0000, 0},
                                                            {0x8000, 0},
                                                            {0x3FFF, 0x8000000000000000},
                                                            {0xBFFF, 0x8000000000000000},
                                                            {0x7FFF, 0x8000000000000000},
                                                            {0xFFFF, 0x8000000000000000},
                                                            {0x7FFF, 0xC000000000000000},
                                                            {0x7FFF, 0x8000000000000001},
                                                            {0x0000, 1},
                                                            {0x0001, 0x7FFFFFFFFFFFFFFF},  // unnormal
                                                            {0x0000, 0x8000000000000000},  // pseudo-denormal
                                                            {0x7FFE, 0xFFFFFFFFFFFFFFFF},
                                                            {0x403E, 0x8000000000000000},
                                                            {0x4000, 0xC90FDAA22168C235}}};

/// Noise and special values mixed; cases copy windows of it, which is cheaper than making it anew.
constexpr std::size_t kPoolSize = std::size_t{256} << 10;

const std::vector<u8>& pool() {
  static const std::vector<u8> kPool = [] {
    std::vector<u8> bytes(kPoolSize);
    test::Random random(0x900D);
    for (std::size_t at = 0; at < kPoolSize; at += 64) {
      for (std::size_t i = 0; i < 64; i += 8) {
        const u64 word = random.next();
        std::memcpy(&bytes[at + i], &word, 8);
      }
      const u64 kind = random.below(8);
      for (std::size_t i = 0; i < 64; i += 8) {
        u64 word = 0;
        if (kind == 0)
          word = interesting_integer(random);
        else if (kind == 1)
          word = u64{random.pick(kSingles)} << 32 | random.pick(kSingles);
        else if (kind == 2)
          word = random.pick(kDoubles);
        else if (kind == 3)
          word = std::bit_cast<u64>(static_cast<double>(random.between(-1000, 1000)) / 16);
        else if (kind == 4)
          word = u64{std::bit_cast<u32>(static_cast<float>(random.between(-99, 99)))} << 32 |
                 std::bit_cast<u32>(static_cast<float>(random.between(-99, 99)));
        else
          break;
        std::memcpy(&bytes[at + i], &word, 8);
      }
    }
    return bytes;
  }();
  return kPool;
}

void fill_x87(cpu::FpuState& fpu, test::Random& random) {
  for (auto& reg : fpu.st) {
    auto [exponent, significand] = random.pick(kExtended);
    if (random.percent(50)) {
      exponent = static_cast<u16>(0x3FFF + random.between(-70, 70)) | static_cast<u16>(random.below(2) << 15);
      significand = random.next() | u64{1} << 63;
      if (random.percent(40)) significand &= ~u64{0} << random.below(64);
      significand |= u64{1} << 63;
    }
    std::memcpy(reg.data(), &significand, 8);
    std::memcpy(reg.data() + 8, &exponent, 2);
  }
  // TOP is random; mostly half of the stack is in use, so that it neither over- nor underflows at once.
  const u64 top = random.below(8);
  fpu.fsw = static_cast<u16>(top << 11);
  const unsigned used = random.percent(80) ? 0x0F : static_cast<unsigned>(random.below(256));
  fpu.ftw = std::rotl(static_cast<u8>(used), static_cast<int>(top));
  const u64 control = random.below(4) << 10 | (random.percent(70) ? 3U : random.below(4)) << 8;
  fpu.fcw = static_cast<u16>(0x40 | control | (random.percent(85) ? 0x3FU : random.below(64)));
}

void fill_vectors(cpu::FpuState& fpu, test::Random& random) {
  for (unsigned i = 0; i < fpu.zmm.size(); ++i) {
    if (!is_index_vector(i)) {
      fill_interesting(fpu.zmm[i], random);
      continue;
    }
    const bool quad = random.percent(50);
    for (std::size_t at = 0; at < 64; at += quad ? 8 : 4) {
      const i64 index = random.between(-100, 100);
      std::memcpy(&fpu.zmm[i][at], &index, quad ? 8 : 4);
    }
  }
  for (u64& mask : fpu.k) {
    const u64 kind = random.below(4);
    mask = kind == 0 ? ~u64{0} : kind == 1 ? random.below(256) : random.next();
  }
  const u64 rounding = random.below(4) << 13;
  const u64 flush = random.percent(15) ? random.below(2) << 15 | random.below(2) << 6 : 0;
  const u64 masks = random.percent(88) ? 0x1F80 : random.below(64) << 7;
  fpu.mxcsr = static_cast<u32>(rounding | flush | masks | (random.percent(20) ? random.below(64) : 0));
}

}  // namespace

u64 interesting_integer(test::Random& random) {
  const u64 kind = random.below(10);
  if (kind < 3) {
    constexpr std::array<unsigned, 8> kWidths = {7, 8, 15, 16, 31, 32, 63, 64};
    const unsigned width = random.pick(kWidths);
    return (width == 64 ? 0 : u64{1} << width) + static_cast<u64>(random.between(-2, 2));
  }
  if (kind < 5) return static_cast<u64>(random.between(-130, 130));
  if (kind == 5) return u64{1} << random.below(64);
  if (kind == 6) return ~u64{0} << random.below(64);
  if (kind == 7) return random.next() & 0xFFFF'FFFF;
  return random.next();
}

void fill_interesting(std::span<u8> to, test::Random& random) {
  const std::size_t at = random.below(kPoolSize - to.size()) & ~std::size_t{3};
  std::copy_n(pool().begin() + static_cast<std::ptrdiff_t>(at), to.size(), to.begin());
}

u64 interesting_address(unsigned size, test::Random& random) {
  const u64 alignment = std::bit_ceil(u64{std::max(size, 1U)});
  const u64 kind = random.below(1000);
  const auto around = [&](u64 edge) { return edge - random.below(std::max(size, 2U) + 2); };
  if (kind < 550) return (kDataBase + random.below(2 * kPageSize - alignment)) & ~(alignment - 1);
  if (kind < 800) return kDataBase + random.below(2 * kPageSize - size);
  if (kind < 860) return around(kDataBase + kPageSize);
  if (kind < 890) return (kIslandBase + random.below(kPageSize - alignment)) & ~(alignment - 1);
  if (kind < 925) return kStackBase + random.below(kPageSize - size);
  if (kind < 970) return (kReadOnlyBase + random.below(kPageSize - alignment)) & ~(alignment - 1);
  constexpr std::array<u64, 8> kEdges = {kDataBase,   kReadOnlyBase,           kReadOnlyBase + kPageSize,
                                         kIslandBase, kIslandBase + kPageSize, kStackBase + kPageSize,
                                         kCodeBase,   kCodeBase + kCodeSize};
  if (kind < 990) return around(random.pick(kEdges));
  // Not canonical, at the end of the canonical lower half, at the ends of the address space.
  constexpr std::array<u64, 6> kWild = {
      0x0000'8000'0000'0000, 0x8000'0000'0000'0000, 0xFFFF'7FFF'FFFF'FFF0, 0x1234'5678'9ABC'DEF0, 0,
      ~u64{0} - 15};
  return random.pick(kWild) + random.below(16);
}

void fill_registers(Registers& registers, test::Random& random) {
  for (u64& value : registers.gpr) {
    value = random.percent(35) ? interesting_address(8, random) : interesting_integer(random);
  }
  registers.gpr[x86::kRsp] =
      kStackBase + 0x800 + (random.percent(90) ? random.below(32) * 8 : random.below(256));
  registers.rflags = x86::rflags::kFixed1 | x86::rflags::IF | (random.next() & x86::rflags::kArithmetic);
  if (random.percent(30)) registers.rflags |= x86::rflags::DF;
  if (random.percent(4)) registers.rflags |= x86::rflags::AC;
  registers.fs_base = random.percent(50) ? kDataBase : random.below(0x1000);
  registers.gs_base = random.percent(50) ? kIslandBase : interesting_address(8, random) & 0x7FFF'FFFF'FFFF;
  fill_x87(registers.fpu, random);
  fill_vectors(registers.fpu, random);
}

}  // namespace vert::diff

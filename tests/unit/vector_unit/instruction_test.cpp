// Every vector and x87 opcode that the host has, with random registers, contents and memory operands, against
// the host itself.
#include <algorithm>
#include <csignal>
#include <random>

#include <gtest/gtest.h>

#include "guest.hpp"

namespace vert::test {
namespace {

using Random = std::mt19937_64;

/// Doubles and floats that matter, as bits; else anything.
u64 interesting(Random& random) {
  static constexpr std::array<u64, 12> kValues = {
      0,
      0x8000000000000000,
      0x3FF0000000000000,
      0xC000000000000000,
      0x7FF0000000000000,
      0x7FF8000000000001,
      0x7FF0000000000001,
      0x0000000000000001,
      0x7FEFFFFFFFFFFFFF,
      0x3F8000003F800000,
      0x7F80000100000001,
      0x7F7FFFFFFF800000,
  };
  return random() % 3 == 0 ? kValues[random() % kValues.size()] : random();
}

void randomize(cpu::FpuState& fpu, Random& random) {
  for (auto& reg : fpu.zmm)
    for (std::size_t i = 0; i < 64; i += 8) {
      const u64 value = interesting(random);
      std::memcpy(reg.data() + i, &value, 8);
    }
  for (auto& k : fpu.k) {
    k = random();
    if (random() % 4 == 0) k = 0;
    if (random() % 4 == 0) k = ~u64{0};
  }
  for (auto& st : fpu.st) {
    const u64 significand = random() % 4 == 0 ? u64{1} << 63 : random() | u64{1} << 63;
    const u16 exponent = static_cast<u16>(random() % 4 == 0 ? random() : 0x3FF0 + random() % 64);
    st.fill(0);
    std::memcpy(st.data(), &significand, 8);
    std::memcpy(st.data() + 8, &exponent, 2);
  }
  const bool unmasked = random() % 4 == 0;
  fpu.mxcsr =
      static_cast<u32>(random() & 0xE07F) | (unmasked ? static_cast<u32>(random() & 0x1F80) : 0x1F80U);
  fpu.mxcsr &= ~(~(fpu.mxcsr >> 7) & 0x3FU);  // no flag set whose exception is unmasked
  fpu.fcw = static_cast<u16>(0x40 | (random() & 0xF00) | (unmasked ? random() & 0x3F : 0x3F));
  fpu.fsw = static_cast<u16>(random() & 0x7F00) | static_cast<u16>(random() & fpu.fcw & 0x3F);
  fpu.ftw = static_cast<u8>(random() % 2 == 0 ? 0xFF : random());
  fpu.fop = static_cast<u16>(random() & 0x7FF);
  fpu.fip = random() & 0x7FFFFFFFFFFF;
  fpu.fdp = random() & 0x7FFFFFFFFFFF;
  fpu.fcs = fpu.fds = 0;  // as XRSTOR64 leaves them
}

/// The bytes of one instruction, with the memory operand at [base + disp8].
struct Candidate {
  std::vector<u8> bytes;
  u8 base = x86::kRdi;
};

u8 random_byte(Random& random) { return static_cast<u8>(random()); }

/// ModRM with a register, or memory at [RDI] or [R15 + disp8]; then the immediates.
void finish(Candidate& candidate, bool memory, Random& random) {
  u8 modrm = random_byte(random);
  if (memory)
    modrm = static_cast<u8>((modrm & 0x38) | (random() % 2 == 0 ? 0x47 : 0x07));
  else
    modrm |= 0xC0;
  candidate.bytes.push_back(modrm);
  if (memory && (modrm & 0xC0) != 0) candidate.bytes.push_back(static_cast<u8>(random() % 4));
  while (candidate.bytes.size() < 15) candidate.bytes.push_back(random_byte(random));
}

Candidate legacy(unsigned map, u8 prefix, bool wide, u8 opcode, bool memory, Random& random) {
  Candidate candidate;
  if (prefix != 0) candidate.bytes.push_back(prefix);
  const auto rex = static_cast<u8>(0x40 | (wide ? 8 : 0) | (random() & 5));
  if (wide || random() % 2 == 0) candidate.bytes.push_back(rex);
  if (!candidate.bytes.empty() && candidate.bytes.back() == rex && (rex & 1) != 0) candidate.base = x86::kR15;
  candidate.bytes.push_back(0x0F);
  if (map == 2) candidate.bytes.push_back(0x38);
  if (map == 3) candidate.bytes.push_back(0x3A);
  candidate.bytes.push_back(opcode);
  finish(candidate, memory, random);
  return candidate;
}

Candidate vex(unsigned map, unsigned pp, bool w, bool l, u8 opcode, bool memory, Random& random) {
  Candidate candidate;
  const bool extended = random() % 2 == 0;
  if (extended) candidate.base = x86::kR15;
  const u8 vvvv = random() % 3 == 0 ? u8{0x78} : static_cast<u8>(random() & 0x78);
  candidate.bytes = {0xC4, static_cast<u8>((random() & 0xC0) | (extended ? 0 : 0x20) | map),
                     static_cast<u8>((w ? 0x80 : 0) | vvvv | (l ? 4 : 0) | pp), opcode};
  finish(candidate, memory, random);
  return candidate;
}

Candidate evex(unsigned map, unsigned pp, bool w, unsigned ll, u8 opcode, bool memory, Random& random) {
  Candidate candidate;
  const bool extended = random() % 2 == 0;
  if (extended) candidate.base = x86::kR15;
  const bool no_vvvv = random() % 3 == 0;
  const u8 vvvv = no_vvvv ? u8{0x78} : static_cast<u8>(random() & 0x78);
  const u8 v2 = no_vvvv || random() % 2 == 0 ? 8 : 0;
  const u8 mask = random() % 3 == 0 ? u8{0} : static_cast<u8>(random() & 7);
  const u8 zeroing = mask != 0 && random() % 2 == 0 ? 0x80 : 0;
  const u8 b = random() % 3 == 0 ? 0x10 : 0;
  const u8 x = memory ? 0x40 : static_cast<u8>(random() & 0x40);
  candidate.bytes = {0x62, static_cast<u8>((random() & 0x90) | x | (extended ? 0 : 0x20) | map),
                     static_cast<u8>((w ? 0x80 : 0) | vvvv | 4 | pp),
                     static_cast<u8>(zeroing | ll << 5 | b | v2 | mask), opcode};
  finish(candidate, memory, random);
  return candidate;
}

Candidate x87(u8 opcode, bool memory, Random& random) {
  Candidate candidate;
  candidate.bytes = {opcode};
  finish(candidate, memory, random);
  return candidate;
}

class InstructionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if ((guest_.state.xcr0 & x86::xcr0::kAvx512) == 0) GTEST_SKIP() << "the host lacks AVX-512";
  }
  /// False if it is no instruction of the unit's, or one that other tests look at.
  bool try_candidate(const Candidate& candidate);
  void compare(const x86::Insn& insn, const cpu::CpuState& before, u64 shift);

  Guest guest_;
  Random random_{20240607};
  unsigned tried_ = 0;
  unsigned completed_ = 0;
  unsigned faulted_ = 0;
};

/// What cannot be compared: contents that hold addresses, vectors of addresses, system state.
bool excluded(const x86::Insn& insn) {
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_WRPKRU: return true;
    default: break;
  }
  switch (insn.isa_set) {
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
    case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVEOPT:
    case ZYDIS_ISA_SET_XSAVES: return true;
    default: return false;
  }
}

bool is_byte_mask(const x86::Insn& insn) {
  return insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
         insn.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

bool is_made_of_parts(const x86::Insn& insn) {
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return true;
    default: return is_byte_mask(insn) || (insn.bytes[0] == 0x62 && (insn.bytes[3] & 7) != 0);
  }
}

std::string hex(std::span<const u8> bytes) {
  std::string text;
  for (const u8 value : bytes) text += fmt::format("{:02x} ", value);
  return text;
}

bool InstructionTest::try_candidate(const Candidate& candidate) {
  x86::Insn insn;
  if (x86::decode(candidate.bytes, x86::CodeSize::k64, insn) != x86::DecodeStatus::kOk) return false;
  if (!interp::VectorUnit::handles(insn) || !guest_.model().allows(insn, x86::CodeSize::k64) ||
      excluded(insn))
    return false;
  ++tried_;
  cpu::CpuState& state = guest_.state;
  for (auto& gpr : state.gpr) gpr = random_();
  state.rflags = (random_() & x86::rflags::kArithmetic) | 0x202;
  randomize(state.fpu, random_);
  for (std::size_t i = 0; i < kPageSize; i += 8) {
    const u64 value = interesting(random_);
    std::memcpy(guest_.data() + i, &value, 8);
  }
  std::memcpy(NativeOracle::instance().page(), guest_.data(), kPageSize);

  u64 offset = random_() % 16 * 64;
  if (random_() % 8 == 0) offset += random_() % 64;
  if (random_() % 6 == 0) offset = kPageSize - random_() % 80;
  state.gpr[x86::kRdi] = state.gpr[x86::kR15] = Guest::kData + offset;
  // The address of memory differs between host and guest: it must not be a value as well.
  const auto& operands = insn.operands;
  const bool memory = is_byte_mask(insn) || std::ranges::any_of(operands, [](const auto& operand) {
                        return operand.kind == x86::OperandKind::kMemory;
                      });
  const bool address_is_value =
      memory && std::ranges::any_of(operands, [](const auto& o) {
        return o.kind == x86::OperandKind::kGpr && (o.reg == x86::kRdi || o.reg == x86::kR15);
      });
  if (address_is_value) return false;
  const u64 shift = reinterpret_cast<u64>(NativeOracle::instance().page()) - Guest::kData;
  compare(insn, state, memory ? shift : 0);
  return true;
}

/// The host's signal as the fault it came from.
cpu::MaybeFault as_fault(const NativeOutcome& outcome, u64 shift) {
  switch (outcome.signal) {
    case 0: return {};
    case SIGILL: return x86::Fault::ud();
    case SIGFPE: return x86::Fault::xm();
    default: break;
  }
  if (outcome.code == SI_KERNEL) return x86::Fault::gp();
  return x86::Fault::page(0, outcome.address - shift);
}

void InstructionTest::compare(const x86::Insn& insn, const cpu::CpuState& before, u64 shift) {
  cpu::CpuState native = before;
  native.gpr[x86::kRdi] += shift;
  native.gpr[x86::kR15] += shift;
  const cpu::CpuState start = before;
  const auto expected = as_fault(NativeOracle::instance().run(insn.encoding(), native), shift);
  auto fault = guest_.execute(insn.encoding());

  SCOPED_TRACE(fmt::format("{} [{}] offset {:#x} mxcsr {:#x} fcw {:#x} fsw {:#x}",
                           ZydisMnemonicGetString(insn.mnemonic), hex(insn.encoding()),
                           start.gpr[x86::kRdi] - Guest::kData, start.fpu.mxcsr, start.fpu.fcw,
                           start.fpu.fsw));
  if (fault && fault->vector == x86::kMF) fault->vector = x86::kXM;  // both are SIGFPE
  ASSERT_EQ(expected.has_value(), fault.has_value())
      << (expected ? +expected->vector : -1) << " " << (fault ? +fault->vector : -1);
  expected ? ++faulted_ : ++completed_;
  const cpu::CpuState& got = guest_.state;
  if (fault) {
    ASSERT_EQ(expected->vector, fault->vector);
    if (fault->vector == x86::kPF) {
      // Which byte of the page an access made of parts names is the processor's choice.
      const u64 exact = is_made_of_parts(insn) ? ~kPageOffsetMask : ~u64{0};
      ASSERT_EQ(expected->address & exact, fault->address & exact);
    }
  }
  if (native.gpr[x86::kRdi] == start.gpr[x86::kRdi] + shift) native.gpr[x86::kRdi] -= shift;
  if (native.gpr[x86::kR15] == start.gpr[x86::kR15] + shift) native.gpr[x86::kR15] -= shift;
  if (native.fpu.fip == NativeOracle::instance().instruction_address()) native.fpu.fip = Guest::kRip;
  if (native.fpu.fdp - shift - Guest::kData < 2 * kPageSize) native.fpu.fdp -= shift;
  ASSERT_EQ(native.rflags, got.rflags);
  ASSERT_EQ(native.gpr, got.gpr);
  for (std::size_t i = 0; i < 32; ++i) {
    if (native.fpu.zmm[i] == got.fpu.zmm[i]) continue;
    ASSERT_EQ(hex(native.fpu.zmm[i]), hex(got.fpu.zmm[i])) << "zmm" << i << " was " << hex(start.fpu.zmm[i]);
  }
  ASSERT_EQ(native.fpu.k, got.fpu.k);
  if (native.fpu.st != got.fpu.st) {
    for (std::size_t i = 0; i < 8; ++i) ASSERT_EQ(hex(native.fpu.st[i]), hex(got.fpu.st[i])) << "st" << i;
  }
  ASSERT_EQ(native.fpu.mxcsr, got.fpu.mxcsr);
  ASSERT_EQ(native.fpu.fcw, got.fpu.fcw);
  ASSERT_EQ(native.fpu.fsw, got.fpu.fsw);
  ASSERT_EQ(native.fpu.ftw, got.fpu.ftw);
  ASSERT_PRED2(same_pointer, native.fpu.fop, got.fpu.fop);
  ASSERT_PRED2(same_pointer, native.fpu.fip, got.fpu.fip);
  ASSERT_PRED2(same_pointer, native.fpu.fdp, got.fpu.fdp);
  // The host stores 80 bits as two pieces, of which the first may be written when the second faults.
  if (fault && insn.operands[0].size == 10) return;
  const bool environment = insn.mnemonic == ZYDIS_MNEMONIC_FNSTENV || insn.mnemonic == ZYDIS_MNEMONIC_FNSAVE;
  for (std::size_t i = 0; i < kPageSize; ++i) {
    const u8 native_byte = NativeOracle::instance().page()[i];
    if (environment && native_byte == 0) continue;  // perhaps lost, as same_pointer() says
    ASSERT_EQ(native_byte, guest_.data()[i]) << "at " << i;
  }
}

constexpr std::array<u8, 4> kPrefixes = {0, 0x66, 0xF3, 0xF2};
constexpr int kRounds = 12;

TEST_F(InstructionTest, Legacy) {
  for (unsigned map = 1; map <= 3; ++map)
    for (const u8 prefix : kPrefixes)
      for (unsigned opcode = 0; opcode < 256; ++opcode)
        for (int round = 0; round < kRounds; ++round) {
          if (map == 1 && (opcode == 0x38 || opcode == 0x3A)) continue;  // those are maps 2 and 3
          try_candidate(
              legacy(map, prefix, round % 4 == 3, static_cast<u8>(opcode), round % 2 == 1, random_));
          if (HasFatalFailure()) return;
        }
  EXPECT_GT(completed_, 3000U);
  EXPECT_GT(faulted_, 300U);
}

TEST_F(InstructionTest, Vex) {
  for (unsigned map = 1; map <= 3; ++map)
    for (unsigned pp = 0; pp < 4; ++pp)
      for (unsigned opcode = 0; opcode < 256; ++opcode)
        for (int round = 0; round < 2 * kRounds; ++round) {
          try_candidate(vex(map, pp, (round & 2) != 0, (round & 4) != 0, static_cast<u8>(opcode),
                            round % 2 == 1, random_));
          if (HasFatalFailure()) return;
        }
  EXPECT_GT(completed_, 3000U);
  EXPECT_GT(faulted_, 300U);
}

TEST_F(InstructionTest, Evex) {
  for (unsigned map = 1; map <= 3; ++map)
    for (unsigned pp = 0; pp < 4; ++pp)
      for (unsigned opcode = 0; opcode < 256; ++opcode)
        for (int round = 0; round < 6 * kRounds; ++round) {
          try_candidate(evex(map, pp, (round & 2) != 0, static_cast<unsigned>(round / 4 % 3),
                             static_cast<u8>(opcode), round % 2 == 1, random_));
          if (HasFatalFailure()) return;
        }
  EXPECT_GT(completed_, 5000U);
  EXPECT_GT(faulted_, 500U);
}

TEST_F(InstructionTest, X87) {
  for (unsigned opcode = 0xD8; opcode <= 0xDF; ++opcode)
    for (int round = 0; round < 4000; ++round) {
      try_candidate(x87(static_cast<u8>(opcode), round % 2 == 1, random_));
      if (HasFatalFailure()) return;
    }
  EXPECT_GT(completed_, 10000U);
}

}  // namespace
}  // namespace vert::test

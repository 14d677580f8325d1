// Each feature taken away from a CPU model: CPUID, instructions, control bits and MSRs go together.
#include <algorithm>

#include "insn/system/system_test.hpp"
#include "x86/registers.hpp"

namespace vert::test {
namespace {

namespace cr4 = x86::cr4;
namespace efer = x86::efer;
namespace xcr0 = x86::xcr0;

/// What there is only with a feature. Instructions find an address of RAM in each register but RCX, which is
/// 0.
struct Gated {
  std::string_view feature;
  std::vector<std::vector<u8>> instructions = {};
  u64 cr4 = 0;
  u64 efer = 0;
  u64 xcr0 = 0;
  std::vector<u32> msrs = {};
};

const std::vector<Gated> kGated = {
    {"FPU", {{0xD9, 0xEE}}},  // fldz
    {"DE", {}, cr4::DE},
    {"PSE", {}, cr4::PSE},
    {"TSC", {{0x0F, 0x31}}, cr4::TSD, 0, 0, {0x10}},  // rdtsc
    {"MSR", {{0x0F, 0x32}}},                          // rdmsr
    {"PAE", {}, cr4::PAE},
    {"MCE", {}, cr4::MCE},
    {"CX8", {{0x0F, 0xC7, 0x0B}}},  // cmpxchg8b [rbx]
    {"APIC", {}, 0, 0, 0, {0x1B}},
    {"SEP", {{0x0F, 0x34}}, 0, 0, 0, {0x174, 0x175, 0x176}},  // sysenter
    {"MTRR", {}, 0, 0, 0, {0xFE, 0x200, 0x250, 0x2FF}},
    {"PGE", {}, cr4::PGE},
    {"MCA", {}, 0, 0, 0, {0x179, 0x17A}},
    {"CMOV", {{0x0F, 0x44, 0xC1}}},
    {"PAT", {}, 0, 0, 0, {0x277}},
    {"PSE36"},
    {"CLFSH", {{0x0F, 0xAE, 0x3B}}},                                     // clflush [rbx]
    {"MMX", {{0x0F, 0x6F, 0xC1}}},                                       // movq mm0, mm1
    {"FXSR", {{0x0F, 0xAE, 0x03}}, cr4::OSFXSR},                         // fxsave [rbx]
    {"SSE", {{0x0F, 0x58, 0xC1}, {0x0F, 0xAE, 0x1B}}, cr4::OSXMMEXCPT},  // addps; stmxcsr [rbx]
    {"SSE2", {{0x66, 0x0F, 0x58, 0xC1}}},                                // addpd
    {"SS"},
    {"SSE3", {{0xF2, 0x0F, 0xD0, 0xC1}}},  // addsubps
    {"PCLMULQDQ", {{0x66, 0x0F, 0x3A, 0x44, 0xC1, 0x00}}},
    {"MONITOR", {{0x0F, 0x01, 0xC8}, {0x0F, 0x01, 0xC9}}},  // monitor; mwait
    {"SSSE3", {{0x66, 0x0F, 0x38, 0x00, 0xC1}}},            // pshufb
    {"FMA", {{0xC4, 0xE2, 0x71, 0x98, 0xC2}}},              // vfmadd132ps
    {"CMPXCHG16B", {{0x48, 0x0F, 0xC7, 0x0B}}},
    {"PCID", {}, cr4::PCIDE},
    {"SSE4_1", {{0x66, 0x0F, 0x38, 0x10, 0xC1}}},                                  // pblendvb
    {"SSE4_2", {{0x66, 0x0F, 0x38, 0x37, 0xC1}, {0xF2, 0x0F, 0x38, 0xF1, 0xC1}}},  // pcmpgtq; crc32
    {"X2APIC"},  // its mode: apic_base_test.cpp
    {"MOVBE", {{0x0F, 0x38, 0xF0, 0x03}}},
    {"POPCNT", {{0xF3, 0x0F, 0xB8, 0xC1}}},
    {"TSC_DEADLINE", {}, 0, 0, 0, {0x6E0}},
    {"AES", {{0x66, 0x0F, 0x38, 0xDC, 0xC1}}},                          // aesenc
    {"XSAVE", {{0x0F, 0x01, 0xD0}, {0x0F, 0xAE, 0x23}}, cr4::OSXSAVE},  // xgetbv; xsave [rbx]
    {"AVX", {{0xC5, 0xFC, 0x58, 0xC1}}, 0, 0, xcr0::AVX},               // vaddps
    {"F16C", {{0xC4, 0xE2, 0x79, 0x13, 0xC1}}},                         // vcvtph2ps
    {"RDRAND", {{0x0F, 0xC7, 0xF0}}},
    {"HYPERVISOR"},
    {"ARAT"},
    {"FSGSBASE", {{0xF3, 0x48, 0x0F, 0xAE, 0xC0}}, cr4::FSGSBASE},  // rdfsbase
    {"TSC_ADJUST", {}, 0, 0, 0, {0x3B}},
    {"BMI1", {{0xC4, 0xE2, 0x78, 0xF3, 0xC9}}},  // blsr
    {"AVX2", {{0xC5, 0xFD, 0xFE, 0xC1}}},        // vpaddd ymm
    {"FDP_EXCPTN_ONLY"},
    {"SMEP", {}, cr4::SMEP},
    {"BMI2", {{0xC4, 0xE2, 0x7B, 0xF7, 0xC1}}},  // shrx
    {"ERMS"},
    {"INVPCID", {{0x66, 0x0F, 0x38, 0x82, 0x0B}}},
    {"ZERO_FCS_FDS"},
    {"AVX512F", {{0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1}}, 0, 0, xcr0::kAvx512},  // vaddps zmm
    {"AVX512DQ", {{0x62, 0xF1, 0xFD, 0x48, 0x78, 0xC1}}},                      // vcvttpd2uqq
    {"RDSEED", {{0x0F, 0xC7, 0xF8}}},
    {"ADX", {{0x66, 0x0F, 0x38, 0xF6, 0xC1}}},                // adcx
    {"SMAP", {{0x0F, 0x01, 0xCA}}, cr4::SMAP},                // clac
    {"AVX512_IFMA", {{0x62, 0xF2, 0xF5, 0x48, 0xB4, 0xC2}}},  // vpmadd52luq
    {"CLFLUSHOPT", {{0x66, 0x0F, 0xAE, 0x3B}}},
    {"CLWB", {{0x66, 0x0F, 0xAE, 0x33}}},
    {"AVX512CD", {{0x62, 0xF2, 0x7D, 0x48, 0xC4, 0xC1}}},     // vpconflictd
    {"SHA", {{0x0F, 0x38, 0xC8, 0xC1}}},                      // sha1nexte
    {"AVX512BW", {{0x62, 0xF1, 0x75, 0x48, 0xFC, 0xC2}}},     // vpaddb zmm
    {"AVX512VL", {{0x62, 0xF1, 0x7C, 0x08, 0x58, 0xC1}}},     // vaddps xmm
    {"AVX512_VBMI", {{0x62, 0xF2, 0x75, 0x48, 0x8D, 0xC2}}},  // vpermb
    {"UMIP", {}, cr4::UMIP},
    {"PKU", {{0x0F, 0x01, 0xEE}}, cr4::PKE, 0, xcr0::PKRU},        // rdpkru
    {"AVX512_VBMI2", {{0x62, 0xF2, 0x75, 0x48, 0x71, 0xC2}}},      // vpshldvd
    {"GFNI", {{0x66, 0x0F, 0x38, 0xCF, 0xC1}}},                    // gf2p8mulb
    {"VAES", {{0xC4, 0xE2, 0x75, 0xDC, 0xC2}}},                    // vaesenc ymm
    {"VPCLMULQDQ", {{0xC4, 0xE3, 0x75, 0x44, 0xC2, 0x00}}},        // ymm
    {"AVX512_VNNI", {{0x62, 0xF2, 0x75, 0x48, 0x50, 0xC2}}},       // vpdpbusd zmm
    {"AVX512_BITALG", {{0x62, 0xF2, 0x7D, 0x48, 0x54, 0xC1}}},     // vpopcntb
    {"AVX512_VPOPCNTDQ", {{0x62, 0xF2, 0x7D, 0x48, 0x55, 0xC1}}},  // vpopcntd
    {"LA57", {}, cr4::LA57},
    {"RDPID", {{0xF3, 0x0F, 0xC7, 0xF8}}},
    {"FSRM"},
    {"AVX512_VP2INTERSECT", {{0x62, 0xF2, 0x77, 0x48, 0x68, 0xC2}}},
    {"AVX512_FP16", {{0x62, 0xF5, 0x7C, 0x48, 0x58, 0xC1}}},  // vaddph
    {"SPEC_CTRL", {}, 0, 0, 0, {0x48}},
    {"ARCH_CAPABILITIES", {}, 0, 0, 0, {0x10A}},
    {"AVX_VNNI", {{0xC4, 0xE2, 0x75, 0x50, 0xC2}}},           // vpdpbusd ymm
    {"AVX512_BF16", {{0x62, 0xF2, 0x76, 0x48, 0x52, 0xC2}}},  // vdpbf16ps
    {"BHI_CTRL"},
    {"XSAVEOPT", {{0x0F, 0xAE, 0x33}}},
    {"XSAVEC", {{0x0F, 0xC7, 0x23}}},
    {"XGETBV1"},  // XGETBV with ECX = 1 is #GP without: below
    {"XSAVES", {{0x0F, 0xC7, 0x2B}}, 0, 0, 0, {0xDA0}},
    {"LAHF64", {{0x9F}, {0x9E}}},
    {"LZCNT"},                              // BSR without
    {"SSE4A", {{0x66, 0x0F, 0x79, 0xC1}}},  // extrq
    {"MISALIGNSSE"},
    {"PREFETCHW"},  // a NOP without
    {"SYSCALL", {{0x0F, 0x05}, {0x48, 0x0F, 0x07}}, 0, efer::SCE, 0, {0xC000'0081, 0xC000'0082, 0xC000'0084}},
    {"NX", {}, 0, efer::NXE},
    {"PDPE1GB"},
    {"RDTSCP", {{0x0F, 0x01, 0xF9}}},
    {"LM", {}, 0, efer::LME | efer::LMA, 0, {0xC000'0100, 0xC000'0102}},
    {"INVARIANT_TSC"},
    {"CLZERO", {{0x0F, 0x01, 0xFC}}},
    {"TOPOLOGY_EXTENSIONS"},
    {"MMX_EXT"},
    {"RSTR_FP_ERR_PTRS"},
    {"IBPB"},
    {"EFER_LMSLE_UNSUPPORTED"},
    {"SSB_NO"},
    {"BTC_NO"},
    {"IBPB_RET"},
    {"LFENCE_SERIALIZING"},
    {"NULL_SELECT_CLEARS_BASE"},
    {"AUTOMATIC_IBRS", {}, 0, efer::AIBRSE},
    {"NO_SMM_CTL_MSR"},
    {"SRSO_NO"},
    {"SRSO_USER_KERNEL_NO"},
    {"TSA_SQ_NO"},
    {"TSA_L1_NO"},
    {"TSA_NO"},
};

const Gated& row_of(std::string_view feature) {
  static const Gated kNone{};
  const auto row = std::ranges::find(kGated, feature, &Gated::feature);
  return row == kGated.end() ? kNone : *row;
}

/// Nothing if this host cannot run the model.
std::optional<x86::CpuModel> model(const std::string& name, x86::Vendor vendor = x86::Vendor::kIntel) {
  x86::CpuIdentity identity = x86::CpuIdentity::intel("vert host");
  identity.vendor = vendor;
  auto made = x86::CpuModel::make(name, identity);
  return made ? std::optional(*made) : std::nullopt;
}

/// Where CPUID tells of a feature.
struct Place {
  std::string_view feature;
  u32 leaf;
  u32 subleaf;
  u32 x86::CpuidResult::*word;
  unsigned bit;
};
constexpr auto EAX = &x86::CpuidResult::eax;
constexpr auto EBX = &x86::CpuidResult::ebx;
constexpr auto ECX = &x86::CpuidResult::ecx;
constexpr auto EDX = &x86::CpuidResult::edx;
const std::vector<Place> kPlaces = {
#define VERT_FEATURE(name, leaf, subleaf, reg, bit) {#name, leaf, subleaf, reg, bit},
#include "x86/features.inc"
#undef VERT_FEATURE
};

bool shows(const x86::CpuModel& cpu, const Place& place) {
  const x86::CpuidResult answer = cpu.cpuid({.leaf = place.leaf, .subleaf = place.subleaf});
  return (answer.*place.word >> place.bit & 1) != 0;
}

TEST(FeatureTest, EachHasItsRow) {
  for (const std::string_view feature : x86::CpuModel::feature_names())
    EXPECT_EQ(row_of(feature).feature, feature) << "what is there only with it?";
}

TEST(FeatureTest, CpuidShowsItOrNot) {
  for (const Place& place : kPlaces) {
    SCOPED_TRACE(place.feature);
    constexpr u32 kOnlyAmd = 0x8000'0009;  // leaves from here on
    const auto vendor = place.leaf >= kOnlyAmd ? x86::Vendor::kAmd : x86::Vendor::kIntel;
    const auto without = model(fmt::format("host,-{}", place.feature), vendor);
    ASSERT_TRUE(without.has_value());
    EXPECT_FALSE(shows(*without, place));
    const auto with = model(fmt::format("host,+{}", place.feature), vendor);
    if (with) {  // else this host's vector units lack it
      EXPECT_TRUE(shows(*with, place));
    }
  }
}

TEST(FeatureTest, ControlBitsAreReservedWithoutIt) {
  for (const Gated& row : kGated) {
    SCOPED_TRACE(row.feature);
    const auto without = model(fmt::format("host,-{}", row.feature));
    if (!without) continue;  // not a feature of this host's
    EXPECT_EQ(without->cr4_allowed() & row.cr4, 0U);
    EXPECT_EQ(without->efer_allowed() & row.efer, 0U);
    EXPECT_EQ(without->xcr0_allowed() & row.xcr0, 0U);
    const auto with = model(fmt::format("host,+{}", row.feature));
    if (!with) continue;
    EXPECT_EQ(with->cr4_allowed() & row.cr4, row.cr4);
    EXPECT_EQ(with->efer_allowed() & row.efer, row.efer);
    EXPECT_EQ(with->xcr0_allowed() & row.xcr0, row.xcr0);
  }
}

class FeatureOffTest : public testing::TestWithParam<std::string> {
 protected:
  static constexpr Gpa kCode{0x18'0000};
  static constexpr Gpa kData{0x19'0000};

  /// Runs one instruction in the kernel; the vector that it raised.
  static std::optional<u8> raised(GuestRig& rig, std::span<const u8> instruction, u32 ecx) {
    std::vector<u8> code(instruction.begin(), instruction.end());
    code.push_back(0xF4);  // hlt
    rig.write(kCode, code);
    cpu::CpuState state =
        rig.initial_state(GuestRig::direct(kCode), GuestRig::kernel_stack_top() - 0x1000, 0);
    for (unsigned i = 0; i < x86::kGprCount; ++i)
      if (i != x86::kRsp) state.gpr[i] = GuestRig::direct(kData);
    state.gpr[x86::kRcx] = ecx;
    state.cr4 |= cr4::PKE & rig.model().cr4_allowed();
    state.msr.lstar = GuestRig::stub(0xFF);
    rig.set_state(state);
    EXPECT_EQ(rig.run(1000).reason, cpu::Exit::kHalt);
    const auto caught = rig.caught();
    return caught ? std::optional(caught->vector) : std::nullopt;
  }
};

TEST_P(FeatureOffTest, ItsInstructionsAreUndefinedAndItsMsrsAreGone) {
  constexpr std::array<u8, 2> kRdmsr = {0x0F, 0x32};
  for (const Gated& row : kGated) {
    if (row.feature == "LM" || row.feature == "PAE") continue;  // without, this rig's 64-bit mode is none
    if (row.instructions.empty() && row.msrs.empty()) continue;
    SCOPED_TRACE(row.feature);
    const std::string off = fmt::format("host,-{}", row.feature);
    const std::string on = fmt::format("host,+{}", row.feature);
    ASSERT_TRUE(model(off).has_value());
    GuestRig without(GetParam(), *model(off));
    for (const auto& each : row.instructions) EXPECT_EQ(raised(without, each, 0), x86::kUD);
    for (const u32 msr : row.msrs) EXPECT_EQ(raised(without, kRdmsr, msr), x86::kGP) << std::hex << msr;
    if (!model(on)) continue;  // this host's vector units lack it
    GuestRig with(GetParam(), *model(on));
    for (const auto& each : row.instructions) EXPECT_NE(raised(with, each, 0), x86::kUD);
    for (const u32 msr : row.msrs) EXPECT_EQ(raised(with, kRdmsr, msr), std::nullopt) << std::hex << msr;
  }
}

TEST_P(FeatureOffTest, XgetbvOfTheStateInUseFaults) {
  constexpr std::array<u8, 3> kXgetbv = {0x0F, 0x01, 0xD0};
  GuestRig without(GetParam(), 1, GuestRig::kRamSize, "host,-XGETBV1");
  EXPECT_EQ(raised(without, kXgetbv, 1), x86::kGP);
  GuestRig with(GetParam());
  EXPECT_EQ(raised(with, kXgetbv, 1), std::nullopt);
}

INSTANTIATE_TEST_SUITE_P(Engines, FeatureOffTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

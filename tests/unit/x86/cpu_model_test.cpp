// CPU models: what CPUID tells, what the decoder's gate lets through, and that the two agree.
#include "x86/cpu_model.hpp"

#include <gtest/gtest.h>
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/host_tsc.hpp"
#include "x86/registers.hpp"

namespace vert::test {
namespace {

using namespace x86;

/// The model, or nothing where the host lacks its vector units.
std::optional<CpuModel> model(std::string_view name) {
  auto made = CpuModel::make(name);
  if (!made) return std::nullopt;
  return *made;
}

bool allows(const CpuModel& cpu, std::vector<u8> bytes) {
  Insn insn;
  EXPECT_EQ(decode(bytes, CodeSize::k64, insn), DecodeStatus::kOk);
  return cpu.allows(insn, CodeSize::k64);
}

CpuidResult cpuid(const CpuModel& cpu, u32 leaf, u32 subleaf = 0) {
  return cpu.cpuid({.leaf = leaf, .subleaf = subleaf, .xcr0 = cpu.xcr0_allowed()});
}

/// What an Intel processor answers: of whom `host` takes over nothing.
CpuidResult intel_host(u32 leaf, u32 /*subleaf*/) {
  switch (leaf) {
    case 0: return {0x20, 0x756E6547, 0x6C65746E, 0x49656E69};  // "GenuineIntel"
    case 1: return {0x000C06F2, 0, 0, 0};
    case 0x80000002: return {0x65746E49, 0, 0, 0};
    default: return {};
  }
}

/// Recorded on a Zen 4 of 2 vCPUs under another hypervisor.
CpuidResult zen4_host(u32 leaf, u32 subleaf) {
  constexpr std::array<CpuidResult, 4> kCaches = {{
      {0x121, 0x01C0003F, 0x3F, 0},
      {0x122, 0x01C0003F, 0x3F, 0},
      {0x143, 0x01C0003F, 0x7FF, 2},
      {0x4163, 0x03C0003F, 0x7FFF, 1},
  }};
  switch (leaf) {
    case 0: return {0x1C, 0x68747541, 0x444D4163, 0x69746E65};  // "AuthenticAMD"
    case 1: return {0x00A10F11, 0x00020800, 0xFFFA3203, 0x178BFBFF};
    case 0x80000002: return {0x20444D41, 0x43595045, 0, 0};  // "AMD EPYC"
    case 0x80000005: return {0xFF48FF40, 0xFF48FF40, 0x20080140, 0x20080140};
    case 0x80000006: return {0x5C002200, 0x6C004200, 0x04006140, 0x0A009140};
    case 0x8000001D: return subleaf < kCaches.size() ? kCaches[subleaf] : CpuidResult{};
    default: return {};
  }
}

/// Model "host" on an AMD processor, whichever this host has.
CpuModel zen4_model() { return CpuModel::make("host", CpuIdentity::of_host(zen4_host)).value(); }

std::string vendor_string(const CpuidResult& leaf) {
  const std::array<u32, 3> words = {leaf.ebx, leaf.edx, leaf.ecx};
  return {reinterpret_cast<const char*>(words.data()), sizeof words};
}

std::string brand_string(const CpuModel& cpu) {
  std::string brand;
  for (u32 leaf = 0x80000002; leaf <= 0x80000004; ++leaf) {
    const CpuidResult part = cpuid(cpu, leaf);
    for (const u32 word : {part.eax, part.ebx, part.ecx, part.edx})
      brand.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  return brand.c_str();
}

class EveryModel : public ::testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override {
    const auto made = CpuModel::make(GetParam(), CpuIdentity::of_host(intel_host));
    if (!made) GTEST_SKIP() << "this host cannot run " << GetParam();
    cpu_ = *made;
  }
  CpuModel cpu_;
};

TEST_P(EveryModel, IsAnIntelOfThisName) {
  EXPECT_EQ(cpuid(cpu_, 0).eax, 0x1FU);
  EXPECT_EQ(vendor_string(cpuid(cpu_, 0)), "GenuineIntel");
  EXPECT_EQ(cpuid(cpu_, 1).eax, CpuIdentity::kIntelSignature);
  EXPECT_EQ(brand_string(cpu_), "vert " + std::string(GetParam()));
  EXPECT_EQ(cpuid(cpu_, 0x80000000), (CpuidResult{0x80000008, 0, 0, 0}));
}

TEST_P(EveryModel, HasWhatMakesGuestsCheap) {
  for (const Feature feature : {Feature::PCID,
                                Feature::INVPCID,
                                Feature::SMEP,
                                Feature::SMAP,
                                Feature::UMIP,
                                Feature::FSGSBASE,
                                Feature::NX,
                                Feature::PDPE1GB,
                                Feature::X2APIC,
                                Feature::TSC_DEADLINE,
                                Feature::RDRAND,
                                Feature::CMPXCHG16B,
                                Feature::XSAVE,
                                Feature::INVARIANT_TSC,
                                Feature::TSC_ADJUST,
                                Feature::ARAT,
                                Feature::ARCH_CAPABILITIES,
                                Feature::SPEC_CTRL,
                                Feature::HYPERVISOR,
                                Feature::RDTSCP})
    EXPECT_TRUE(cpu_.has(feature)) << int(feature);
  EXPECT_FALSE(cpu_.has(Feature::LA57));
  constexpr u64 kRdclNo = 1, kIbrsAll = 2, kMdsNo = 32, kBhiNo = 1 << 20;
  constexpr u64 kNeeded = kRdclNo | kIbrsAll | kMdsNo | kBhiNo;
  EXPECT_EQ(cpu_.arch_capabilities() & kNeeded, kNeeded);
}

TEST_P(EveryModel, CpuidShowsItsFeatures) {
  constexpr u32 kSse3 = 1, kX2apic = 1 << 21, kHypervisor = 1U << 31;
  EXPECT_EQ(cpuid(cpu_, 1).ecx & (kSse3 | kX2apic | kHypervisor), kSse3 | kX2apic | kHypervisor);
  EXPECT_EQ(cpuid(cpu_, 7).ebx >> 5 & 1, cpu_.has(Feature::AVX2));
  EXPECT_EQ(cpuid(cpu_, 7).ebx >> 16 & 1, cpu_.has(Feature::AVX512F));
  EXPECT_EQ(cpuid(cpu_, 0xD, 1).eax >> 3 & 1, cpu_.has(Feature::XSAVES));
  EXPECT_EQ(cpuid(cpu_, 0x80000001).edx >> 29 & 1, 1U);
  EXPECT_EQ(cpuid(cpu_, 0x80000007).edx, 1U << 8);
  EXPECT_EQ(cpuid(cpu_, 0x80000008).eax & 0xFFFF, cpu_.physical_bits() | 48U << 8);
  // No VMX, TSX, AMX, PMU.
  EXPECT_EQ(cpuid(cpu_, 1).ecx >> 5 & 1, 0U);
  EXPECT_EQ(cpuid(cpu_, 7).ebx & (1U << 4 | 1U << 11), 0U);
  EXPECT_EQ(cpuid(cpu_, 7).edx & (1U << 22 | 1U << 24 | 1U << 25), 0U);
  EXPECT_EQ(cpuid(cpu_, 0xA), CpuidResult{});
}

TEST_P(EveryModel, BitsThatFollowControlRegisters) {
  const auto leaf1 = [&](u64 cr4) { return cpu_.cpuid({.leaf = 1, .cr4 = cr4}).ecx >> 27 & 1; };
  EXPECT_EQ(leaf1(0), 0U);
  EXPECT_EQ(leaf1(cr4::OSXSAVE), 1U);
  const auto leaf7 = [&](u64 cr4) { return cpu_.cpuid({.leaf = 7, .cr4 = cr4}).ecx >> 4 & 1; };
  EXPECT_EQ(leaf7(0), 0U);
  EXPECT_EQ(leaf7(cr4::PKE), 1U);
  EXPECT_EQ(cpu_.cpuid({.leaf = 0, .misc_enable = 1 << 22}).eax, 2U);
  EXPECT_EQ(cpu_.cpuid({.leaf = 0x80000001, .misc_enable = u64{1} << 34}).edx >> 20 & 1, 0U);
}

TEST_P(EveryModel, LeavesBeyondTheLastAreTheHighestBasicOne) {
  for (const u32 leaf : {0x20U, 0x3FFF'FFFFU, 0x4000'0100U, 0x7FFF'FFFFU, 0x8000'0009U, 0xFFFF'FFFFU})
    EXPECT_EQ(cpuid(cpu_, leaf, 1), cpuid(cpu_, 0x1F, 1)) << leaf;
}

TEST_P(EveryModel, Topology) {
  const auto at = [&](u32 leaf, u32 subleaf, u32 id, u32 count) {
    return cpu_.cpuid({.leaf = leaf, .subleaf = subleaf, .apic_id = id, .vcpu_count = count});
  };
  for (const u32 leaf : {0xBU, 0x1FU}) {
    EXPECT_EQ(at(leaf, 0, 3, 6), (CpuidResult{0, 1, 0x100, 3}));
    EXPECT_EQ(at(leaf, 1, 3, 6), (CpuidResult{3, 6, 0x201, 3}));
    EXPECT_EQ(at(leaf, 2, 3, 6), (CpuidResult{0, 0, 2, 3}));
    EXPECT_EQ(at(leaf, 1, 0, 1).eax, 0U);
  }
  EXPECT_EQ(at(1, 0, 3, 6).ebx, 0x0308'0800U);
  EXPECT_EQ(at(1, 0, 3, 6).edx >> 28 & 1, 1U);
  EXPECT_EQ(at(1, 0, 0, 1).edx >> 28 & 1, 0U);
}

TEST_P(EveryModel, CachesAreConsistent) {
  for (u32 subleaf = 0; subleaf < 4; ++subleaf) {
    const CpuidResult cache = cpuid(cpu_, 4, subleaf);
    EXPECT_NE(cache.eax & 0x1F, 0U);
    EXPECT_EQ((cache.ebx & 0xFFF) + 1, 64U);
  }
  const CpuidResult l1 = cpuid(cpu_, 4, 0);
  EXPECT_EQ(((l1.ebx >> 22) + 1) * 64 * (l1.ecx + 1), 48U * 1024);
  EXPECT_EQ(cpuid(cpu_, 4, 4).eax & 0x1F, 0U);
}

TEST_P(EveryModel, XsaveSizes) {
  const CpuidResult leaf = cpuid(cpu_, 0xD, 0);
  EXPECT_EQ(leaf.eax, cpu_.xcr0_allowed());
  EXPECT_EQ(leaf.ebx, leaf.ecx);
  EXPECT_EQ(cpu_.cpuid({.leaf = 0xD, .xcr0 = 1}).ebx, 576U);
  for (u32 i = 2; i < 63; ++i) {
    const CpuidResult component = cpuid(cpu_, 0xD, i);
    EXPECT_EQ(component.eax != 0, (cpu_.xcr0_allowed() >> i & 1) != 0) << i;
    EXPECT_LE(component.eax == 0 ? 0 : component.ebx + component.eax, leaf.ecx) << i;
  }
}

TEST_P(EveryModel, TscFrequencyAsLinuxComputesIt) {
  const CpuidResult leaf = cpuid(cpu_, 0x15);
  ASSERT_NE(leaf.eax, 0U);
  const u32 crystal_khz = leaf.ecx / 1000;
  const u32 khz = crystal_khz * leaf.ebx / leaf.eax;  // in 32 bits, as Linux
  const double told = khz * 1000.0, real = static_cast<double>(cpu_.tsc_frequency());
  EXPECT_NEAR(told / real, 1.0, 2e-6);
  EXPECT_EQ(cpu_.tsc_frequency(), base::host_tsc_frequency());
  const CpuidResult hypervisor = cpuid(cpu_, 0x40000010);
  EXPECT_NEAR(hypervisor.eax * 1000.0 / real, 1.0, 1e-6);
  EXPECT_EQ(hypervisor.ebx, 1'000'000U);
  EXPECT_NEAR(cpuid(cpu_, 0x16).eax * 1e6 / real, 1.0, 1e-2);
}

TEST_P(EveryModel, GuestsFindKvmsClock) {
  const CpuidResult leaf = cpuid(cpu_, 0x40000000);
  EXPECT_EQ(leaf.eax, 0x40000010U);
  const std::array<u32, 3> signature = {leaf.ebx, leaf.ecx, leaf.edx};
  EXPECT_EQ(std::memcmp(signature.data(), "KVMKVMKVM\0\0\0", 12), 0);
  constexpr u32 kClockSource2 = 1U << 3;
  EXPECT_NE(cpuid(cpu_, 0x40000001).eax & kClockSource2, 0U);
}

TEST_P(EveryModel, ControlRegisterBitsFollowFeatures) {
  EXPECT_EQ((cpu_.cr4_allowed() & cr4::LA57) != 0, cpu_.has(Feature::LA57));
  EXPECT_EQ((cpu_.cr4_allowed() & cr4::PKE) != 0, cpu_.has(Feature::PKU));
  EXPECT_EQ((cpu_.cr4_allowed() & cr4::SMAP) != 0, cpu_.has(Feature::SMAP));
  EXPECT_EQ(cpu_.cr4_allowed() & (cr4::VME | cr4::PVI), 0U);
  EXPECT_EQ((cpu_.xcr0_allowed() & xcr0::AVX) != 0, cpu_.has(Feature::AVX));
  EXPECT_EQ(cpu_.efer_allowed(), efer::SCE | efer::LME | efer::LMA | efer::NXE);
}

TEST_P(EveryModel, BaseInstructionsAndHintsAreAllowed) {
  EXPECT_TRUE(allows(cpu_, {0x90}));
  EXPECT_TRUE(allows(cpu_, {0xF3, 0x0F, 0x1E, 0xFA}));        // ENDBR64
  EXPECT_TRUE(allows(cpu_, {0xF3, 0x48, 0x0F, 0x1E, 0xC8}));  // RDSSPQ
  EXPECT_TRUE(allows(cpu_, {0x66, 0x0F, 0x1A, 0xC0}));        // BNDMOV
  EXPECT_TRUE(allows(cpu_, {0x0F, 0x05}));                    // SYSCALL
  EXPECT_TRUE(allows(cpu_, {0x0F, 0x58, 0xC1}));              // ADDPS
  EXPECT_TRUE(allows(cpu_, {0xD8, 0xC1}));                    // FADD
  EXPECT_TRUE(allows(cpu_, {0x0F, 0x0D, 0x08}));              // PREFETCHW
  EXPECT_TRUE(allows(cpu_, {0xF3, 0x0F, 0xBC, 0xC0}));        // TZCNT, or BSF
}

TEST_P(EveryModel, UnknownSetsAreRefused) {
  EXPECT_FALSE(allows(cpu_, {0x0F, 0x01, 0xC1}));              // VMCALL
  EXPECT_FALSE(allows(cpu_, {0x0F, 0x01, 0xD8}));              // VMRUN
  EXPECT_FALSE(allows(cpu_, {0xC7, 0xF8, 0, 0, 0, 0}));        // XBEGIN
  EXPECT_FALSE(allows(cpu_, {0xF3, 0x0F, 0xAE, 0xE8}));        // INCSSPD
  EXPECT_FALSE(allows(cpu_, {0xC4, 0xE2, 0x78, 0x49, 0xC0}));  // TILERELEASE
  EXPECT_FALSE(allows(cpu_, {0x66, 0x0F, 0xAE, 0xF0}));        // TPAUSE
  EXPECT_FALSE(allows(cpu_, {0x0F, 0x01, 0xE8}));              // SERIALIZE
  EXPECT_FALSE(allows(cpu_, {0x0F, 0x01, 0xC8}));              // MONITOR
  EXPECT_FALSE(allows(cpu_, {0x0F, 0x37}));                    // GETSEC
}

INSTANTIATE_TEST_SUITE_P(Models, EveryModel,
                         ::testing::ValuesIn(CpuModel::names().begin(), CpuModel::names().end()),
                         [](const auto& named) {
                           std::string name(named.param);
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(AmdModel, KeepsTheHostsVendorSignatureAndBrand) {
  const CpuModel cpu = zen4_model();
  EXPECT_EQ(cpu.vendor(), Vendor::kAmd);
  EXPECT_EQ(vendor_string(cpuid(cpu, 0)), "AuthenticAMD");
  EXPECT_EQ(vendor_string(cpuid(cpu, 0x80000000)), "AuthenticAMD");
  EXPECT_EQ(cpuid(cpu, 1).eax, 0x00A10F11U);
  EXPECT_EQ(cpuid(cpu, 0x80000001).eax, 0x00A10F11U);
  EXPECT_EQ(brand_string(cpu), "AMD EPYC");
  EXPECT_EQ(cpu.identity().microcode_revision(), 0x0A1011FFU);
}

TEST(AmdModel, NamedModelsAreIntelsOnEveryHost) {
  const auto cpu = CpuModel::make("x86-64-v2", CpuIdentity::of_host(zen4_host));
  if (!cpu) GTEST_SKIP() << "this host cannot run x86-64-v2";
  EXPECT_EQ(cpu->vendor(), Vendor::kIntel);
  EXPECT_EQ(vendor_string(cpuid(*cpu, 0)), "GenuineIntel");
  EXPECT_EQ(cpuid(*cpu, 1).eax, CpuIdentity::kIntelSignature);
}

TEST(AmdModel, HasNoLeavesOfIntels) {
  const CpuModel cpu = zen4_model();
  EXPECT_EQ(cpuid(cpu, 0).eax, 0xDU);
  EXPECT_EQ(cpuid(cpu, 0x80000000).eax, 0x80000021U);
  for (const u32 leaf : {2U, 4U, 0xAU, 0xEU, 0x14U, 0x15U, 0x16U, 0x1FU, 0x20U, 0x7FFF'FFFFU, 0x8000'0022U})
    EXPECT_EQ(cpuid(cpu, leaf), CpuidResult{}) << leaf;
}

TEST(AmdModel, RepeatsTheFeaturesOfLeaf1) {
  const CpuModel cpu = zen4_model();
  constexpr u32 kRepeated = 0x0183F3FF;
  EXPECT_EQ(cpuid(cpu, 0x80000001).edx & kRepeated, cpuid(cpu, 1).edx & kRepeated);
  constexpr u32 kApic = 1U << 9;
  EXPECT_EQ(cpu.cpuid({.leaf = 0x80000001, .apic_enabled = false}).edx & kApic, 0U);
}

TEST(AmdModel, HasTheHostsCachesSharedByItsOwnVcpus) {
  const CpuModel cpu = zen4_model();
  const auto cache = [&cpu](u32 subleaf, u32 vcpus) {
    return cpu.cpuid({.leaf = 0x8000001D, .subleaf = subleaf, .vcpu_count = vcpus});
  };
  EXPECT_EQ(cpuid(cpu, 0x80000005), zen4_host(0x80000005, 0));
  EXPECT_EQ(cpuid(cpu, 0x80000006), zen4_host(0x80000006, 0));
  for (const u32 level1or2 : {0U, 1U, 2U}) EXPECT_EQ(cache(level1or2, 4), zen4_host(0x8000001D, level1or2));
  EXPECT_EQ(cache(3, 4), (CpuidResult{0x163 | 3U << 14, 0x03C0003F, 0x7FFF, 1}));
  EXPECT_EQ(cache(3, 1).eax >> 14, 0U);
  EXPECT_EQ(cache(4, 4), CpuidResult{});
}

TEST(AmdModel, Topology) {
  const CpuModel cpu = zen4_model();
  const auto at = [&cpu](u32 leaf, u32 subleaf, u32 id, u32 count) {
    return cpu.cpuid({.leaf = leaf, .subleaf = subleaf, .apic_id = id, .vcpu_count = count});
  };
  EXPECT_EQ(at(0xB, 0, 3, 6), (CpuidResult{0, 1, 0x100, 3}));
  EXPECT_EQ(at(0xB, 1, 3, 6), (CpuidResult{3, 6, 0x201, 3}));
  EXPECT_EQ(at(0x80000008, 0, 3, 6).ecx, 0x3005U);  // 6 cores, of whose ids 3 bits tell
  EXPECT_EQ(at(0x80000008, 0, 0, 1).ecx, 0U);
  EXPECT_EQ(at(0x8000001E, 0, 3, 6), (CpuidResult{3, 3, 0, 0}));
  constexpr u32 kCmpLegacy = 1U << 1;
  EXPECT_EQ(at(0x80000001, 0, 3, 6).ecx & kCmpLegacy, kCmpLegacy);
  EXPECT_EQ(at(0x80000001, 0, 0, 1).ecx & kCmpLegacy, 0U);
}

TEST(AmdModel, NeedsNoMitigations) {
  const CpuModel cpu = zen4_model();
  constexpr u32 kLfenceSerializing = 1U << 2, kNullSelectClearsBase = 1U << 6, kAutomaticIbrs = 1U << 8,
                kSrsoNo = 1U << 29;
  constexpr u32 kNeeded = kLfenceSerializing | kNullSelectClearsBase | kAutomaticIbrs | kSrsoNo;
  EXPECT_EQ(cpuid(cpu, 0x80000021).eax & kNeeded, kNeeded);
  constexpr u32 kTsaNo = 1U << 1 | 1U << 2 | 1U << 7;
  EXPECT_EQ(cpuid(cpu, 0x80000021).ecx, kTsaNo);
  constexpr u32 kSsbNo = 1U << 26, kBtcNo = 1U << 29, kIbpbRet = 1U << 30;
  EXPECT_EQ(cpuid(cpu, 0x80000008).ebx & (kSsbNo | kBtcNo | kIbpbRet), kSsbNo | kBtcNo | kIbpbRet);
  EXPECT_FALSE(cpu.has(Feature::ARCH_CAPABILITIES));
  EXPECT_FALSE(cpu.has(Feature::SPEC_CTRL));
  EXPECT_EQ(cpu.efer_allowed() & efer::AIBRSE, efer::AIBRSE);
}

TEST(CpuModel, LevelsAddWhatThePsAbiSays) {
  const auto v2 = model("x86-64-v2");
  if (!v2) GTEST_SKIP() << "this host cannot run x86-64-v2";
  EXPECT_TRUE(v2->has(Feature::SSE4_2));
  EXPECT_FALSE(v2->has(Feature::AVX));
  EXPECT_FALSE(v2->has(Feature::BMI1));
  EXPECT_TRUE(allows(*v2, {0xF3, 0x0F, 0xB8, 0xC0}));         // POPCNT
  EXPECT_FALSE(allows(*v2, {0xC5, 0xF8, 0x58, 0xC1}));        // VADDPS
  EXPECT_FALSE(allows(*v2, {0xC4, 0xE2, 0x78, 0xF2, 0xC1}));  // ANDN
  EXPECT_FALSE(allows(*v2, {0x0F, 0x38, 0xF0, 0x00}));        // MOVBE
  const auto v3 = model("x86-64-v3");
  if (!v3) GTEST_SKIP() << "this host cannot run x86-64-v3";
  EXPECT_TRUE(v3->has(Feature::MOVBE));
  EXPECT_FALSE(v3->has(Feature::AVX512F));
  EXPECT_TRUE(allows(*v3, {0xC5, 0xF8, 0x58, 0xC1}));
  EXPECT_FALSE(allows(*v3, {0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1}));  // VADDPS zmm
  const auto v4 = model("x86-64-v4");
  if (!v4) GTEST_SKIP() << "this host cannot run x86-64-v4";
  EXPECT_TRUE(allows(*v4, {0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1}));
  EXPECT_TRUE(allows(*v4, {0x62, 0xF1, 0x7C, 0x08, 0x58, 0xC1}));  // its 128-bit form: AVX512VL
  EXPECT_FALSE(v4->has(Feature::AVX512_VNNI));
}

TEST(CpuModel, TzcntIsBsfWhereThereIsNoBmi1) {
  const auto cpu = model("x86-64-v2");
  if (!cpu) GTEST_SKIP() << "this host cannot run x86-64-v2";
  Insn tzcnt, lzcnt;
  ASSERT_EQ(decode(std::vector<u8>{0xF3, 0x0F, 0xBC, 0xC0}, CodeSize::k64, tzcnt), DecodeStatus::kOk);
  ASSERT_EQ(decode(std::vector<u8>{0xF3, 0x0F, 0xBD, 0xC0}, CodeSize::k64, lzcnt), DecodeStatus::kOk);
  cpu->legacy_form(tzcnt);
  cpu->legacy_form(lzcnt);
  EXPECT_EQ(tzcnt.mnemonic, ZYDIS_MNEMONIC_BSF);
  EXPECT_EQ(lzcnt.mnemonic, ZYDIS_MNEMONIC_BSR);
}

TEST(CpuModel, FeaturesCanBeAddedAndTakenAway) {
  const auto cpu = model("host,+LA57,+PKU,-RDSEED");
  ASSERT_TRUE(cpu.has_value());
  EXPECT_TRUE(cpu->has(Feature::LA57));
  EXPECT_FALSE(cpu->has(Feature::RDSEED));
  EXPECT_EQ(cpuid(*cpu, 0x80000008).eax >> 8 & 0xFF, 57U);
  EXPECT_NE(cpu->cr4_allowed() & cr4::LA57, 0U);
  EXPECT_NE(cpu->xcr0_allowed() & xcr0::PKRU, 0U);
  const auto without = model("host,-XSAVE");
  ASSERT_TRUE(without.has_value());
  EXPECT_FALSE(without->has(Feature::AVX));
  EXPECT_FALSE(without->has(Feature::AVX512_VNNI));
  EXPECT_EQ(without->xcr0_allowed(), xcr0::X87 | xcr0::SSE);
  EXPECT_EQ(cpuid(*without, 0xD), CpuidResult{});
}

TEST(CpuModel, RefusesUnknownNames) {
  for (const char* name :
       {"", "x86-64-v1", "x86-64-v", "Host", "host,", "host,LA57", "host,+NOPE", "host,+LA57,"})
    EXPECT_FALSE(CpuModel::make(name).has_value()) << name;
  EXPECT_NE(CpuModel::make("pentium").error().message.find("x86-64-v3"), std::string::npos);
}

}  // namespace
}  // namespace vert::test

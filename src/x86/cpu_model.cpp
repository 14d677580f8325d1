#include "x86/cpu_model.hpp"

#include <algorithm>
#include <bit>

#include "base/host_tsc.hpp"
#include "x86/registers.hpp"

namespace vert::x86 {

namespace {

using enum Feature;

enum class Register : u8 { EAX, EBX, ECX, EDX };

struct FeatureInfo {
  std::string_view name;
  u32 leaf;
  u32 subleaf;
  Register reg;
  u8 bit;
};

constexpr auto kFeatures = std::to_array<FeatureInfo>({
#define VERT_FEATURE(name, leaf, subleaf, reg, bit) {#name, leaf, subleaf, Register::reg, bit},
#include "x86/features.inc"
#undef VERT_FEATURE
});

constexpr std::size_t index_of(Feature feature) { return static_cast<std::size_t>(feature); }

// What every x86-64 processor has (psABI, table 3.1), and what vert emulates for every guest because it makes
// guests cheaper or safer. Not here though known: LA57 (longer walks for no use), MONITOR (idle guests shall
// HLT), PKU.
constexpr auto kEveryModel = std::to_array<Feature>({
    FPU,       DE,   PSE,     TSC,    MSR,           PAE,    MCE,    CX8,        APIC,   SEP,      MTRR,
    PGE,       MCA,  CMOV,    PAT,    PSE36,         CLFSH,  MMX,    FXSR,       SSE,    SSE2,     SYSCALL,
    LM,        PCID, X2APIC,  XSAVE,  TSC_DEADLINE,  RDRAND, RDSEED, HYPERVISOR, ARAT,   FSGSBASE, TSC_ADJUST,
    SMEP,      ERMS, INVPCID, SMAP,   UMIP,          RDPID,  FSRM,   XSAVEOPT,   XSAVEC, XGETBV1,  XSAVES,
    PREFETCHW, NX,   PDPE1GB, RDTSCP, INVARIANT_TSC,
});

// What tells a kernel that it needs no mitigations, and what else only one vendor's processors have.
constexpr auto kEveryIntel = std::to_array<Feature>({
    SS,
    SPEC_CTRL,
    BHI_CTRL,  // else Linux clears branch histories by a loop at each system call
    ARCH_CAPABILITIES,
});
constexpr auto kEveryAmd = std::to_array<Feature>({
    TOPOLOGY_EXTENSIONS, MMX_EXT, IBPB, EFER_LMSLE_UNSUPPORTED, SSB_NO, BTC_NO, IBPB_RET, LFENCE_SERIALIZING,
    NULL_SELECT_CLEARS_BASE, AUTOMATIC_IBRS, NO_SMM_CTL_MSR, SRSO_NO, SRSO_USER_KERNEL_NO, TSA_SQ_NO,
    TSA_L1_NO,
    TSA_NO,  // Linux 6.12 asks for all three
});

// x86-64 psABI, table 3.1: what each microarchitecture level adds.
constexpr auto kLevel2 = std::to_array<Feature>({CMPXCHG16B, LAHF64, POPCNT, SSE3, SSE4_1, SSE4_2, SSSE3});
constexpr auto kLevel3 = std::to_array<Feature>({AVX, AVX2, BMI1, BMI2, F16C, FMA, LZCNT, MOVBE});
constexpr auto kLevel4 = std::to_array<Feature>({AVX512F, AVX512BW, AVX512CD, AVX512DQ, AVX512VL});

// Instructions that run on the host's vector units: a guest has them only where the host has.
constexpr auto kVector = std::to_array<Feature>({
    SSE3,
    PCLMULQDQ,
    SSSE3,
    FMA,
    SSE4_1,
    SSE4_2,
    AES,
    AVX,
    F16C,
    AVX2,
    AVX512F,
    AVX512DQ,
    AVX512_IFMA,
    AVX512CD,
    SHA,
    AVX512BW,
    AVX512VL,
    AVX512_VBMI,
    AVX512_VBMI2,
    GFNI,
    VAES,
    VPCLMULQDQ,
    AVX512_VNNI,
    AVX512_BITALG,
    AVX512_VPOPCNTDQ,
    AVX512_FP16,
    AVX_VNNI,
    AVX512_BF16,
    AVX512_VP2INTERSECT,
    MISALIGNSSE,
    SSE4A,
});

// What model "host" takes over from the host besides; all of it could be emulated as well.
constexpr auto kHostScalar = std::to_array<Feature>({
    CMPXCHG16B,
    MOVBE,
    POPCNT,
    BMI1,
    BMI2,
    ADX,
    LAHF64,
    LZCNT,
    CLFLUSHOPT,
    CLWB,
    CLZERO,
    PKU,
    FDP_EXCPTN_ONLY,
    ZERO_FCS_FDS,
    RSTR_FP_ERR_PTRS,
});

struct Dependency {
  Feature feature;
  Feature needs;
};
// In an order in which one pass settles all.
constexpr auto kDependencies = std::to_array<Dependency>({
    {CMOV, FPU},
    {MMX, FPU},
    {FXSR, FPU},
    {SSE, FXSR},
    {MMX_EXT, SSE},
    {SSE2, SSE},
    {SSE3, SSE2},
    {PCLMULQDQ, SSE2},
    {AES, SSE2},
    {SHA, SSE2},
    {GFNI, SSE2},
    {SSSE3, SSE3},
    {SSE4_1, SSSE3},
    {SSE4_2, SSE4_1},
    {XSAVE, FXSR},
    {X2APIC, APIC},
    {TSC_DEADLINE, APIC},
    {LM, PAE},
    {XSAVEOPT, XSAVE},
    {XSAVEC, XSAVE},
    {XGETBV1, XSAVE},
    {XSAVES, XSAVEC},
    {AVX, XSAVE},
    {AVX, SSE4_2},
    {AVX2, AVX},
    {FMA, AVX},
    {F16C, AVX},
    {VAES, AVX},
    {VPCLMULQDQ, AVX},
    {AVX_VNNI, AVX2},
    {AVX512F, AVX2},
    {AVX512DQ, AVX512F},
    {AVX512_IFMA, AVX512F},
    {AVX512CD, AVX512F},
    {AVX512BW, AVX512F},
    {AVX512VL, AVX512F},
    {AVX512_VBMI, AVX512F},
    {AVX512_VBMI2, AVX512F},
    {AVX512_VNNI, AVX512F},
    {AVX512_BITALG, AVX512F},
    {AVX512_VPOPCNTDQ, AVX512F},
    {AVX512_FP16, AVX512BW},
    {AVX512_BF16, AVX512F},
    {AVX512_VP2INTERSECT, AVX512F},
});

constexpr std::array<std::string_view, 4> kNames = {"x86-64-v2", "x86-64-v3", "x86-64-v4", "host"};

u32& register_of(CpuidResult& result, Register reg) {
  switch (reg) {
    case Register::EAX: return result.eax;
    case Register::EBX: return result.ebx;
    case Register::ECX: return result.ecx;
    case Register::EDX: break;
  }
  return result.edx;
}

/// XCR0 of the host: which vector registers its operating system saves for us.
u64 host_xcr0() {
  constexpr u32 kOsxsave = 1U << 27;
  if ((host_cpuid(1, 0).ecx & kOsxsave) == 0) return 0;
  u32 low = 0, high = 0;
  // SAFETY: OSXSAVE says that XGETBV exists and user programs may execute it; it only writes EAX and EDX.
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return u64{high} << 32 | low;
}

bool host_has(Feature feature) {
  const FeatureInfo& info = kFeatures[index_of(feature)];
  CpuidResult result = host_cpuid(info.leaf, info.subleaf);
  if ((register_of(result, info.reg) >> info.bit & 1) == 0) return false;
  constexpr u64 kAvxState = xcr0::SSE | xcr0::AVX;
  const u64 saved = host_xcr0();
  const bool avx512 = info.name.starts_with("AVX512");
  const bool avx = avx512 || info.name.starts_with("AVX") || feature == FMA || feature == F16C ||
                   feature == VAES || feature == VPCLMULQDQ;
  if (avx && (saved & kAvxState) != kAvxState) return false;
  return !avx512 || (saved & xcr0::kAvx512) == xcr0::kAvx512;
}

/// What "+NAME" or "-NAME" names; nothing if it is neither or no feature has the name.
std::optional<Feature> modified_feature(std::string_view modifier) {
  if (!modifier.starts_with('+') && !modifier.starts_with('-')) return std::nullopt;
  const auto info = std::ranges::find(kFeatures, modifier.substr(1), &FeatureInfo::name);
  if (info == kFeatures.end()) return std::nullopt;
  return static_cast<Feature>(info - kFeatures.begin());
}

constexpr u32 kMaxHypervisorLeaf = 0x40000010;
constexpr u32 max_basic_leaf(Vendor vendor) { return vendor == Vendor::kAmd ? 0xD : 0x1F; }
constexpr u32 max_extended_leaf(Vendor vendor) { return vendor == Vendor::kAmd ? 0x80000021 : 0x80000008; }

constexpr u64 kLimitCpuid = u64{1} << 22;  // IA32_MISC_ENABLE (SDM 4, table 2-2)
constexpr u64 kDisableXd = u64{1} << 34;

/// How many bits of APIC ids tell the cores of the package apart.
u32 core_id_bits(const CpuidInput& input) { return static_cast<u32>(std::bit_width(input.vcpu_count - 1)); }

/// CPUID.0BH and 1FH: one thread a core, all cores in one package.
CpuidResult topology_leaf(const CpuidInput& input) {
  constexpr u32 kSmt = 1, kCore = 2;
  const u32 subleaf = input.subleaf & 0xFF;
  switch (subleaf) {
    case 0: return {0, 1, kSmt << 8, input.apic_id};
    case 1: return {core_id_bits(input), input.vcpu_count & 0xFFFF, kCore << 8 | subleaf, input.apic_id};
    default: return {0, 0, subleaf, input.apic_id};
  }
}

/// Many of leaf 1's bits stand in 8000_0001, too (APM 3, CPUID Fn8000_0001_EDX).
bool repeated_on_amd(const FeatureInfo& info) {
  constexpr u32 kRepeated = 0x0183F3FF;
  return info.leaf == 1 && info.reg == Register::EDX && (kRepeated >> info.bit & 1) != 0;
}

/// APM 3, CPUID Fn8000_001E: one thread a core, all cores in one node.
CpuidResult amd_topology_leaf(const CpuidInput& input) { return {input.apic_id, input.apic_id & 0xFF, 0, 0}; }

}  // namespace

u32 host_mxcsr_mask() {
  static const u32 kMask = mxcsr_mask_with(host_has(MISALIGNSSE));
  return kMask;
}

std::span<const std::string_view> CpuModel::names() { return kNames; }

std::vector<std::string_view> CpuModel::feature_names() {
  std::vector<std::string_view> names;
  for (const FeatureInfo& info : kFeatures) names.push_back(info.name);
  return names;
}

Result<CpuModel> CpuModel::make(std::string_view name, const CpuIdentity& host) {
  const std::string_view base = name.substr(0, name.find(','));
  const auto known = std::ranges::find(kNames, base);
  if (known == kNames.end())
    return make_error("there is no CPU model '{}'; there are {}", base, fmt::join(kNames, ", "));

  CpuModel model;
  model.name_ = *known;
  FeatureSet& features = model.features_;
  const auto add = [&features](std::span<const Feature> added, bool only_if_host_has = false) {
    for (const Feature feature : added) features[index_of(feature)] = !only_if_host_has || host_has(feature);
  };
  model.identity_ = base == "host" ? host : CpuIdentity::intel(fmt::format("vert {}", base));
  add(kEveryModel);
  if (model.vendor() == Vendor::kAmd)
    add(kEveryAmd);
  else
    add(kEveryIntel);
  if (base == "host") {
    add(kVector, true);
    add(kHostScalar, true);
    model.xsave_layout_ = XsaveLayout::of_host();
  } else {
    add(kLevel2);
    if (base >= "x86-64-v3") add(kLevel3);
    if (base >= "x86-64-v4") add(kLevel4);
  }

  FeatureSet wanted{};
  for (std::string_view rest = name.substr(base.size()); !rest.empty();) {
    rest.remove_prefix(1);
    const std::string_view modifier = rest.substr(0, rest.find(','));
    const auto feature = modified_feature(modifier);
    if (!feature)
      return make_error("'{}' in CPU model '{}' is not + or - and a feature's name", modifier, name);
    features[index_of(*feature)] = wanted[index_of(*feature)] = modifier.starts_with('+');
    rest.remove_prefix(modifier.size());
  }
  for (const auto& [feature, needs] : kDependencies) {
    if (features[index_of(needs)]) continue;
    features[index_of(feature)] = false;
    if (wanted[index_of(feature)])
      return make_error("+{} in CPU model '{}' needs {} as well", kFeatures[index_of(feature)].name, name,
                        kFeatures[index_of(needs)].name);
  }
  for (const Feature feature : kVector) {
    if (features[index_of(feature)] && !host_has(feature))
      return make_error("CPU model '{}' needs {}, which this host has not; choose a lower one, or 'host'",
                        name, kFeatures[index_of(feature)].name);
  }
  model.set_tsc_frequency(base::host_tsc_frequency());
  return model;
}

void CpuModel::set_tsc_frequency(u64 hz) {
  tsc_frequency_ = hz;
  // CPUID.15H tells the frequency as a ratio to the crystal's. Linux multiplies the numerator by the
  // crystal's kilohertz in 32 bits, so the ratio is the best one with a numerator that bears this.
  constexpr u64 kMaxNumerator = ~u32{0} / (kCrystalFrequency / 1000);
  const auto error_of = [hz](u64 numerator, u64 denominator) {
    const i128 difference = i128{hz} * denominator - i128{numerator} * kCrystalFrequency;
    return difference < 0 ? -difference : difference;
  };
  i128 least = 0;
  for (u64 denominator = 1;; ++denominator) {
    const auto numerator =
        static_cast<u64>((u128{hz} * denominator + kCrystalFrequency / 2) / kCrystalFrequency);
    if (numerator > kMaxNumerator) break;
    const i128 error = error_of(numerator, denominator);
    if (numerator == 0 || (least != 0 && error * tsc_ratio_denominator_ >= least * i128{denominator}))
      continue;
    least = error;
    tsc_ratio_numerator_ = static_cast<u32>(numerator);
    tsc_ratio_denominator_ = static_cast<u32>(denominator);
    if (error == 0) break;
  }
}

u64 CpuModel::cr4_allowed() const {
  u64 allowed = cr4::PCE;
  constexpr auto kGated = std::to_array<std::pair<Feature, u64>>({
      {TSC, cr4::TSD},
      {DE, cr4::DE},
      {PSE, cr4::PSE},
      {PAE, cr4::PAE},
      {MCE, cr4::MCE},
      {PGE, cr4::PGE},
      {FXSR, cr4::OSFXSR},
      {SSE, cr4::OSXMMEXCPT},
      {UMIP, cr4::UMIP},
      {LA57, cr4::LA57},
      {FSGSBASE, cr4::FSGSBASE},
      {PCID, cr4::PCIDE},
      {XSAVE, cr4::OSXSAVE},
      {SMEP, cr4::SMEP},
      {SMAP, cr4::SMAP},
      {PKU, cr4::PKE},
  });
  for (const auto& [feature, bit] : kGated) {
    if (has(feature)) allowed |= bit;
  }
  return allowed;
}

u64 CpuModel::xcr0_allowed() const {
  u64 allowed = xcr0::X87 | xcr0::SSE;
  if (has(AVX)) allowed |= xcr0::AVX;
  if (has(AVX512F)) allowed |= xcr0::kAvx512;
  if (has(PKU)) allowed |= xcr0::PKRU;
  return allowed;
}

u64 CpuModel::efer_allowed() const {
  return (has(SYSCALL) ? efer::SCE : 0) | (has(LM) ? efer::LME | efer::LMA : 0) | (has(NX) ? efer::NXE : 0) |
         (has(AUTOMATIC_IBRS) ? efer::AIBRSE : 0);
}

u64 CpuModel::arch_capabilities() const {
  // SDM 4, table 2-2, IA32_ARCH_CAPABILITIES: immune to all that there is a bit for.
  constexpr auto kBits = std::to_array<unsigned>({
      0,   // RDCL_NO: no page-table isolation
      1,   // IBRS_ALL: no retpolines
      3,   // SKIP_L1DFL_VMENTRY
      4,   // SSB_NO
      5,   // MDS_NO
      6,   // IF_PSCHANGE_MC_NO
      8,   // TAA_NO
      13,  // SBDR_SSDP_NO
      14,  // FBSDP_NO
      15,  // PSDP_NO
      20,  // BHI_NO
      24,  // PBRSB_NO
      26,  // GDS_NO
      27,  // RFDS_NO
      62,  // ITS_NO
  });
  u64 value = 0;
  for (const unsigned bit : kBits) value |= u64{1} << bit;
  return value;
}

CpuidResult CpuModel::cpuid(const CpuidInput& input) const {
  CpuidResult result;
  CpuidInput effective = input;
  effective.vcpu_count = std::max(input.vcpu_count, 1U);
  if (input.leaf >= 0x40000000 && input.leaf <= 0x400000FF) {
    result = hypervisor_leaf(input.leaf);
  } else if (input.leaf >= 0x80000000 && input.leaf <= max_extended_leaf(vendor())) {
    result = extended_leaf(effective);
  } else {
    // Beyond the last leaf, Intel's processors answer as for the highest basic one (SDM 2A, CPUID).
    const u32 last = max_basic_leaf(vendor());
    if (input.leaf > last && vendor() == Vendor::kAmd) return {};
    effective.leaf = std::min(input.leaf, last);
    result = basic_leaf(effective);
  }
  const u32 leaf = effective.leaf;
  const u32 subleaf = leaf == 0x7 || leaf == 0xD ? input.subleaf : 0;
  for (std::size_t i = 0; i < kFeatures.size(); ++i) {
    const FeatureInfo& info = kFeatures[i];
    const bool is_here = info.leaf == leaf && info.subleaf == subleaf;
    const bool is_repeated = leaf == 0x80000001 && vendor() == Vendor::kAmd && repeated_on_amd(info);
    if (features_[i] && (is_here || is_repeated)) register_of(result, info.reg) |= 1U << info.bit;
  }
  // SDM 3A, 10.4.3.
  if ((leaf == 0x1 || leaf == 0x80000001) && !input.apic_enabled)
    result.edx &= ~(1U << kFeatures[index_of(APIC)].bit);
  if (leaf == 0x80000001 && (input.misc_enable & kDisableXd) != 0)
    result.edx &= ~(1U << kFeatures[index_of(NX)].bit);
  return result;
}

CpuidResult CpuModel::basic_leaf(const CpuidInput& input) const {
  const auto mhz = static_cast<u32>((tsc_frequency_ + 500'000) / 1'000'000);
  const bool amd = vendor() == Vendor::kAmd;
  switch (input.leaf) {
    case 0x0: {
      CpuidResult result = identity_.vendor_string;
      result.eax = (input.misc_enable & kLimitCpuid) != 0 ? 2 : max_basic_leaf(vendor());
      return result;
    }
    case 0x1: {
      constexpr u32 kClflushLine = 64 / 8, kHtt = 1U << 28, kOsxsave = 1U << 27;
      const u32 ids = std::min(std::bit_ceil(input.vcpu_count), 0xFFU);
      return {identity_.signature, kClflushLine << 8 | ids << 16 | input.apic_id << 24,
              (input.cr4 & cr4::OSXSAVE) != 0 ? kOsxsave : 0, input.vcpu_count > 1 ? kHtt : 0};
    }
    // The TLB's descriptors of a modern core; FFh sends to leaf 4 for the caches.
    case 0x2: return amd ? CpuidResult{} : CpuidResult{0x76036301, 0x00F0B5FF, 0, 0x00C30000};
    case 0x4: return amd ? CpuidResult{} : cache_leaf(input);
    // Extensions enumerated, but no C-state to hint at: Linux prefers HLT then.
    case 0x5: return has(MONITOR) ? CpuidResult{64, 64, 1, 0} : CpuidResult{};
    case 0x7: {
      constexpr u32 kOspke = 1U << 4;
      if (input.subleaf != 0) return {};
      constexpr u32 kMaxSubleaf = 2;
      return {kMaxSubleaf, 0, (input.cr4 & cr4::PKE) != 0 ? kOspke : 0, 0};
    }
    case 0xB:
    case 0x1F: return topology_leaf(input);
    case 0xD: return xsave_leaf(input);
    case 0x15: return {tsc_ratio_denominator_, tsc_ratio_numerator_, static_cast<u32>(kCrystalFrequency), 0};
    case 0x16: return {mhz, mhz, 100, 0};
    default: return {};
  }
}

CpuidResult CpuModel::xsave_leaf(const CpuidInput& input) const {
  if (!has(XSAVE)) return {};
  const u64 allowed = xcr0_allowed();
  if (input.subleaf == 0)
    return {static_cast<u32>(allowed), xsave_layout_.standard_size(input.xcr0),
            xsave_layout_.standard_size(allowed), static_cast<u32>(allowed >> 32)};
  if (input.subleaf == 1)
    return {0, has(XSAVEC) ? xsave_layout_.compacted_size(input.xcr0 | input.xss) : 0, 0, 0};
  if (input.subleaf >= 63 || (allowed >> input.subleaf & 1) == 0) return {};
  const XsaveComponent component = xsave_layout_[input.subleaf];
  return {component.size, component.offset, component.aligned ? 2U : 0U, 0};
}

CpuidResult CpuModel::hypervisor_leaf(u32 leaf) const {
  constexpr u32 kNoIoDelay = 1U << 1, kClockSource2 = 1U << 3, kClockSourceStable = 1U << 24;
  switch (leaf) {
    // What guests know KVM's paravirtual interface by: "KVMKVMKVM" (Linux,
    // Documentation/virt/kvm/x86/cpuid.rst).
    case 0x40000000: return {kMaxHypervisorLeaf, 0x4B4D564B, 0x564B4D56, 0x4D};
    case 0x40000001: return {kNoIoDelay | kClockSource2 | kClockSourceStable, 0, 0, 0};
    case kMaxHypervisorLeaf:
      return {static_cast<u32>((tsc_frequency_ + 500) / 1000), static_cast<u32>(kCrystalFrequency / 1000), 0,
              0};
    default: return {};
  }
}

CpuidResult CpuModel::extended_leaf(const CpuidInput& input) const {
  constexpr u32 kBrand = 0x80000002, kCmpLegacy = 1U << 1;
  const bool amd = vendor() == Vendor::kAmd;
  switch (input.leaf) {
    case 0x80000000: {
      CpuidResult result = amd ? identity_.vendor_string : CpuidResult{};
      result.eax = max_extended_leaf(vendor());
      return result;
    }
    case 0x80000001:
      return amd ? CpuidResult{identity_.signature, 0, input.vcpu_count > 1 ? kCmpLegacy : 0, 0}
                 : CpuidResult{};
    case kBrand:
    case kBrand + 1:
    case kBrand + 2: return identity_.brand[input.leaf - kBrand];
    case 0x80000005: return identity_.level1;
    case 0x80000006: return identity_.level2;
    case 0x80000008: {
      const u32 cores = amd ? core_id_bits(input) << 12 | ((input.vcpu_count - 1) & 0xFF) : 0;
      return {physical_bits() | linear_bits() << 8, 0, cores, 0};
    }
    case 0x8000001D: return cache_leaf(input);
    case 0x8000001E: return amd_topology_leaf(input);
    default: return {};
  }
}

/// CPUID.04H, and 8000001DH, which does not tell the number of cores: the last level is shared by all vCPUs.
CpuidResult CpuModel::cache_leaf(const CpuidInput& input) const {
  if (input.subleaf >= CpuIdentity::kCaches) return {};
  CpuidResult result = identity_.caches[input.subleaf];
  const u32 level = result.eax >> 5 & 7;
  if (level == 0) return {};
  const u32 vcpus = std::bit_ceil(input.vcpu_count);
  if (level == 3) result.eax |= std::min(vcpus - 1, 0xFFFU) << 14;
  if (input.leaf == 4) result.eax |= std::min(vcpus - 1, 0x3FU) << 26;
  return result;
}

}  // namespace vert::x86

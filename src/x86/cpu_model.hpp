// Software-defined CPU models: which features a guest sees, by name, the same on every host and engine.
//
// A model is a value, made once for each machine. CPUID, the feature gate of the decoder, and the reserved
// bits of control registers and MSRs all follow from its feature set, so that they cannot disagree. Models
// lead guests to cheap choices: no page-table isolation, no retpolines, a reliable TSC.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "x86/cpu_identity.hpp"
#include "x86/insn.hpp"
#include "x86/paging.hpp"
#include "x86/xsave_layout.hpp"

namespace vert::x86 {

/// CPUID feature flags that vert knows, SDM spelling; x86/features.inc is the one table of them.
enum class Feature : u8 {
#define VERT_FEATURE(name, leaf, subleaf, reg, bit) name,
#include "x86/features.inc"
#undef VERT_FEATURE
  kCount,
};

/// What CPUID's answer depends on besides the model.
struct CpuidInput {
  u32 leaf = 0;
  u32 subleaf = 0;
  u32 apic_id = 0;
  u32 vcpu_count = 1;
  u64 cr4 = 0;
  u64 xcr0 = 1;
  u64 xss = 0;
  u64 misc_enable = 0;
  bool apic_enabled = true;  // IA32_APIC_BASE.EN
};

/// As CpuModel::mxcsr_mask().
[[nodiscard]] u32 host_mxcsr_mask();

[[nodiscard]] constexpr u32 mxcsr_mask_with(bool misaligned) { return misaligned ? 0x2FFFF : 0xFFFF; }

class CpuModel {
 public:
  /// The core crystal clock, which also drives the local APIC's timer (SDM 3A, 10.5.4).
  static constexpr u64 kCrystalFrequency = 1'000'000'000;

  /// "x86-64-v2", "x86-64-v3", "x86-64-v4", or "host": all that vert knows and this host has. Features may be
  /// added and taken away by name ("x86-64-v3,+LA57,-RDSEED"); what needs a feature goes with it. Vector
  /// features that this host lacks are an error, since they run on the host's own units; it says which. Model
  /// "host" takes its vendor from `host`.
  [[nodiscard]] static Result<CpuModel> make(std::string_view name,
                                             const CpuIdentity& host = CpuIdentity::of_host());
  [[nodiscard]] static std::span<const std::string_view> names();
  [[nodiscard]] static std::vector<std::string_view> feature_names();

  [[nodiscard]] std::string_view name() const { return name_; }
  [[nodiscard]] bool has(Feature feature) const { return features_[static_cast<std::size_t>(feature)]; }
  [[nodiscard]] CpuidResult cpuid(const CpuidInput& input) const;

  /// True if the model has what this instruction needs in code of that size (else it is #UD). LZCNT and TZCNT
  /// are always allowed: see legacy_form().
  [[nodiscard]] bool allows(const Insn& insn, CodeSize size) const;

  /// Without BMI1 or LZCNT the processor ignores the prefix that makes TZCNT and LZCNT of BSF and BSR:
  /// changes `insn` to what the model executes.
  void legacy_form(Insn& insn) const;

  [[nodiscard]] unsigned physical_bits() const { return 46; }
  [[nodiscard]] PagingLimits paging_limits() const { return {physical_bits(), has(Feature::PDPE1GB)}; }
  /// The width of linear addresses that the processor supports, whatever CR4.LA57 says. Base addresses of
  /// segments and descriptor tables, MSRs that hold linear addresses, and INVPCID's operand are checked
  /// against it when they are loaded; RIP and accesses to memory follow CR4.LA57 (Intel, "5-Level Paging and
  /// 5-Level EPT", 3.2).
  [[nodiscard]] unsigned linear_bits() const { return has(Feature::LA57) ? 57 : 48; }
  /// Bits that may be set in CR4, XCR0 and EFER (none in XSS), and IA32_ARCH_CAPABILITIES's fixed value.
  [[nodiscard]] u64 cr4_allowed() const;
  [[nodiscard]] u64 xcr0_allowed() const;
  [[nodiscard]] u64 efer_allowed() const;
  [[nodiscard]] u64 arch_capabilities() const;
  /// Hz; measured on the host once a process.
  [[nodiscard]] u64 tsc_frequency() const { return tsc_frequency_; }

  /// Named models have one layout everywhere, so that guests can move; "host" has this host's.
  [[nodiscard]] const XsaveLayout& xsave_layout() const { return xsave_layout_; }
  /// MXCSR's bits that may be set (SDM 1, 11.6.6; APM 2, 11.5.10).
  [[nodiscard]] u32 mxcsr_mask() const { return mxcsr_mask_with(has(Feature::MISALIGNSSE)); }
  /// Whose rules hold where the vendors' processors differ. Intel's for named models.
  [[nodiscard]] Vendor vendor() const { return identity_.vendor; }
  [[nodiscard]] const CpuIdentity& identity() const { return identity_; }

 private:
  using FeatureSet = std::array<bool, static_cast<std::size_t>(Feature::kCount)>;

  [[nodiscard]] CpuidResult basic_leaf(const CpuidInput& input) const;
  [[nodiscard]] CpuidResult extended_leaf(const CpuidInput& input) const;
  [[nodiscard]] CpuidResult hypervisor_leaf(u32 leaf) const;
  [[nodiscard]] CpuidResult xsave_leaf(const CpuidInput& input) const;
  [[nodiscard]] CpuidResult cache_leaf(const CpuidInput& input) const;
  void set_tsc_frequency(u64 hz);

  std::string_view name_;
  FeatureSet features_{};
  XsaveLayout xsave_layout_ = XsaveLayout::common();
  CpuIdentity identity_;
  u64 tsc_frequency_ = 0;
  u32 tsc_ratio_numerator_ = 1;  // TSC frequency / kCrystalFrequency
  u32 tsc_ratio_denominator_ = 1;
};

}  // namespace vert::x86

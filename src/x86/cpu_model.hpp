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

#include "base/error.hpp"
#include "x86/insn.hpp"

namespace vert::x86 {

/// CPUID feature flags that vert knows, SDM spelling. (The list and its CPUID positions are one table in
/// cpu_model.cpp.)
enum class Feature : u8 {
#define VERT_FEATURE(name, leaf, subleaf, reg, bit) name,
#include "x86/features.inc"
#undef VERT_FEATURE
  kCount,
};

struct CpuidResult {
  u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
  bool operator==(const CpuidResult&) const = default;
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
};

class CpuModel {
 public:
  /// "x86-64-v2", "x86-64-v3", "x86-64-v4", or "host": all that vert knows and this host has. A baseline with
  /// vector features that this host lacks is an error, since they run on the host's own units; it says which.
  [[nodiscard]] static Result<CpuModel> make(std::string_view name);
  [[nodiscard]] static std::span<const std::string_view> names();

  [[nodiscard]] std::string_view name() const { return name_; }
  [[nodiscard]] bool has(Feature feature) const { return features_[static_cast<std::size_t>(feature)]; }
  [[nodiscard]] CpuidResult cpuid(const CpuidInput& input) const;

  /// True if the model has what an instruction of this set needs (else it is #UD).
  [[nodiscard]] bool allows(const Insn& insn) const;

  [[nodiscard]] unsigned physical_bits() const { return 46; }
  /// Bits that may be set in CR4, XCR0, XSS, EFER and IA32_ARCH_CAPABILITIES's fixed value.
  [[nodiscard]] u64 cr4_allowed() const;
  [[nodiscard]] u64 xcr0_allowed() const;
  [[nodiscard]] u64 efer_allowed() const;
  [[nodiscard]] u64 arch_capabilities() const;
  /// Hz; measured on the host once a process.
  [[nodiscard]] u64 tsc_frequency() const { return tsc_frequency_; }

  /// Offset and size of an XSAVE component in the standard (non-compacted) format; 512-byte legacy area and
  /// header not counted. Components 0 and 1 lie in the legacy area.
  struct XsaveComponent {
    u32 offset = 0;
    u32 size = 0;
  };
  [[nodiscard]] static XsaveComponent xsave_component(unsigned index);
  /// Size of an XSAVE area for these components.
  [[nodiscard]] static u32 xsave_size(u64 components, bool compacted);

 private:
  std::string_view name_;
  std::array<bool, static_cast<std::size_t>(Feature::kCount)> features_{};
  u64 tsc_frequency_ = 0;
};

}  // namespace vert::x86

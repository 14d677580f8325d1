// CPUID's answers, of the guest's processor or of the host's.
#pragma once

#include "base/types.hpp"

namespace vert::x86 {

struct CpuidResult {
  u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
  bool operator==(const CpuidResult&) const = default;
};

/// What a processor answers to a leaf and subleaf: this host's, or one that a test recorded.
using CpuidSource = CpuidResult (*)(u32 leaf, u32 subleaf);
/// Zeroes for leaves that the host does not have.
[[nodiscard]] CpuidResult host_cpuid(u32 leaf, u32 subleaf);

}  // namespace vert::x86

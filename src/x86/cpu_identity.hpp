// Who a processor says it is: vendor, signature, brand and caches. A value; vert's own for named CPU models.
#pragma once

#include <array>
#include <string_view>

#include "x86/cpuid.hpp"

namespace vert::x86 {

enum class Vendor : u8 { kIntel, kAmd };
/// kAmd for Hygon's processors, too.
[[nodiscard]] Vendor host_vendor();

struct CpuIdentity {
  static constexpr unsigned kCaches = 4;
  /// Family 6, model 8Fh (Sapphire Rapids), stepping 8, whatever the features: user programs that tune by
  /// model find a modern core, and kernels find none of the old cores' errata.
  static constexpr u32 kIntelSignature = 0x000806F8;

  Vendor vendor = Vendor::kIntel;
  CpuidResult vendor_string;  // EBX, EDX and ECX of leaf 0
  u32 signature = kIntelSignature;
  std::array<CpuidResult, 3> brand;
  /// Leaf 4's subleaves and, in the same format, 8000001DH's, without the number of sharers.
  std::array<CpuidResult, kCaches> caches;
  /// Leaves 80000005H and 80000006H.
  CpuidResult level1, level2;

  /// An Intel core of vert's, under this brand.
  [[nodiscard]] static CpuIdentity intel(std::string_view brand);
  /// The host's on AMD's processors; else an Intel core of vert's.
  [[nodiscard]] static CpuIdentity of_host(CpuidSource host = host_cpuid);

  /// What MSR 8BH tells: of the newest revision that there can be, so that no kernel looks for a newer one,
  /// or for errata that one would mend.
  [[nodiscard]] u64 microcode_revision() const;
};

}  // namespace vert::x86

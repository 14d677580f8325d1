// Page-table entries (SDM 3A, chapter 4).
#pragma once

#include "base/types.hpp"

namespace vert::x86::pte {

inline constexpr u64 P = 1U << 0;
inline constexpr u64 RW = 1U << 1;
inline constexpr u64 US = 1U << 2;
inline constexpr u64 PWT = 1U << 3;
inline constexpr u64 PCD = 1U << 4;
inline constexpr u64 A = 1U << 5;
inline constexpr u64 D = 1U << 6;
inline constexpr u64 PS = 1U << 7;
inline constexpr u64 G = 1U << 8;
inline constexpr u64 PAT_LARGE = 1U << 12;
inline constexpr u64 XD = u64{1} << 63;
inline constexpr unsigned kProtectionKeyShift = 59;

/// Bits 51..12, before the physical-address width of the CPU model cuts them.
inline constexpr u64 kAddressMask = 0x000F'FFFF'FFFF'F000;

}  // namespace vert::x86::pte

namespace vert::x86 {

/// Which page-table entries a processor takes, by CPUID leaf 8000_0008 and PDPE1GB of leaf 8000_0001.
struct PagingLimits {
  unsigned physical_bits = 46;
  bool gigabyte_pages = true;
};

/// True if bits 63..(width-1) of `linear` are all equal (SDM 1, 3.3.7.1); width is 48 or 57.
[[nodiscard]] constexpr bool is_canonical(u64 linear, unsigned width) {
  const auto sign_extended = static_cast<i64>(linear << (64 - width)) >> (64 - width);
  return static_cast<u64>(sign_extended) == linear;
}

}  // namespace vert::x86

// Ways to reach memory: pieces of code that access the address that the loop around them puts into RBX.
//
// Before each piece, RBX (EBX) is the address, RSP and RBP are what the piece before has left. Pieces keep
// R8, R9 and R15 (EDX in 32-bit code), which are the loop's. Every aligned word of the pages where accesses
// succeed holds the address where the loop goes on, so that pieces may branch through memory.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "base/types.hpp"

namespace vert::test {

struct AccessForm {
  std::string_view name;
  std::vector<u8> code;
  /// Accesses exactly at RBX: must fault where nothing is mapped.
  bool direct = true;
};

/// Where forms find a page to access besides the address under test, below 2^31.
inline constexpr u64 kGoodPages = 0x2000'1000;

/// The base of FS in 64-bit code: added to what the instruction says, it wraps.
inline constexpr u64 kFsBase = 0x7FFF'FFFF'F000;
inline constexpr u64 kGsBase = 0xFFFF'FFFF'FFFF'F000;
/// In 32-bit code.
inline constexpr u64 kFsBase32 = 0xFFFF'F000;

[[nodiscard]] std::span<const AccessForm> forms64();
/// For processors with AVX, and with AVX-512.
[[nodiscard]] std::span<const AccessForm> forms_avx();
[[nodiscard]] std::span<const AccessForm> forms_avx512();
[[nodiscard]] std::span<const AccessForm> forms32();

}  // namespace vert::test

// Exceptions: vectors, their classes, and a fault as a value.
#pragma once

#include "base/types.hpp"

namespace vert::x86 {

/// SDM 3A, table 6-1.
enum Vector : u8 {
  kDE = 0,
  kDB = 1,
  kNMI = 2,
  kBP = 3,
  kOF = 4,
  kBR = 5,
  kUD = 6,
  kNM = 7,
  kDF = 8,
  kTS = 10,
  kNP = 11,
  kSS = 12,
  kGP = 13,
  kPF = 14,
  kMF = 16,
  kAC = 17,
  kMC = 18,
  kXM = 19,
  kCP = 21,
};

/// Bits of the #PF error code (SDM 3A, 4.7).
namespace pf {
inline constexpr u32 P = 1U << 0;
inline constexpr u32 W = 1U << 1;
inline constexpr u32 U = 1U << 2;
inline constexpr u32 RSVD = 1U << 3;
inline constexpr u32 I = 1U << 4;
inline constexpr u32 PK = 1U << 5;
}  // namespace pf

/// What an instruction raises. A value: it travels by return, never by C++ exception.
struct Fault {
  Vector vector = kUD;
  bool has_error_code = false;
  u32 error_code = 0;
  /// For kPF: the linear address, for CR2. For kDB: the DR6 bits to set.
  u64 address = 0;

  bool operator==(const Fault&) const = default;

  static constexpr Fault ud() { return {kUD, false, 0, 0}; }
  static constexpr Fault gp(u32 error_code = 0) { return {kGP, true, error_code, 0}; }
  static constexpr Fault ss(u32 error_code = 0) { return {kSS, true, error_code, 0}; }
  static constexpr Fault np(u32 error_code) { return {kNP, true, error_code, 0}; }
  static constexpr Fault ts(u32 error_code) { return {kTS, true, error_code, 0}; }
  static constexpr Fault nm() { return {kNM, false, 0, 0}; }
  static constexpr Fault de() { return {kDE, false, 0, 0}; }
  static constexpr Fault mf() { return {kMF, false, 0, 0}; }
  static constexpr Fault xm() { return {kXM, false, 0, 0}; }
  static constexpr Fault ac() { return {kAC, true, 0, 0}; }
  static constexpr Fault db(u64 dr6_bits) { return {kDB, false, 0, dr6_bits}; }
  static constexpr Fault page(u32 error_code, u64 linear) { return {kPF, true, error_code, linear}; }
};

/// True where the processor pushes an error code when the exception is its own (SDM 3A, 6.13).
[[nodiscard]] constexpr bool has_error_code(u8 vector) {
  return vector == kDF || (vector >= kTS && vector <= kPF) || vector == kAC || vector == kCP;
}

}  // namespace vert::x86

// The arithmetic flags of integer results (SDM 1, 3.4.3.1 and appendix A).
#pragma once

#include <bit>
#include <limits>
#include <type_traits>

#include "base/types.hpp"
#include "x86/registers.hpp"

namespace vert::interp {

template <typename T>
inline constexpr unsigned kBits = sizeof(T) * 8;

template <typename T>
[[nodiscard]] constexpr bool sign(T value) {
  return (value >> (kBits<T> - 1)) != 0;
}

[[nodiscard]] constexpr u64 flag_if(bool condition, u64 flag) { return condition ? flag : 0; }

/// SF, ZF and PF of a result.
template <typename T>
[[nodiscard]] constexpr u64 result_flags(T result) {
  return flag_if(sign(result), x86::rflags::SF) | flag_if(result == 0, x86::rflags::ZF) |
         flag_if((std::popcount(static_cast<u8>(result)) & 1) == 0, x86::rflags::PF);
}

/// All six, of result = a + b (+ carry): the carries out of each bit are (a & b) | ((a | b) & ~result).
template <typename T>
[[nodiscard]] constexpr u64 add_flags(T a, T b, T result) {
  const T carries = static_cast<T>((a & b) | ((a | b) & ~result));
  return result_flags(result) | flag_if(sign(carries), x86::rflags::CF) |
         (static_cast<u64>(a ^ b ^ result) & x86::rflags::AF) |
         flag_if(sign(static_cast<T>((a ^ result) & (b ^ result))), x86::rflags::OF);
}

/// All six, of result = a - b (- borrow).
template <typename T>
[[nodiscard]] constexpr u64 sub_flags(T a, T b, T result) {
  const T borrows = static_cast<T>((~a & b) | ((~a | b) & result));
  return result_flags(result) | flag_if(sign(borrows), x86::rflags::CF) |
         (static_cast<u64>(a ^ b ^ result) & x86::rflags::AF) |
         flag_if(sign(static_cast<T>((a ^ b) & (a ^ result))), x86::rflags::OF);
}

}  // namespace vert::interp

// Shifts and rotates.
//
// Flags that the SDM leaves undefined (OF for counts above 1, AF, CF of overlong narrow shifts) follow what
// the formulas give; nobody may rely on them.
#include "engine/interp/flags.hpp"
#include "engine/interp/handlers.hpp"

namespace vert::interp {

namespace {

using namespace x86;
using rflags::CF;
using rflags::kArithmetic;
using rflags::OF;

/// The count operand, masked to 5 or 6 bits (SDM 2B, SAL/SAR/SHL/SHR).
template <typename T>
[[nodiscard]] bool load_count(Core& core, const Op& op, unsigned index, unsigned& count) {
  u8 raw = 1;  // the D0/D1 encodings have an implied 1
  if (op.insn.operand_count > index && !core.load(op, index, raw)) return false;
  count = raw & (sizeof(T) == 8 ? 63U : 31U);
  return true;
}

template <typename T>
struct Shifted {
  T result;
  bool carry;
  bool overflow;
};

/// The destination is read and checked for writing even when a count of 0 changes nothing.
template <typename T, typename Compute>
Outcome shift(Core& core, const Op& op, unsigned count, u64 mask, Compute compute) {
  u64 flags = 0;
  const bool done = core.modify<T>(op, 0, [&](T old) {
    if (count == 0) return old;
    const Shifted<T> shifted = compute(old);
    flags = result_flags(shifted.result) | flag_if(shifted.carry, CF) | flag_if(shifted.overflow, OF);
    return shifted.result;
  });
  if (!done) return Outcome::kFault;
  if (count != 0) core.set_flags(mask, flags);
  return Outcome::kNext;
}

template <typename T>
[[nodiscard]] bool bit(T value, unsigned index) {
  return index < kBits<T> && ((value >> index) & 1) != 0;
}

// SDM 2B, SHL.
template <typename T>
Outcome shl(Core& core, const Op& op) {
  unsigned count = 0;
  if (!load_count<T>(core, op, 1, count)) return Outcome::kFault;
  return shift<T>(core, op, count, kArithmetic, [count](T a) {
    const T result = count < kBits<T> ? static_cast<T>(a << count) : T{0};
    const bool carry = count <= kBits<T> && bit(a, kBits<T> - count);
    return Shifted<T>{result, carry, sign(result) != carry};
  });
}

// SDM 2B, SHR.
template <typename T>
Outcome shr(Core& core, const Op& op) {
  unsigned count = 0;
  if (!load_count<T>(core, op, 1, count)) return Outcome::kFault;
  return shift<T>(core, op, count, kArithmetic, [count](T a) {
    const T result = count < kBits<T> ? static_cast<T>(a >> count) : T{0};
    return Shifted<T>{result, bit(a, count - 1), count == 1 && sign(a)};
  });
}

// SDM 2B, SAR.
template <typename T>
Outcome sar(Core& core, const Op& op) {
  unsigned count = 0;
  if (!load_count<T>(core, op, 1, count)) return Outcome::kFault;
  return shift<T>(core, op, count, kArithmetic, [count](T a) {
    const i64 extended = static_cast<std::make_signed_t<T>>(a);
    return Shifted<T>{static_cast<T>(extended >> count), ((extended >> (count - 1)) & 1) != 0, false};
  });
}

constexpr u64 kRotateFlags = CF | OF;

// SDM 2B, ROL. With a count that is a multiple of the width, CF still follows the result.
template <typename T>
Outcome rol(Core& core, const Op& op) {
  unsigned count = 0;
  if (!load_count<T>(core, op, 1, count)) return Outcome::kFault;
  return shift<T>(core, op, count, kRotateFlags, [count](T a) {
    const T result = std::rotl(a, static_cast<int>(count % kBits<T>));
    const bool carry = (result & 1) != 0;
    return Shifted<T>{result, carry, sign(result) != carry};
  });
}

// SDM 2B, ROR.
template <typename T>
Outcome ror(Core& core, const Op& op) {
  unsigned count = 0;
  if (!load_count<T>(core, op, 1, count)) return Outcome::kFault;
  return shift<T>(core, op, count, kRotateFlags, [count](T a) {
    const T result = std::rotr(a, static_cast<int>(count % kBits<T>));
    return Shifted<T>{result, sign(result), sign(result) != bit(result, kBits<T> - 2)};
  });
}

// SDM 2B, RCL: a rotate through CF, of width + 1 bits, one step at a time.
template <typename T>
Outcome rcl(Core& core, const Op& op) {
  unsigned count = 0;
  if (!load_count<T>(core, op, 1, count)) return Outcome::kFault;
  count %= kBits<T> + 1;
  const bool carry_in = core.flag(CF);
  return shift<T>(core, op, count, kRotateFlags, [count, carry_in](T a) {
    bool carry = carry_in;
    for (unsigned i = 0; i < count; ++i) {
      const bool out = sign(a);
      a = static_cast<T>((a << 1) | T{carry});
      carry = out;
    }
    return Shifted<T>{a, carry, sign(a) != carry};
  });
}

// SDM 2B, RCR.
template <typename T>
Outcome rcr(Core& core, const Op& op) {
  unsigned count = 0;
  if (!load_count<T>(core, op, 1, count)) return Outcome::kFault;
  count %= kBits<T> + 1;
  const bool carry_in = core.flag(CF);
  return shift<T>(core, op, count, kRotateFlags, [count, carry_in](T a) {
    bool carry = carry_in;
    for (unsigned i = 0; i < count; ++i) {
      const bool out = (a & 1) != 0;
      a = static_cast<T>((a >> 1) | static_cast<T>(T{carry} << (kBits<T> - 1)));
      carry = out;
    }
    return Shifted<T>{a, carry, sign(a) != bit(a, kBits<T> - 2)};
  });
}

/// SHLD and SHRD shift the double-width value high:low. A 16-bit count above 16 is undefined; the host then
/// goes on with the destination's own bits, as if it were the value destination:source:destination.
// SDM 2B, SHLD.
template <typename T>
Outcome shld(Core& core, const Op& op) {
  unsigned count = 0;
  T source;
  if (!load_count<T>(core, op, 2, count) || !core.load(op, 1, source)) return Outcome::kFault;
  return shift<T>(core, op, count, kArithmetic, [count, source](T a) {
    constexpr unsigned kTop = sizeof(T) == 8 ? 64 : 2 * kBits<T>;
    u128 wide = (u128{a} << kTop) | (u128{source} << (kTop - kBits<T>));
    if constexpr (sizeof(T) < 8) wide |= a;
    const T result = static_cast<T>((wide << count) >> kTop);
    const bool carry = ((wide >> (kTop + kBits<T> - count)) & 1) != 0;
    return Shifted<T>{result, carry, sign(result) != sign(a)};
  });
}

// SDM 2B, SHRD.
template <typename T>
Outcome shrd(Core& core, const Op& op) {
  unsigned count = 0;
  T source;
  if (!load_count<T>(core, op, 2, count) || !core.load(op, 1, source)) return Outcome::kFault;
  return shift<T>(core, op, count, kArithmetic, [count, source](T a) {
    u128 wide = (u128{source} << kBits<T>) | a;
    if constexpr (sizeof(T) < 8) wide |= u128{a} << (2 * kBits<T>);
    const T result = static_cast<T>(wide >> count);
    const bool carry = ((wide >> (count - 1)) & 1) != 0;
    return Shifted<T>{result, carry, sign(result) != sign(a)};
  });
}

// BMI2 (SDM 2B, RORX and SARX/SHLX/SHRX): no flags.

template <typename T>
Outcome rorx(Core& core, const Op& op) {
  T source;
  if (!core.load(op, 1, source)) return Outcome::kFault;
  core.store_register(op.insn.operands[0], std::rotr(source, static_cast<int>(op.insn.imm & (kBits<T> - 1))));
  return Outcome::kNext;
}

template <typename T, typename Compute>
Outcome shift_without_flags(Core& core, const Op& op, Compute compute) {
  T source;
  T count;
  if (!core.load(op, 1, source) || !core.load(op, 2, count)) return Outcome::kFault;
  core.store_register(op.insn.operands[0], compute(source, static_cast<unsigned>(count & (kBits<T> - 1))));
  return Outcome::kNext;
}
template <typename T>
Outcome shlx(Core& core, const Op& op) {
  return shift_without_flags<T>(core, op, [](T a, unsigned count) { return static_cast<T>(a << count); });
}
template <typename T>
Outcome shrx(Core& core, const Op& op) {
  return shift_without_flags<T>(core, op, [](T a, unsigned count) { return static_cast<T>(a >> count); });
}
template <typename T>
Outcome sarx(Core& core, const Op& op) {
  return shift_without_flags<T>(core, op, [](T a, unsigned count) {
    return static_cast<T>(static_cast<std::make_signed_t<T>>(a) >> count);
  });
}

constexpr std::array kRows = {
    HandlerRow VERT_EACH_SIZE(SHL, shl),   HandlerRow VERT_EACH_SIZE(SHR, shr),
    HandlerRow VERT_EACH_SIZE(SAR, sar),   HandlerRow VERT_EACH_SIZE(ROL, rol),
    HandlerRow VERT_EACH_SIZE(ROR, ror),   HandlerRow VERT_EACH_SIZE(RCL, rcl),
    HandlerRow VERT_EACH_SIZE(RCR, rcr),   HandlerRow VERT_EACH_SIZE(SHLD, shld),
    HandlerRow VERT_EACH_SIZE(SHRD, shrd), HandlerRow VERT_EACH_SIZE(RORX, rorx),
    HandlerRow VERT_EACH_SIZE(SHLX, shlx), HandlerRow VERT_EACH_SIZE(SHRX, shrx),
    HandlerRow VERT_EACH_SIZE(SARX, sarx),
};

}  // namespace

std::span<const HandlerRow> shift_handlers() { return kRows; }

}  // namespace vert::interp

// Multiplication and division.
#include "engine/interp/flags.hpp"
#include "engine/interp/handlers.hpp"

namespace vert::interp {

namespace {

using namespace x86;
using rflags::CF;
using rflags::kArithmetic;
using rflags::OF;

template <typename T>
struct Wider;
template <>
struct Wider<u8> {
  using Unsigned = u16;
  using Signed = i16;
};
template <>
struct Wider<u16> {
  using Unsigned = u32;
  using Signed = i32;
};
template <>
struct Wider<u32> {
  using Unsigned = u64;
  using Signed = i64;
};
template <>
struct Wider<u64> {
  using Unsigned = u128;
  using Signed = i128;
};

/// The double-width accumulator: AX, DX:AX, EDX:EAX or RDX:RAX.
template <typename T>
[[nodiscard]] typename Wider<T>::Unsigned accumulator(const Core& core) {
  if constexpr (sizeof(T) == 1)
    return core.gpr<u16>(kRax);
  else
    return static_cast<typename Wider<T>::Unsigned>(
        (static_cast<typename Wider<T>::Unsigned>(core.gpr<T>(kRdx)) << kBits<T>) | core.gpr<T>(kRax));
}
template <typename T>
void set_accumulator(Core& core, T high, T low) {
  if constexpr (sizeof(T) == 1) {
    core.set_gpr<u16>(kRax, static_cast<u16>(high << 8 | low));
  } else {
    core.set_gpr<T>(kRax, low);
    core.set_gpr<T>(kRdx, high);
  }
}

/// CF and OF tell whether the upper half matters; the other flags are undefined (the host keeps SF of the low
/// half, and clears ZF and AF: not claimed here).
template <typename T>
void set_product_flags(Core& core, T low, bool overflow) {
  core.set_flags(kArithmetic, result_flags(low) | flag_if(overflow, CF | OF));
}

// SDM 2B, MUL.
template <typename T>
Outcome mul(Core& core, const Op& op) {
  T source;
  if (!core.load(op, 0, source)) return Outcome::kFault;
  using Wide = typename Wider<T>::Unsigned;
  const Wide product = static_cast<Wide>(static_cast<Wide>(core.gpr<T>(kRax)) * source);
  const T low = static_cast<T>(product);
  const T high = static_cast<T>(product >> kBits<T>);
  set_accumulator<T>(core, high, low);
  set_product_flags(core, low, high != 0);
  return Outcome::kNext;
}

// SDM 2A, IMUL: one, two and three operands.
template <typename T>
Outcome imul(Core& core, const Op& op) {
  using Signed = std::make_signed_t<T>;
  using Wide = typename Wider<T>::Signed;
  const unsigned count = op.insn.operand_count;
  T a = core.gpr<T>(kRax);
  T b;
  if (count >= 2 && !core.load(op, count - 2, a)) return Outcome::kFault;
  if (!core.load(op, count - 1, b)) return Outcome::kFault;
  const Wide product = static_cast<Wide>(static_cast<Wide>(static_cast<Signed>(a)) * static_cast<Signed>(b));
  const T low = static_cast<T>(product);
  if (count == 1)
    set_accumulator<T>(core, static_cast<T>(product >> kBits<T>), low);
  else
    core.store_register(op.insn.operands[0], low);
  set_product_flags(core, low, product != static_cast<Wide>(static_cast<Signed>(low)));
  return Outcome::kNext;
}

// SDM 2B, MULX: where both destinations are one register, it gets the high half. No flags.
template <typename T>
Outcome mulx(Core& core, const Op& op) {
  T source;
  if (!core.load(op, 2, source)) return Outcome::kFault;
  using Wide = typename Wider<T>::Unsigned;
  const Wide product = static_cast<Wide>(static_cast<Wide>(core.gpr<T>(kRdx)) * source);
  core.store_register(op.insn.operands[1], static_cast<T>(product));
  core.store_register(op.insn.operands[0], static_cast<T>(product >> kBits<T>));
  return Outcome::kNext;
}

// SDM 2A, DIV: #DE for 0 and for a quotient that does not fit. Flags are undefined; they are kept.
template <typename T>
Outcome div(Core& core, const Op& op) {
  T divisor;
  if (!core.load(op, 0, divisor)) return Outcome::kFault;
  if (divisor == 0) return core.raise(Fault::de());
  const auto dividend = accumulator<T>(core);
  const auto quotient = dividend / divisor;
  if (quotient > std::numeric_limits<T>::max()) return core.raise(Fault::de());
  set_accumulator<T>(core, static_cast<T>(dividend % divisor), static_cast<T>(quotient));
  return Outcome::kNext;
}

// SDM 2A, IDIV.
template <typename T>
Outcome idiv(Core& core, const Op& op) {
  T raw;
  if (!core.load(op, 0, raw)) return Outcome::kFault;
  using Signed = std::make_signed_t<T>;
  using Wide = typename Wider<T>::Signed;
  const Wide divisor = static_cast<Signed>(raw);
  const Wide dividend = static_cast<Wide>(accumulator<T>(core));
  if (divisor == 0) return core.raise(Fault::de());
  // The most negative dividend by -1 overflows on the host too.
  constexpr Wide kMostNegative =
      static_cast<Wide>(static_cast<typename Wider<T>::Unsigned>(1) << (2 * kBits<T> - 1));
  if (divisor == -1 && dividend == kMostNegative) return core.raise(Fault::de());
  const Wide quotient = static_cast<Wide>(dividend / divisor);
  if (quotient != static_cast<Wide>(static_cast<Signed>(quotient))) return core.raise(Fault::de());
  set_accumulator<T>(core, static_cast<T>(dividend % divisor), static_cast<T>(quotient));
  return Outcome::kNext;
}

constexpr std::array kRows = {
    HandlerRow VERT_EACH_SIZE(MUL, mul),   HandlerRow VERT_EACH_SIZE(IMUL, imul),
    HandlerRow VERT_EACH_SIZE(MULX, mulx), HandlerRow VERT_EACH_SIZE(DIV, div),
    HandlerRow VERT_EACH_SIZE(IDIV, idiv),
};

}  // namespace

std::span<const HandlerRow> multiply_handlers() { return kRows; }

}  // namespace vert::interp

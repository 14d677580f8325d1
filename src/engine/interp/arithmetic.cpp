// Two-operand integer arithmetic and logic, its one-operand cousins, and decimal adjustment.
#include "engine/interp/flags.hpp"
#include "engine/interp/handlers.hpp"

namespace vert::interp {

namespace {

using namespace x86;
using rflags::AF;
using rflags::CF;
using rflags::kArithmetic;
using rflags::OF;

template <typename T>
struct Changed {
  T result;
  u64 flags;
};

/// destination = compute(destination, source); all arithmetic flags from compute.
template <typename T, typename Compute>
Outcome binary(Core& core, const Op& op, Compute compute) {
  T source;
  if (!core.load(op, 1, source)) return Outcome::kFault;
  u64 flags = 0;
  const bool done = core.modify<T>(op, 0, [&](T old) {
    const Changed<T> changed = compute(old, source);
    flags = changed.flags;
    return changed.result;
  });
  if (!done) return Outcome::kFault;
  core.set_flags(kArithmetic, flags);
  return Outcome::kNext;
}

template <typename T>
Changed<T> sum(T a, T b, bool carry) {
  const T result = static_cast<T>(a + b + carry);
  return {result, add_flags(a, b, result)};
}

template <typename T>
Changed<T> difference(T a, T b, bool borrow) {
  const T result = static_cast<T>(a - b - borrow);
  return {result, sub_flags(a, b, result)};
}

// SDM 2A, ADD.
template <typename T>
Outcome add(Core& core, const Op& op) {
  return binary<T>(core, op, [](T a, T b) { return sum<T>(a, b, false); });
}

// SDM 2A, ADC.
template <typename T>
Outcome adc(Core& core, const Op& op) {
  const bool carry = core.flag(CF);
  return binary<T>(core, op, [carry](T a, T b) { return sum<T>(a, b, carry); });
}

// SDM 2B, SUB.
template <typename T>
Outcome sub(Core& core, const Op& op) {
  return binary<T>(core, op, [](T a, T b) { return difference<T>(a, b, false); });
}

// SDM 2B, SBB.
template <typename T>
Outcome sbb(Core& core, const Op& op) {
  const bool borrow = core.flag(CF);
  return binary<T>(core, op, [borrow](T a, T b) { return difference<T>(a, b, borrow); });
}

// SDM 2A, AND. AF is undefined for AND, OR, XOR and TEST; the host clears it.
template <typename T>
Outcome and_(Core& core, const Op& op) {
  return binary<T>(core, op, [](T a, T b) {
    const T result = static_cast<T>(a & b);
    return Changed<T>{result, result_flags(result)};
  });
}

// SDM 2B, OR.
template <typename T>
Outcome or_(Core& core, const Op& op) {
  return binary<T>(core, op, [](T a, T b) {
    const T result = static_cast<T>(a | b);
    return Changed<T>{result, result_flags(result)};
  });
}

// SDM 2D, XOR.
template <typename T>
Outcome xor_(Core& core, const Op& op) {
  return binary<T>(core, op, [](T a, T b) {
    const T result = static_cast<T>(a ^ b);
    return Changed<T>{result, result_flags(result)};
  });
}

// SDM 2A, CMP.
template <typename T>
Outcome cmp(Core& core, const Op& op) {
  T a;
  T b;
  if (!core.load(op, 0, a) || !core.load(op, 1, b)) return Outcome::kFault;
  core.set_flags(kArithmetic, difference<T>(a, b, false).flags);
  return Outcome::kNext;
}

// SDM 2D, TEST.
template <typename T>
Outcome test(Core& core, const Op& op) {
  T a;
  T b;
  if (!core.load(op, 0, a) || !core.load(op, 1, b)) return Outcome::kFault;
  core.set_flags(kArithmetic, result_flags(static_cast<T>(a & b)));
  return Outcome::kNext;
}

/// destination = compute(destination), writing the flags in `mask`.
template <typename T, typename Compute>
Outcome unary(Core& core, const Op& op, u64 mask, Compute compute) {
  u64 flags = 0;
  const bool done = core.modify<T>(op, 0, [&](T old) {
    const Changed<T> changed = compute(old);
    flags = changed.flags;
    return changed.result;
  });
  if (!done) return Outcome::kFault;
  core.set_flags(mask, flags);
  return Outcome::kNext;
}

// SDM 2A, INC: CF is kept.
template <typename T>
Outcome inc(Core& core, const Op& op) {
  return unary<T>(core, op, kArithmetic & ~CF, [](T a) { return sum<T>(a, 1, false); });
}

// SDM 2A, DEC: CF is kept.
template <typename T>
Outcome dec(Core& core, const Op& op) {
  return unary<T>(core, op, kArithmetic & ~CF, [](T a) { return difference<T>(a, 1, false); });
}

// SDM 2B, NEG.
template <typename T>
Outcome neg(Core& core, const Op& op) {
  return unary<T>(core, op, kArithmetic, [](T a) { return difference<T>(0, a, false); });
}

// SDM 2B, NOT: no flags.
template <typename T>
Outcome not_(Core& core, const Op& op) {
  return unary<T>(core, op, 0, [](T a) { return Changed<T>{static_cast<T>(~a), 0}; });
}

/// ADCX and ADOX: an addition that carries in and out through one flag only (SDM 2A).
template <typename T>
Outcome add_through(Core& core, const Op& op, u64 flag) {
  T source;
  T destination;
  if (!core.load(op, 1, source) || !core.load(op, 0, destination)) return Outcome::kFault;
  const Changed<T> changed = sum<T>(destination, source, core.flag(flag));
  core.store_register(op.insn.operands[0], changed.result);
  core.set_flags(flag, (changed.flags & CF) != 0 ? flag : 0);
  return Outcome::kNext;
}
template <typename T>
Outcome adcx(Core& core, const Op& op) {
  return add_through<T>(core, op, CF);
}
template <typename T>
Outcome adox(Core& core, const Op& op) {
  return add_through<T>(core, op, OF);
}

// Decimal adjustment, outside 64-bit mode only (the decoder refuses it there).

// SDM 2A, DAA and DAS.
Outcome decimal_adjust(Core& core, bool add) {
  const u8 old_al = core.gpr<u8>(kRax);
  const bool old_cf = core.flag(CF);
  u8 al = old_al;
  bool cf = false;
  bool af = false;
  const auto adjust = [&](u8 by) { al = static_cast<u8>(add ? al + by : al - by); };
  if ((old_al & 0xF) > 9 || core.flag(AF)) {
    cf = old_cf || (add ? old_al > 0xF9 : old_al < 6);
    adjust(6);
    af = true;
  }
  if (old_al > 0x99 || old_cf) {
    adjust(0x60);
    cf = true;
  } else if (add) {
    cf = false;
  }
  core.set_gpr<u8>(kRax, al);
  core.set_flags(kArithmetic, result_flags(al) | flag_if(cf, CF) | flag_if(af, AF));
  return Outcome::kNext;
}
Outcome daa(Core& core, const Op&) { return decimal_adjust(core, true); }
Outcome das(Core& core, const Op&) { return decimal_adjust(core, false); }

// SDM 2A, AAA and AAS. Flags other than AF and CF are undefined; those of AL are given.
Outcome ascii_adjust(Core& core, bool add) {
  u16 ax = core.gpr<u16>(kRax);
  const bool adjust = (ax & 0xF) > 9 || core.flag(AF);
  if (adjust) ax = static_cast<u16>(add ? ax + 0x106 : ax - 0x106);
  ax &= 0xFF0F;
  core.set_gpr<u16>(kRax, ax);
  core.set_flags(kArithmetic, result_flags(static_cast<u8>(ax)) | flag_if(adjust, AF | CF));
  return Outcome::kNext;
}
Outcome aaa(Core& core, const Op&) { return ascii_adjust(core, true); }
Outcome aas(Core& core, const Op&) { return ascii_adjust(core, false); }

// SDM 2A, AAM: #DE for a base of 0.
Outcome aam(Core& core, const Op& op) {
  const u8 base = static_cast<u8>(op.insn.imm);
  if (base == 0) return core.raise(Fault::de());
  const u8 al = core.gpr<u8>(kRax);
  core.set_gpr<u16>(kRax, static_cast<u16>((al / base) << 8 | (al % base)));
  core.set_flags(kArithmetic, result_flags(core.gpr<u8>(kRax)));
  return Outcome::kNext;
}

// SDM 2A, AAD.
Outcome aad(Core& core, const Op& op) {
  const u16 ax = core.gpr<u16>(kRax);
  const u8 al = static_cast<u8>((ax >> 8) * static_cast<u8>(op.insn.imm) + (ax & 0xFF));
  core.set_gpr<u16>(kRax, al);
  core.set_flags(kArithmetic, result_flags(al));
  return Outcome::kNext;
}

constexpr std::array kRows = {
    HandlerRow VERT_EACH_SIZE(ADD, add),   HandlerRow VERT_EACH_SIZE(ADC, adc),
    HandlerRow VERT_EACH_SIZE(SUB, sub),   HandlerRow VERT_EACH_SIZE(SBB, sbb),
    HandlerRow VERT_EACH_SIZE(AND, and_),  HandlerRow VERT_EACH_SIZE(OR, or_),
    HandlerRow VERT_EACH_SIZE(XOR, xor_),  HandlerRow VERT_EACH_SIZE(CMP, cmp),
    HandlerRow VERT_EACH_SIZE(TEST, test), HandlerRow VERT_EACH_SIZE(INC, inc),
    HandlerRow VERT_EACH_SIZE(DEC, dec),   HandlerRow VERT_EACH_SIZE(NEG, neg),
    HandlerRow VERT_EACH_SIZE(NOT, not_),  HandlerRow VERT_EACH_SIZE(ADCX, adcx),
    HandlerRow VERT_EACH_SIZE(ADOX, adox), HandlerRow VERT_ANY_SIZE(DAA, daa),
    HandlerRow VERT_ANY_SIZE(DAS, das),    HandlerRow VERT_ANY_SIZE(AAA, aaa),
    HandlerRow VERT_ANY_SIZE(AAS, aas),    HandlerRow VERT_ANY_SIZE(AAM, aam),
    HandlerRow VERT_ANY_SIZE(AAD, aad),
};

}  // namespace

std::span<const HandlerRow> arithmetic_handlers() { return kRows; }

}  // namespace vert::interp

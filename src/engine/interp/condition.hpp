// The sixteen conditions of Jcc, SETcc and CMOVcc (SDM 1, appendix B).
#pragma once

#include "base/types.hpp"
#include "x86/registers.hpp"

namespace vert::interp {

/// Condition codes as opcodes' low four bits encode them; the odd ones negate the even ones.
enum class Condition : u8 { kO, kNO, kB, kNB, kZ, kNZ, kBE, kNBE, kS, kNS, kP, kNP, kL, kNL, kLE, kNLE };

[[nodiscard]] constexpr bool holds(Condition condition, u64 flags) {
  using namespace x86::rflags;
  const auto code = static_cast<u8>(condition);
  const bool less = ((flags & SF) != 0) != ((flags & OF) != 0);
  bool base = false;
  switch (code >> 1) {
    case 0: base = (flags & OF) != 0; break;
    case 1: base = (flags & CF) != 0; break;
    case 2: base = (flags & ZF) != 0; break;
    case 3: base = (flags & (CF | ZF)) != 0; break;
    case 4: base = (flags & SF) != 0; break;
    case 5: base = (flags & PF) != 0; break;
    case 6: base = less; break;
    default: base = less || (flags & ZF) != 0; break;
  }
  return base != ((code & 1) != 0);
}

}  // namespace vert::interp

/// Rows for a family over all conditions: `row(mnemonic, function template over Condition)`.
#define VERT_CONDITION_ROWS(prefix, function)                           \
  HandlerRow VERT_ANY_SIZE(prefix##O, function<Condition::kO>),         \
      HandlerRow VERT_ANY_SIZE(prefix##NO, function<Condition::kNO>),   \
      HandlerRow VERT_ANY_SIZE(prefix##B, function<Condition::kB>),     \
      HandlerRow VERT_ANY_SIZE(prefix##NB, function<Condition::kNB>),   \
      HandlerRow VERT_ANY_SIZE(prefix##Z, function<Condition::kZ>),     \
      HandlerRow VERT_ANY_SIZE(prefix##NZ, function<Condition::kNZ>),   \
      HandlerRow VERT_ANY_SIZE(prefix##BE, function<Condition::kBE>),   \
      HandlerRow VERT_ANY_SIZE(prefix##NBE, function<Condition::kNBE>), \
      HandlerRow VERT_ANY_SIZE(prefix##S, function<Condition::kS>),     \
      HandlerRow VERT_ANY_SIZE(prefix##NS, function<Condition::kNS>),   \
      HandlerRow VERT_ANY_SIZE(prefix##P, function<Condition::kP>),     \
      HandlerRow VERT_ANY_SIZE(prefix##NP, function<Condition::kNP>),   \
      HandlerRow VERT_ANY_SIZE(prefix##L, function<Condition::kL>),     \
      HandlerRow VERT_ANY_SIZE(prefix##NL, function<Condition::kNL>),   \
      HandlerRow VERT_ANY_SIZE(prefix##LE, function<Condition::kLE>),   \
      HandlerRow VERT_ANY_SIZE(prefix##NLE, function<Condition::kNLE>)

// Bit tests, scans and counts, BMI1/BMI2, CRC32, and byte order.
#include "engine/interp/flags.hpp"
#include "engine/interp/handlers.hpp"

namespace vert::interp {

namespace {

using namespace x86;
using rflags::CF;
using rflags::kArithmetic;
using rflags::ZF;

/// BT, BTS, BTR, BTC (SDM 2A, BT): a register bit offset reaches any bit of the string in memory, an
/// immediate one only those of the operand. Only CF is defined; the rest is kept.
template <typename T, bool kWrites, typename Change>
Outcome bit_test(Core& core, const Op& op, Change change) {
  T offset;
  if (!core.load(op, 1, offset)) return Outcome::kFault;
  const T mask = static_cast<T>(T{1} << (offset & (kBits<T> - 1)));
  bool was_set = false;
  const auto compute = [&](T old) {
    was_set = (old & mask) != 0;
    return change(old, mask);
  };

  bool done;
  if (op.insn.operands[0].kind == OperandKind::kMemory) {
    i64 units = 0;
    if (op.insn.operands[1].kind != OperandKind::kImmediate)
      units = static_cast<std::make_signed_t<T>>(offset) >> std::countr_zero(kBits<T>);
    const u64 address =
        truncate(effective_offset(op.insn, core.state(), core.next_rip) + static_cast<u64>(units) * sizeof(T),
                 op.insn.address_size);
    Gla linear;
    const auto kind = kWrites ? cpu::AccessKind::kWrite : cpu::AccessKind::kRead;
    if (!core.address_in(static_cast<SegmentRegister>(op.insn.mem.segment), address, sizeof(T), kind, linear))
      return Outcome::kFault;
    if constexpr (kWrites) {
      done = core.modify_at<T>(linear, op.insn.lock, compute) || core.failed(core.mmu.fault());
    } else {
      T old;
      done = core.mmu.read(linear, old) || core.failed(core.mmu.fault());
      if (done) static_cast<void>(compute(old));
    }
  } else {
    done = core.modify<T>(op, 0, compute);
  }
  if (!done) return Outcome::kFault;
  core.set_flags(CF, flag_if(was_set, CF));
  return Outcome::kNext;
}

template <typename T>
Outcome bt(Core& core, const Op& op) {
  T offset;
  if (op.insn.operands[0].kind == OperandKind::kMemory)
    return bit_test<T, false>(core, op, [](T old, T) { return old; });
  T value;
  if (!core.load(op, 0, value) || !core.load(op, 1, offset)) return Outcome::kFault;
  core.set_flags(CF, flag_if(((value >> (offset & (kBits<T> - 1))) & 1) != 0, CF));
  return Outcome::kNext;
}
template <typename T>
Outcome bts(Core& core, const Op& op) {
  return bit_test<T, true>(core, op, [](T old, T mask) { return static_cast<T>(old | mask); });
}
template <typename T>
Outcome btr(Core& core, const Op& op) {
  return bit_test<T, true>(core, op, [](T old, T mask) { return static_cast<T>(old & ~mask); });
}
template <typename T>
Outcome btc(Core& core, const Op& op) {
  return bit_test<T, true>(core, op, [](T old, T mask) { return static_cast<T>(old ^ mask); });
}

/// BSF and BSR (SDM 2A): a source of 0 sets ZF and keeps the destination, whole.
template <typename T, typename Scan>
Outcome bit_scan(Core& core, const Op& op, Scan scan) {
  T source;
  if (!core.load(op, 1, source)) return Outcome::kFault;
  if (source != 0) core.store_register(op.insn.operands[0], static_cast<T>(scan(source)));
  core.set_flags(ZF, flag_if(source == 0, ZF));
  return Outcome::kNext;
}
template <typename T>
Outcome bsf(Core& core, const Op& op) {
  return bit_scan<T>(core, op, [](T a) { return std::countr_zero(a); });
}
template <typename T>
Outcome bsr(Core& core, const Op& op) {
  return bit_scan<T>(core, op, [](T a) { return static_cast<int>(kBits<T>) - 1 - std::countl_zero(a); });
}

/// TZCNT, LZCNT (SDM 2B and 2A): CF tells a source of 0, ZF a result of 0.
template <typename T, typename Count>
Outcome zero_count(Core& core, const Op& op, Count count) {
  T source;
  if (!core.load(op, 1, source)) return Outcome::kFault;
  const T result = static_cast<T>(count(source));
  core.store_register(op.insn.operands[0], result);
  core.set_flags(CF | ZF, flag_if(source == 0, CF) | flag_if(result == 0, ZF));
  return Outcome::kNext;
}
template <typename T>
Outcome tzcnt(Core& core, const Op& op) {
  return zero_count<T>(core, op, [](T a) { return std::countr_zero(a); });
}
template <typename T>
Outcome lzcnt(Core& core, const Op& op) {
  return zero_count<T>(core, op, [](T a) { return std::countl_zero(a); });
}

// SDM 2B, POPCNT: all flags but ZF are cleared.
template <typename T>
Outcome popcnt(Core& core, const Op& op) {
  T source;
  if (!core.load(op, 1, source)) return Outcome::kFault;
  core.store_register(op.insn.operands[0], static_cast<T>(std::popcount(source)));
  core.set_flags(kArithmetic, flag_if(source == 0, ZF));
  return Outcome::kNext;
}

// BMI1 and BMI2 (SDM 2A, 2B). AF and PF are undefined and cleared or kept as convenient.

constexpr u64 kBmiFlags = rflags::CF | rflags::ZF | rflags::SF | rflags::OF;

template <typename T>
Outcome andn(Core& core, const Op& op) {
  T a;
  T b;
  if (!core.load(op, 1, a) || !core.load(op, 2, b)) return Outcome::kFault;
  const T result = static_cast<T>(~a & b);
  core.store_register(op.insn.operands[0], result);
  core.set_flags(kBmiFlags, result_flags(result));
  return Outcome::kNext;
}

template <typename T>
Outcome bextr(Core& core, const Op& op) {
  T source;
  T control;
  if (!core.load(op, 1, source) || !core.load(op, 2, control)) return Outcome::kFault;
  const unsigned start = control & 0xFF;
  const unsigned length = (control >> 8) & 0xFF;
  T result = start < kBits<T> ? static_cast<T>(source >> start) : T{0};
  if (length < kBits<T>) result = static_cast<T>(result & ((T{1} << length) - 1));
  core.store_register(op.insn.operands[0], result);
  core.set_flags(kBmiFlags, flag_if(result == 0, ZF));
  return Outcome::kNext;
}

template <typename T>
Outcome bzhi(Core& core, const Op& op) {
  T source;
  T control;
  if (!core.load(op, 1, source) || !core.load(op, 2, control)) return Outcome::kFault;
  const unsigned index = control & 0xFF;
  const T result = index < kBits<T> ? static_cast<T>(source & ((T{1} << index) - 1)) : source;
  core.store_register(op.insn.operands[0], result);
  core.set_flags(kBmiFlags, (result_flags(result) & ~rflags::PF) | flag_if(index >= kBits<T>, CF));
  return Outcome::kNext;
}

/// BLSI, BLSMSK, BLSR: `carry` is CF for a source of 0.
template <typename T, typename Compute>
Outcome lowest_bit(Core& core, const Op& op, bool carry_if_zero, Compute compute) {
  T source;
  if (!core.load(op, 1, source)) return Outcome::kFault;
  const T result = compute(source);
  core.store_register(op.insn.operands[0], result);
  core.set_flags(kBmiFlags,
                 (result_flags(result) & ~rflags::PF) | flag_if((source == 0) == carry_if_zero, CF));
  return Outcome::kNext;
}
template <typename T>
Outcome blsi(Core& core, const Op& op) {
  return lowest_bit<T>(core, op, false, [](T a) { return static_cast<T>(a & (~a + 1)); });
}
template <typename T>
Outcome blsmsk(Core& core, const Op& op) {
  return lowest_bit<T>(core, op, true, [](T a) { return static_cast<T>(a ^ (a - 1)); });
}
template <typename T>
Outcome blsr(Core& core, const Op& op) {
  return lowest_bit<T>(core, op, true, [](T a) { return static_cast<T>(a & (a - 1)); });
}

template <typename T>
Outcome pdep(Core& core, const Op& op) {
  T source;
  T mask;
  if (!core.load(op, 1, source) || !core.load(op, 2, mask)) return Outcome::kFault;
  T result = 0;
  for (; mask != 0; mask = static_cast<T>(mask & (mask - 1)), source = static_cast<T>(source >> 1)) {
    if ((source & 1) != 0) result = static_cast<T>(result | (mask & (~mask + 1)));
  }
  core.store_register(op.insn.operands[0], result);
  return Outcome::kNext;
}

template <typename T>
Outcome pext(Core& core, const Op& op) {
  T source;
  T mask;
  if (!core.load(op, 1, source) || !core.load(op, 2, mask)) return Outcome::kFault;
  T result = 0;
  for (T to = 1; mask != 0; mask = static_cast<T>(mask & (mask - 1)), to = static_cast<T>(to << 1)) {
    if ((source & mask & (~mask + 1)) != 0) result = static_cast<T>(result | to);
  }
  core.store_register(op.insn.operands[0], result);
  return Outcome::kNext;
}

// SDM 2A, CRC32: the Castagnoli polynomial, bit-reflected.
Outcome crc32(Core& core, const Op& op) {
  u64 source = 0;
  if (!core.load_zero_extended(op, 1, source)) return Outcome::kFault;
  u32 crc = core.gpr<u32>(op.insn.operands[0].reg);
  for (unsigned byte = 0; byte < op.insn.operands[1].size; ++byte) {
    crc ^= static_cast<u8>(source >> (byte * 8));
    for (unsigned step = 0; step < 8; ++step) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78U : 0U);
  }
  core.set_gpr<u64>(op.insn.operands[0].reg, crc);
  return Outcome::kNext;
}

template <typename T>
[[nodiscard]] T swapped(T value) {
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  return value;
}

// SDM 2A, BSWAP: of a 16-bit register undefined; Intel's processors give 0.
Outcome bswap(Core& core, const Op& op) {
  const u8 reg = op.insn.operands[0].reg;
  switch (op.insn.operand_size) {
    case 2: core.set_gpr<u16>(reg, 0); break;
    case 4: core.set_gpr<u32>(reg, swapped(core.gpr<u32>(reg))); break;
    default: core.set_gpr<u64>(reg, swapped(core.gpr<u64>(reg))); break;
  }
  return Outcome::kNext;
}

// SDM 2B, MOVBE.
template <typename T>
Outcome movbe(Core& core, const Op& op) {
  T value;
  if (!core.load(op, 1, value) || !core.store(op, 0, swapped(value))) return Outcome::kFault;
  return Outcome::kNext;
}

constexpr std::array kRows = {
    HandlerRow VERT_EACH_SIZE(BT, bt),         HandlerRow VERT_EACH_SIZE(BTS, bts),
    HandlerRow VERT_EACH_SIZE(BTR, btr),       HandlerRow VERT_EACH_SIZE(BTC, btc),
    HandlerRow VERT_EACH_SIZE(BSF, bsf),       HandlerRow VERT_EACH_SIZE(BSR, bsr),
    HandlerRow VERT_EACH_SIZE(TZCNT, tzcnt),   HandlerRow VERT_EACH_SIZE(LZCNT, lzcnt),
    HandlerRow VERT_EACH_SIZE(POPCNT, popcnt), HandlerRow VERT_EACH_SIZE(ANDN, andn),
    HandlerRow VERT_EACH_SIZE(BEXTR, bextr),   HandlerRow VERT_EACH_SIZE(BZHI, bzhi),
    HandlerRow VERT_EACH_SIZE(BLSI, blsi),     HandlerRow VERT_EACH_SIZE(BLSMSK, blsmsk),
    HandlerRow VERT_EACH_SIZE(BLSR, blsr),     HandlerRow VERT_EACH_SIZE(PDEP, pdep),
    HandlerRow VERT_EACH_SIZE(PEXT, pext),     HandlerRow VERT_ANY_SIZE(CRC32, crc32),
    HandlerRow VERT_ANY_SIZE(BSWAP, bswap),    HandlerRow VERT_EACH_SIZE(MOVBE, movbe),
};

}  // namespace

std::span<const HandlerRow> bit_handlers() { return kRows; }

}  // namespace vert::interp

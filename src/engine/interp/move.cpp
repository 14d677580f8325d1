// Data movement between registers and memory, exchanges, sign extension, and the flag instructions.
#include "engine/interp/condition.hpp"
#include "engine/interp/flags.hpp"
#include "engine/interp/handlers.hpp"
#include "engine/interp/system_registers.hpp"

namespace vert::interp {

namespace {

using namespace x86;

// SDM 2B, MOV between general registers, memory and immediates.
template <typename T>
Outcome mov_general(Core& core, const Op& op) {
  T value;
  if (op.insn.mem.absolute64) {
    // A0..A3: the accumulator and an absolute address; there is no immediate.
    const bool to_memory = op.insn.operands[0].kind == OperandKind::kMemory;
    const bool done = to_memory ? core.store_memory(op, core.gpr<T>(kRax)) : core.load_memory(op, value);
    if (!done) return Outcome::kFault;
    if (!to_memory) core.set_gpr<T>(kRax, value);
    return Outcome::kNext;
  }
  if (!core.load(op, 1, value) || !core.store(op, 0, value)) return Outcome::kFault;
  return Outcome::kNext;
}

// SDM 2B, MOV to a segment register. Loading SS holds interrupts off until after the next instruction.
Outcome mov_to_segment(Core& core, const Op& op) {
  const auto seg = static_cast<SegmentRegister>(op.insn.operands[0].reg);
  if (seg == kCs) return core.raise(Fault::ud());
  u16 selector = 0;
  if (!core.load(op, 1, selector)) return Outcome::kFault;
  if (const auto raised = cpu::load_segment(core.state(), core.mmu, seg, selector))
    return core.raise(*raised);
  core.mode_changed();
  if (seg == kSs) core.state().mov_ss_shadow = true;
  return Outcome::kEndBlock;
}

// SDM 2B, MOV from a segment register: to memory always 16 bits, to a register zero-extended.
Outcome mov_from_segment(Core& core, const Op& op) {
  const u16 selector = core.state().seg(static_cast<SegmentRegister>(op.insn.operands[1].reg)).selector;
  if (op.insn.operands[0].kind == OperandKind::kMemory)
    return core.store_memory(op, selector) ? Outcome::kNext : Outcome::kFault;
  core.set_gpr_sized(op.insn.operands[0].reg, selector, op.insn.operands[0].size);
  return Outcome::kNext;
}

template <typename T>
Outcome mov(Core& core, const Op& op) {
  const OperandKind to = op.insn.operands[0].kind;
  const OperandKind from = op.insn.operands[1].kind;
  if (to == OperandKind::kSegment) return mov_to_segment(core, op);
  if (from == OperandKind::kSegment) return mov_from_segment(core, op);
  if (to == OperandKind::kControl || from == OperandKind::kControl) return mov_control(core, op);
  if (to == OperandKind::kDebug || from == OperandKind::kDebug) return mov_debug(core, op);
  return mov_general<T>(core, op);
}

// SDM 2B, MOVZX.
Outcome movzx(Core& core, const Op& op) {
  u64 value = 0;
  if (!core.load_zero_extended(op, 1, value)) return Outcome::kFault;
  core.set_gpr_sized(op.insn.operands[0].reg, value, op.insn.operands[0].size);
  return Outcome::kNext;
}

// SDM 2B, MOVSX and MOVSXD.
Outcome movsx(Core& core, const Op& op) {
  u64 value = 0;
  if (!core.load_sign_extended(op, 1, value)) return Outcome::kFault;
  core.set_gpr_sized(op.insn.operands[0].reg, value, op.insn.operands[0].size);
  return Outcome::kNext;
}

// SDM 2A, LEA.
Outcome lea(Core& core, const Op& op) {
  core.set_gpr_sized(op.insn.operands[0].reg, effective_offset(op.insn, core.state(), core.next_rip),
                     op.insn.operands[0].size);
  return Outcome::kNext;
}

// SDM 2A, CMOVcc: the source is read in any case, and a 32-bit destination is zero-extended in any case.
template <typename T, Condition kCondition>
Outcome cmov_sized(Core& core, const Op& op) {
  T value;
  if (!core.load(op, 1, value)) return Outcome::kFault;
  const u8 destination = op.insn.operands[0].reg;
  core.set_gpr<T>(destination, holds(kCondition, core.state().rflags) ? value : core.gpr<T>(destination));
  return Outcome::kNext;
}
template <Condition kCondition>
Outcome cmov(Core& core, const Op& op) {
  switch (op.insn.operand_size) {
    case 2: return cmov_sized<u16, kCondition>(core, op);
    case 4: return cmov_sized<u32, kCondition>(core, op);
    default: return cmov_sized<u64, kCondition>(core, op);
  }
}

// SDM 2B, SETcc.
template <Condition kCondition>
Outcome set(Core& core, const Op& op) {
  return core.store<u8>(op, 0, holds(kCondition, core.state().rflags)) ? Outcome::kNext : Outcome::kFault;
}

/// Exchange is atomic with memory, LOCK or not (SDM 2D, XCHG).
template <typename T>
Outcome xchg(Core& core, const Op& op) {
  const unsigned memory_index = op.insn.operands[1].kind == OperandKind::kMemory ? 1 : 0;
  const Operand& other = op.insn.operands[1 - memory_index];
  T value;
  if (!core.load(op, 1 - memory_index, value)) return Outcome::kFault;
  T old{};
  const auto swap = [&](T was) {
    old = was;
    return value;
  };
  if (op.insn.operands[memory_index].kind == OperandKind::kMemory) {
    Gla address;
    if (!core.operand_address(op, sizeof(T), cpu::AccessKind::kWrite, address)) return Outcome::kFault;
    if (!core.modify_at<T>(address, true, swap)) return core.raise(core.mmu.fault());
  } else if (!core.modify<T>(op, 0, swap)) {
    return Outcome::kFault;
  }
  core.store_register(other, old);
  return Outcome::kNext;
}

// SDM 2D, XADD.
template <typename T>
Outcome xadd(Core& core, const Op& op) {
  T addend;
  if (!core.load(op, 1, addend)) return Outcome::kFault;
  T old{};
  const bool done = core.modify<T>(op, 0, [&](T was) {
    old = was;
    return static_cast<T>(was + addend);
  });
  if (!done) return Outcome::kFault;
  // With one register as both operands the sum wins, so the old value must be stored first.
  const T result = static_cast<T>(old + addend);
  core.store_register(op.insn.operands[1], old);
  if (op.insn.operands[0].kind != OperandKind::kMemory) core.store_register(op.insn.operands[0], result);
  core.set_flags(rflags::kArithmetic, add_flags(old, addend, result));
  return Outcome::kNext;
}

// SDM 2A, CMPXCHG: memory is written in any case (with its own value, if they differ); a register only if
// they are equal.
template <typename T>
Outcome cmpxchg(Core& core, const Op& op) {
  T desired;
  if (!core.load(op, 1, desired)) return Outcome::kFault;
  const T expected = core.gpr<T>(kRax);
  T old{};
  if (op.insn.operands[0].kind == OperandKind::kMemory) {
    const bool done = core.modify<T>(op, 0, [&](T was) {
      old = was;
      return was == expected ? desired : was;
    });
    if (!done) return Outcome::kFault;
  } else {
    if (!core.load(op, 0, old)) return Outcome::kFault;
    if (old == expected) core.store_register(op.insn.operands[0], desired);
  }
  const T difference = static_cast<T>(expected - old);
  if (difference != 0) core.set_gpr<T>(kRax, old);
  core.set_flags(rflags::kArithmetic, sub_flags(expected, old, difference));
  return Outcome::kNext;
}

// SDM 2A, CMPXCHG8B.
Outcome cmpxchg8b(Core& core, const Op& op) {
  const u64 expected = u64{core.gpr<u32>(kRdx)} << 32 | core.gpr<u32>(kRax);
  const u64 desired = u64{core.gpr<u32>(kRcx)} << 32 | core.gpr<u32>(kRbx);
  u64 old = 0;
  const bool done = core.modify<u64>(op, 0, [&](u64 was) {
    old = was;
    return was == expected ? desired : was;
  });
  if (!done) return Outcome::kFault;
  if (old != expected) {
    core.set_gpr<u32>(kRax, static_cast<u32>(old));
    core.set_gpr<u32>(kRdx, static_cast<u32>(old >> 32));
  }
  core.set_flags(rflags::ZF, flag_if(old == expected, rflags::ZF));
  return Outcome::kNext;
}

struct Pair {
  u64 low;
  u64 high;
  bool operator==(const Pair&) const = default;
};

/// CMPXCHG16B on the host. `host` must be 16-byte aligned.
bool host_compare_exchange_16(u8* host, Pair& expected, Pair desired) {
  bool done;
  // SAFETY: `host` comes from Mmu::prepare_rmw, which vouches for 16 bytes of guest RAM.
  asm volatile("lock cmpxchg16b %[memory]"
               : [memory] "+m"(*reinterpret_cast<Pair*>(host)), "+a"(expected.low), "+d"(expected.high),
                 "=@ccz"(done)
               : "b"(desired.low), "c"(desired.high)
               : "memory", "cc");
  return done;
}

// SDM 2A, CMPXCHG16B: #GP(0) unless 16-byte aligned, before anything else. Always done atomically.
Outcome cmpxchg16b(Core& core, const Op& op) {
  Gla address;
  const u64 offset = effective_offset(op.insn, core.state(), core.next_rip);
  const Segment& segment = core.state().segment[op.insn.mem.segment];
  const u64 base = op.insn.mem.segment >= kFs ? segment.base : 0;
  if (((base + offset) & 15) != 0) return core.raise(Fault::gp());
  if (!core.operand_address(op, 16, cpu::AccessKind::kWrite, address)) return Outcome::kFault;
  u8* host = nullptr;
  if (!core.mmu.prepare_rmw(address, 16, host)) return core.raise(core.mmu.fault());
  const Pair expected{core.gpr<u64>(kRax), core.gpr<u64>(kRdx)};
  const Pair desired{core.gpr<u64>(kRbx), core.gpr<u64>(kRcx)};
  Pair old = expected;
  if (host != nullptr) {
    host_compare_exchange_16(host, old, desired);
    core.mmu.written(host, 16);
  } else {
    const std::scoped_lock lock(cpu::split_lock_mutex());
    if (!core.mmu.read(address, old.low) || !core.mmu.read(address + 8, old.high))
      return core.raise(core.mmu.fault());
    const Pair result = old == expected ? desired : old;
    if (!core.mmu.write(address, result.low) || !core.mmu.write(address + 8, result.high))
      return core.raise(core.mmu.fault());
  }
  if (old != expected) {
    core.set_gpr<u64>(kRax, old.low);
    core.set_gpr<u64>(kRdx, old.high);
  }
  core.set_flags(rflags::ZF, flag_if(old == expected, rflags::ZF));
  return Outcome::kNext;
}

// SDM 2A, CBW/CWDE/CDQE and CWD/CDQ/CQO.
template <typename Narrow, typename Wide>
Outcome extend_accumulator(Core& core, const Op&) {
  core.set_gpr<Wide>(kRax,
                     static_cast<Wide>(static_cast<std::make_signed_t<Narrow>>(core.gpr<Narrow>(kRax))));
  return Outcome::kNext;
}
template <typename T>
Outcome sign_to_rdx(Core& core, const Op&) {
  core.set_gpr<T>(kRdx, sign(core.gpr<T>(kRax)) ? static_cast<T>(~T{0}) : T{0});
  return Outcome::kNext;
}

// SDM 2D, XLAT.
Outcome xlat(Core& core, const Op& op) {
  const u64 offset = truncate(core.state().gpr[kRbx] + core.gpr<u8>(kRax), op.insn.address_size);
  u8 value = 0;
  if (!core.read_segment(static_cast<SegmentRegister>(op.insn.mem.segment), offset, value))
    return Outcome::kFault;
  core.set_gpr<u8>(kRax, value);
  return Outcome::kNext;
}

// SDM 2A, LAHF and SAHF.
constexpr u64 kAhFlags = rflags::SF | rflags::ZF | rflags::AF | rflags::PF | rflags::CF;
Outcome lahf(Core& core, const Op&) {
  const u64 ah = (core.state().rflags & kAhFlags) | rflags::kFixed1;
  core.state().gpr[kRax] = (core.state().gpr[kRax] & ~u64{0xFF00}) | ah << 8;
  return Outcome::kNext;
}
Outcome sahf(Core& core, const Op&) {
  core.set_flags(kAhFlags, core.state().gpr[kRax] >> 8);
  return Outcome::kNext;
}

// SALC (undocumented until SDM 2B of 2016): AL from CF.
Outcome salc(Core& core, const Op&) {
  core.set_gpr<u8>(kRax, core.flag(rflags::CF) ? 0xFF : 0);
  return Outcome::kNext;
}

template <u64 kFlag>
Outcome set_flag(Core& core, const Op&) {
  core.set_flags(kFlag, kFlag);
  return Outcome::kNext;
}
template <u64 kFlag>
Outcome clear_flag(Core& core, const Op&) {
  core.set_flags(kFlag, 0);
  return Outcome::kNext;
}
Outcome cmc(Core& core, const Op&) {
  core.state().rflags ^= rflags::CF;
  return Outcome::kNext;
}

constexpr std::array kRows = {
    HandlerRow VERT_EACH_SIZE(MOV, mov),
    HandlerRow VERT_EACH_SIZE(MOVNTI, mov_general),
    HandlerRow VERT_ANY_SIZE(MOVZX, movzx),
    HandlerRow VERT_ANY_SIZE(MOVSX, movsx),
    HandlerRow VERT_ANY_SIZE(MOVSXD, movsx),
    HandlerRow VERT_ANY_SIZE(LEA, lea),
    HandlerRow VERT_EACH_SIZE(XCHG, xchg),
    HandlerRow VERT_EACH_SIZE(XADD, xadd),
    HandlerRow VERT_EACH_SIZE(CMPXCHG, cmpxchg),
    HandlerRow VERT_ANY_SIZE(CMPXCHG8B, cmpxchg8b),
    HandlerRow VERT_ANY_SIZE(CMPXCHG16B, cmpxchg16b),
    HandlerRow VERT_ANY_SIZE(CBW, (extend_accumulator<u8, u16>)),
    HandlerRow VERT_ANY_SIZE(CWDE, (extend_accumulator<u16, u32>)),
    HandlerRow VERT_ANY_SIZE(CDQE, (extend_accumulator<u32, u64>)),
    HandlerRow VERT_ANY_SIZE(CWD, sign_to_rdx<u16>),
    HandlerRow VERT_ANY_SIZE(CDQ, sign_to_rdx<u32>),
    HandlerRow VERT_ANY_SIZE(CQO, sign_to_rdx<u64>),
    HandlerRow VERT_ANY_SIZE(XLAT, xlat),
    HandlerRow VERT_ANY_SIZE(LAHF, lahf),
    HandlerRow VERT_ANY_SIZE(SAHF, sahf),
    HandlerRow VERT_ANY_SIZE(SALC, salc),
    HandlerRow VERT_ANY_SIZE(STC, set_flag<rflags::CF>),
    HandlerRow VERT_ANY_SIZE(CLC, clear_flag<rflags::CF>),
    HandlerRow VERT_ANY_SIZE(CMC, cmc),
    HandlerRow VERT_ANY_SIZE(STD, set_flag<rflags::DF>),
    HandlerRow VERT_ANY_SIZE(CLD, clear_flag<rflags::DF>),
    VERT_CONDITION_ROWS(CMOV, cmov),
    VERT_CONDITION_ROWS(SET, set),
};

}  // namespace

std::span<const HandlerRow> move_handlers() { return kRows; }

}  // namespace vert::interp

// What is known of a block before code is made for it: its instructions, which flags matter where, and which
// memory accesses can share one check.
//
// A block is a run of instructions in one page that is entered at its start only, and left at its end or by a
// branch that is taken. Pure, but for the guest's bytes; on the vCPU's thread.
#pragma once

#include <array>
#include <vector>

#include "engine/bt/guest_insn.hpp"

namespace vert::bt {

/// A guest access: where, in terms that compare within the block. Two accesses with the same `base` differ by
/// their offsets.
struct Access {
  u16 insn = 0;
  u16 base = 0;  // 0: nothing is known about the address
  u8 reg = 0;    // the general register that holds `base` plus `reg_offset` before the instruction
  bool write = false;
  u8 size = 0;
  i32 offset = 0;  // from `base`
  i16 group = -1;  // the group whose check covers it
};

/// Accesses to one page, checked at once before instruction `check`: [base + low, base + low + span).
struct Group {
  u16 check = 0;
  u16 first = 0;  // instruction that accesses
  u16 last = 0;  // instruction
  u8 reg = 0;    // holds base + reg_offset before `check`
  i32 reg_offset = 0;
  i32 low = 0;
  u32 span = 0;
  bool write = false;
};

struct BlockPlan {
  static constexpr unsigned kMaxInsns = 48;
  static constexpr unsigned kMaxBranches = 4;

  std::vector<GuestInsn> insns;  // the first `count` are the block's
  unsigned count = 0;
  unsigned length = 0;  // bytes of all of them
  /// Arithmetic flags whose values matter before each instruction.
  std::array<u16, kMaxInsns + 1> live_before{};
  /// Each instruction's own operand, and what it does to the stack: up to two.
  std::array<std::array<Access, 2>, kMaxInsns> accesses;
  std::array<u8, kMaxInsns> access_count{};
  std::vector<Group> groups;
  u8 fpu = 0;                // of all instructions
  unsigned fpu_check = 0;    // before which instruction the FPU is loaded
  int attention_check = -1;  // before which instruction other threads' wishes are looked at, or -1

  [[nodiscard]] const GuestInsn& insn(unsigned i) const { return insns[i]; }
  /// The last instruction at or before `limit`, not before `first`, before which no flag matters; `limit` if
  /// none.
  [[nodiscard]] unsigned quiet_before(unsigned limit, unsigned first = 0) const;
};

/// Plans the block at `rip`, of at most `most` instructions; `bytes` are those from there to the page's end. A
/// block of one instruction with length 0 means that it cannot be decoded from these bytes alone.
void plan_block(std::span<const u8> bytes, u64 rip, const Mode& mode, const x86::CpuModel& model,
                BlockPlan& plan, unsigned most = BlockPlan::kMaxInsns);

}  // namespace vert::bt

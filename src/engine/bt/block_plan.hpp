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

/// Addresses of the form base + index * scale + constant, with the same unknown values for base and index:
/// they differ by their constants only. Values are numbered within the block; 0 is none.
struct Family {
  static constexpr u16 kConstant = 0xFFFF;  // `index` is then the number of a page, from 1, in BlockPlan
  u16 base = 0;
  u16 index = 0;
  u8 scale = 1;
  [[nodiscard]] bool known() const { return base != 0 || index != 0; }
  bool operator==(const Family&) const = default;
};

/// A guest access.
struct Access {
  u16 insn = 0;
  Family family;  // not known(): nothing can be said about the address
  bool write = false;
  u8 size = 0;
  i32 offset = 0;  // the constant
  u8 reg = 0;      // for a family without an index: the register that has the base
  i16 group = -1;  // the group whose check covers it
};

/// Accesses to one page, checked at once before instruction `check`: span bytes from base + index * scale +
/// low.
struct Group {
  static constexpr u8 kNoRegister = 0xFF;
  u16 check = 0;
  u16 first = 0;  // instruction that accesses
  u16 last = 0;
  // Registers that have the base and the index before `check`, but for constants, which `low` takes into
  // account.
  u8 base = kNoRegister;
  u8 index = kNoRegister;
  u8 scale = 1;
  bool constant = false;  // all in this page:
  u64 page = 0;
  i32 low = 0;
  i32 offset = 0;  // `low` as Access::offset has it
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
  std::vector<u64> constant_pages;
  u8 fpu = 0;                // of all instructions
  unsigned fpu_check = 0;    // before which instruction the FPU is loaded
  int attention_check = -1;  // before which instruction other threads' wishes are looked at, or -1

  [[nodiscard]] const GuestInsn& insn(unsigned i) const { return insns[i]; }
  /// The last instruction at or before `limit`, not before `first`, before which no flag matters; `limit` if
  /// none.
  [[nodiscard]] unsigned quiet_before(unsigned limit, unsigned first = 0) const;
};

/// The guest's bytes around a block: its page, or, for an instruction that runs into the next, what there is
/// of both.
struct CodeBytes {
  std::span<const u8> bytes;
  u64 first = 0;  // the address of bytes[0]
  /// The guest may write to them by the addresses at which it runs them, and then sees the new code at once
  /// (SDM 3A, 9.1.3). What is decided from bytes ahead may then be wrong, so flags are kept at all times.
  bool writable = false;
  [[nodiscard]] bool contains(u64 rip) const { return rip - first < bytes.size(); }
  [[nodiscard]] std::span<const u8> from(u64 rip) const { return bytes.subspan(rip - first); }
};

/// Plans the block at `rip`, of at most `most` instructions. A block of one instruction with length 0 means
/// that it cannot be decoded from these bytes alone.
void plan_block(const CodeBytes& code, u64 rip, const Mode& mode, const x86::CpuModel& model, BlockPlan& plan,
                unsigned most = BlockPlan::kMaxInsns);

}  // namespace vert::bt

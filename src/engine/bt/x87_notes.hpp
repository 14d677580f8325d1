// Which x87 instruction ran last, and where its memory operand was: FIP, FOP and FDP are the guest's, and
// never the host's own, which name the code cache and host memory (and are lost with signals on AMD's
// processors).
//
// Generated code notes them behind each run of x87 instructions, in Context::x87_code and x87_data. Where it
// is left within a run, the exit or mark says what has not been noted yet. One for each translator, on its
// thread.
#pragma once

#include <vector>

#include "engine/bt/context.hpp"
#include "engine/bt/guest_insn.hpp"

namespace vert::bt {

/// Whether FIP, FOP and FDP change with it (SDM 1, 8.1.8).
[[nodiscard]] bool sets_x87_pointers(const GuestInsn& guest);

/// An x87 instruction that sets the pointers.
struct X87Origin {
  u64 rip = 0;
  u16 opcode = 0;       // FOP
  bool memory = false;  // FDP, too
};

/// The pointers of a run of x87 instructions up to some point in it.
struct X87Unnoted {
  u32 origin = 0;
  bool memory = false;
  // The operand of the last with one, in registers that have not changed since.
  u8 segment = 0;
  u8 base = x86::MemoryOperand::kNoRegister;
  u8 index = x86::MemoryOperand::kNoRegister;
  u8 scale = 1;
  bool wide = true;  // else the address has 32 bits
  u64 displacement = 0;
};
[[nodiscard]] X87Unnoted unnoted(u32 origin, const GuestInsn* with_memory);

struct X87Notes {
  X87Notes() { clear(); }
  void clear();
  // Both from 1 on: 0 is none.
  std::vector<X87Origin> origins;
  std::vector<X87Unnoted> unnoted;
};

/// As generated code does it, with the guest's registers in the Context.
void note(const X87Unnoted& unnoted, Context& context);
/// Into CpuState, whose FSW is up to date: then nothing is noted any more.
void settle_x87_pointers(const X87Notes& notes, const x86::CpuModel& model, Context& context);

}  // namespace vert::bt

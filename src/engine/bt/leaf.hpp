// Leaf functions: what generated code calls without saving vector registers.
//
// Compiled for general registers only, and self-contained: they call nothing that may use other registers. On
// the vCPU's thread. Where one declines (false), nothing that the guest can see has changed, and the
// interpreter does it.
#pragma once

#include "base/types.hpp"
#include "engine/bt/context.hpp"

namespace vert::bt {

/// What a walk of the page tables found, for accesses of one privilege.
struct PageView {
  u64 page = 0;        // guest-physical, of 4 KiB
  unsigned shift = 0;  // log2 of the size of the guest's page
  u8* host = nullptr;  // where `page` lies; null: not RAM
  bool readable = false;
  bool writable = false;        // marks (GuestMemory) left aside
  bool may_be_written = false;  // the same, whether or not D is set
};

extern "C" {

/// Looks where `address` leads; false if nowhere. Sets no A or D bits: where one is missing, so is the right.
bool leaf_look_up(const Context* context, u64 address, u32 privilege, PageView* view);

/// Walks the guest's page tables for `address` and fills the slot of Context::tlb[privilege]; `write` asks
/// for its write half, which is filled too whenever it may be. Sets no A or D bits: declines where one is
/// missing, and on everything that is not plain RAM allowed to this privilege (a cpu::Privilege).
bool leaf_fill_tlb(Context* context, u64 address, u32 write, u32 privilege);

// String instructions in 64-bit mode with 64-bit addresses, DF = 0 and no base at either end, on
// Context::gpr; `size` is 1, 2, 4 or 8. They do not look at data breakpoints.

/// REP MOVS and REP STOS: go on for some 64 KiB, or until the interpreter must do an element. Return what RCX
/// holds.
u64 leaf_rep_movs(Context* context, u32 size, u32 privilege);
u64 leaf_rep_stos(Context* context, u32 size, u32 privilege);
/// One element.
bool leaf_movs(Context* context, u32 size, u32 privilege);
bool leaf_stos(Context* context, u32 size, u32 privilege);
bool leaf_lods(Context* context, u32 size, u32 privilege);

// Changes of privilege, on Context (general registers, flags in all their places, RIP) and CpuState (RFLAGS,
// CS, SS, CPL). The caller then looks at what follows from CPL, IF and AC.

/// Has code of that mode run next: its privilege, salt and return stack become the Context's.
void leaf_follow_mode(Context* context, const ModeWords* mode);
/// SYSCALL from 64-bit code at CPL 3.
bool leaf_syscall(Context* context, u64 next_rip);
/// SYSRET with a 64-bit operand.
bool leaf_sysret(Context* context);
/// IRETQ at CPL 0 to 64-bit code at CPL 0 or 3; `privilege` is that of the accesses to the stack.
bool leaf_iretq(Context* context, u32 privilege);

}  // extern "C"

}  // namespace vert::bt

// How generated code asks leaf functions for something: a number in kScratch, and one as the answer.
#pragma once

#include "base/types.hpp"
#include "cpu/mmu.hpp"

namespace vert::bt {

/// To fill the TLB for `size` bytes at kAddress.
[[nodiscard]] constexpr u32 fill_request(u32 size, bool write, cpu::Privilege privilege) {
  return size | (write ? 1U << 16 : 0) | static_cast<u32>(privilege) << 24;
}
enum class FillResult : u8 { kDeclined = 0, kFilled = 1, kCrosses = 2 };

/// REP MOVS or STOS; the answer is what RCX holds then.
[[nodiscard]] constexpr u32 string_request(u32 size, bool moves, cpu::Privilege privilege) {
  return size | (moves ? 1U << 16 : 0) | static_cast<u32>(privilege) << 24;
}

/// XSAVE and its kin at kAddress; the answer is 0 if it was done.
enum class StateKind : u8 { kSave, kSaveCompacted, kSaveSupervisor, kLoad, kLoadSupervisor };
[[nodiscard]] constexpr u32 state_request(StateKind kind, cpu::Privilege privilege) {
  return static_cast<u32>(kind) | static_cast<u32>(privilege) << 24;
}

/// SYSCALL, SYSRET and IRET, as leaf_transfer() is asked for them.
enum class Transfer : u8 { kSystemCall, kSystemReturn, kInterruptReturn };
/// The exit (Context::exit) after one of them that found no code to go on with.
inline constexpr u64 kTransferredExit = 1;

}  // namespace vert::bt

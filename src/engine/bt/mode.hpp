// What a translation depends on besides the bytes and their address.
#pragma once

#include "cpu/cpu_state.hpp"
#include "cpu/mmu.hpp"
#include "x86/insn.hpp"

namespace vert::bt {

/// Which kinds of registers the guest may use without a fault (#UD, #NM): bits of Mode::fpu.
namespace fpu {
inline constexpr u8 kX87 = 1;
inline constexpr u8 kSse = 2;
inline constexpr u8 kAvx = 4;
inline constexpr u8 kAvx512 = 8;
}  // namespace fpu

struct Mode {
  bool code32 = false;
  cpu::Privilege privilege = cpu::Privilege::kSupervisor;
  u8 fpu = 0;
  bool time_stamp = true;   // RDTSC is allowed
  bool fs_gs_base = false;  // CR4.FSGSBASE
  bool smap = false;        // CR4.SMAP
  bool counted = false;     // instructions are counted against Context::budget
  bool windows = false;     // CPL 3 in 64-bit mode: accesses go through windows (windows.hpp), without checks
  u8 space_slot = 0;        // of the address space that has the windows, below kSpaceSlots; else 0
  bool unshared = false;    // each access checks for itself: for blocks whose shared checks meet page ends

  [[nodiscard]] bool user() const { return privilege == cpu::Privilege::kUser; }
  [[nodiscard]] x86::CodeSize code_size() const { return code32 ? x86::CodeSize::k32 : x86::CodeSize::k64; }
  [[nodiscard]] u16 key() const {
    return static_cast<u16>(usual() | (time_stamp ? 0x80 : 0) | (fs_gs_base ? 0x100 : 0) |
                            (smap ? 0x200 : 0) | (counted ? 0x400 : 0) | (unshared ? 0x800 : 0) |
                            space_slot << 12);
  }
  /// What is added to a RIP to make its key in the table of indirect branches. Salts differ in bits that
  /// index the table, so no two keys of different modes are the same at one index. What a salt leaves out
  /// changes seldom: the table is emptied then (Runtime::follow_controls).
  [[nodiscard]] i32 salt() const { return (usual() | space_slot << 7) << 2; }
  static constexpr unsigned kSaltBits = 11;
  static constexpr unsigned kSpaceSlots = 16;
  /// Whose calls its privilege's return stack may hold: where a return lands, only the address is compared,
  /// so a stack is emptied before code of another owner returns by it. The supervisor's two privileges have
  /// a stack each, and change often: they have the same owner.
  [[nodiscard]] u64 return_owner() const { return user() ? static_cast<u64>(salt()) : code32 ? 1 : 0; }

 private:
  [[nodiscard]] int usual() const {
    constexpr int kWindows = 3;  // in the place of the privilege: it is the user's
    return (code32 ? 1 : 0) | (windows ? kWindows : static_cast<int>(privilege)) << 1 | fpu << 3;
  }
};

/// The mode of 64-bit code of that privilege, everything but the privilege as in `state`.
[[nodiscard]] Mode mode_for(const cpu::CpuState& state, cpu::Privilege privilege);
/// How code at that CPL reaches memory.
[[nodiscard]] cpu::Privilege privilege_of(const cpu::CpuState& state);

/// Whether generated code may run in this state at all: protected or long mode with flat segments, and
/// nothing in play that must be looked at between instructions.
[[nodiscard]] bool translatable(const cpu::CpuState& state);

}  // namespace vert::bt

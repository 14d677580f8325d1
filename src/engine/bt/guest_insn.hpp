// A guest instruction as the translator sees it: decoded, classified, and with all that it reads and changes.
// Pure; on the vCPU's thread.
#pragma once

#include <optional>

#include "engine/bt/mode.hpp"
#include "x86/cpu_model.hpp"
#include "x86/insn.hpp"

namespace vert::bt {

/// How an instruction is translated.
enum class Form : u8 {
  kCopy,  // as it is, with registers renamed and at most one memory operand rewritten
  kLea,
  kNothing,  // hints: prefetches, NOPs, ENDBR
  kPush,     // of a register, an immediate or memory
  kPop,      // into a register
  kLeave,
  kPushFlags,
  kCall,
  kCallIndirect,
  kReturn,
  kJump,
  kJumpIndirect,
  kBranch,            // Jcc
  kString,            // REP MOVS and STOS
  kSaveState,         // XSAVE, XSAVEC, XSAVES with REX.W
  kLoadState,         // XRSTOR, XRSTORS with REX.W
  kTimeStamp,         // RDTSC, RDTSCP
  kReadSegmentBase,   // RDFSBASE, RDGSBASE
  kWriteSegmentBase,  // WRFSBASE, WRGSBASE
  kReadSegment,       // MOV of a selector to a register
  kReadControl,       // MOV from a control register
  kDirection,         // CLD, STD
  kBitString,         // BT and its kin on memory, with the bit's number in a register
  kAccessControl,     // STAC, CLAC
  kSwapGs,
  kPause,
  kClearInterrupt,
  kSetInterrupt,
  kSystemCall,
  kSystemReturn,
  kInterruptReturn,
  kInterpret,  // by the fallback engine; ends the block
};

/// Arithmetic flags, as bits of RFLAGS.
inline constexpr u16 kArithmeticFlags = 0x8D5;

struct GuestInsn {
  x86::Insn insn;
  x86::InsnDetails details;
  u64 rip = 0;
  Form form = Form::kInterpret;
  u16 flags_read = 0;    // whose value matters to it: read, or kept where it changes others
  u16 flags_killed = 0;  // overwritten whatever they were
  u8 fpu = 0;            // what it needs of fpu::
  bool writes_memory = false;
  u16 gprs_read = 0;  // explicit and hidden, address registers too
  u16 gprs_written = 0;
  i8 memory = -1;  // index of its memory operand in details, or -1

  [[nodiscard]] u64 next_rip() const { return rip + insn.length; }
  [[nodiscard]] bool has_memory() const { return memory >= 0; }
  [[nodiscard]] unsigned memory_size() const {
    return details.operand_array[static_cast<std::size_t>(memory)].size / 8U;
  }
  /// The address of its memory operand if no register but RIP is in it, without the segment's base.
  [[nodiscard]] std::optional<u64> constant_address() const;
  /// Nothing that follows in memory is executed after it without a jump.
  [[nodiscard]] bool ends_block() const;
};

/// Where a direct branch goes. Without an operand-size prefix, EIP has 32 bits outside 64-bit mode.
[[nodiscard]] inline u64 branch_target(const GuestInsn& guest, bool code32) {
  const u64 target = guest.next_rip() + static_cast<u64>(guest.insn.imm);
  return code32 ? target & 0xFFFFFFFF : target;
}

/// Decodes what `bytes` begin with, for the mode, as the model has it. An instruction that cannot be decoded
/// (invalid, too long, cut off by the end of `bytes`) is kInterpret with length 0.
void decode_guest(std::span<const u8> bytes, u64 rip, const Mode& mode, const x86::CpuModel& model,
                  GuestInsn& guest);

}  // namespace vert::bt

// Stubs: host code that loads an instruction's operands, executes its own opcode bytes, and stores the
// results.
//
// Owned by a VectorUnit, used on its thread. A stub's memory operand is StubFrame::memory, its explicit
// general register is RAX; vector and mask registers keep their numbers. Stub memory is mapped twice,
// once writable and once executable.
#pragma once

#include <array>
#include <optional>

#include <Zydis/Zydis.h>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/types.hpp"
#include "cpu/cpu_state.hpp"
#include "x86/insn.hpp"

namespace vert::interp {

/// The 512-byte image of FXSAVE64 (SDM 1, table 10-2).
struct alignas(16) FxImage {
  u16 fcw = 0;
  u16 fsw = 0;
  u8 ftw = 0;
  u8 reserved = 0;
  u16 fop = 0;
  u64 fip = 0;
  u64 fdp = 0;
  u32 mxcsr = 0;
  u32 mxcsr_mask = 0;
  std::array<std::array<u8, 16>, 8> st{};
  std::array<u8, 352> xmm_and_rest{};
};
static_assert(sizeof(FxImage) == 512);

/// What a stub works on besides the vector registers in FpuState.
struct alignas(64) StubFrame {
  std::array<u8, 64> memory{};
  FxImage fx;
  std::array<u64, 3> gpr{};  // RAX, RCX, RDX
  u64 rflags = 0;
  u32 mxcsr = 0;
  u32 host_mxcsr = 0x1F80;
};

/// Vector features of the host that decide how registers are loaded and stored.
enum class HostVectors : u8 { kSse, kAvx, kAvx512F, kAvx512Bw };
[[nodiscard]] HostVectors host_vectors();

/// What a stub has to do: from the decoded instruction.
struct StubPlan {
  std::array<u8, 16> bytes{};  // the rewritten instruction
  u8 length = 0;
  u8 opcode_offset = 0;  // of the x87 opcode in the original, for FOP
  bool legacy = true;    // only the low 128 bits of vector registers are concerned
  bool x87 = false;      // x87 or MMX state is loaded and stored
  bool mmx = false;      // and it is MMX's
  bool control = false;  // x87's, but FIP, FDP and FOP stay what they are
  bool mxcsr = false;
  bool flags_in = false;
  bool flags_out = false;
  u32 vectors_in = 0;  // bit i: register i
  u32 vectors_out = 0;
  u8 masks_in = 0;
  u8 masks_out = 0;
  u8 gprs_in = 0;  // bit 0 RAX, 1 RCX, 2 RDX, of StubFrame::gpr
  u8 gprs_out = 0;
  u8 explicit_gpr = 0xFF;  // which guest register StubFrame::gpr[0] stands for; 0xFF: RAX itself
};

/// The instruction's bytes as a 64-bit one with its memory operand at [RSI] and its general register in RAX.
/// Nothing if that cannot be.
[[nodiscard]] bool rewrite_instruction(const ZydisDecodedInstruction& decoded,
                                       const ZydisDecodedOperand* operands, const x86::Insn& insn,
                                       StubPlan& plan);

/// Where a stub lies in the executable mapping.
struct StubCode {
  const u8* entry = nullptr;
  const u8* instruction = nullptr;  // the guest's instruction within
};

/// Why a stub came back.
enum class StubExit : u32 { kDone = 0, kFloatingPoint = 1, kUndefined = 2 };

class StubArena {
 public:
  static constexpr std::size_t kStubSize = 256;

  [[nodiscard]] static Result<StubArena> create(std::size_t stubs);

  /// Writes the stub for `plan` in place of whatever is in slot `index`.
  [[nodiscard]] StubCode emit(std::size_t index, const StubPlan& plan);
  /// Runs a stub. Signals that its instruction raises end it.
  [[nodiscard]] StubExit run(const StubCode& code, cpu::FpuState& fpu, StubFrame& frame) const;

 private:
  StubArena(base::Mapping writable, base::Mapping executable);
  void emit_recovery();

  base::Mapping writable_;
  base::Mapping executable_;
  std::vector<bool> used_;
};

}  // namespace vert::interp

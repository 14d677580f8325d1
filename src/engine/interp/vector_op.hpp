// VectorOp: an instruction of the vector unit, prepared for execution.
//
// Made by vector_prepare.cpp from what the decoder library knows, kept in the VectorUnit's pool.
#pragma once

#include <array>
#include <cstring>
#include <span>

#include <Zydis/Zydis.h>

#include "base/types.hpp"
#include "engine/interp/vector_stub.hpp"
#include "x86/cpu_model.hpp"
#include "x86/insn.hpp"

namespace vert::interp {

/// Who executes it.
enum class VectorKind : u8 {
  kStub,        // the host's own unit, in a stub
  kStore,       // a plain or non-temporal store of a register
  kLoad,        // a plain load into a vector register
  kGather,      // VGATHER*, VPGATHER*
  kScatter,     // VSCATTER*, VPSCATTER*
  kByteMask,    // MASKMOVQ, MASKMOVDQU, VMASKMOVDQU
  kZeroUpper,   // VZEROUPPER
  kZeroAll,     // VZEROALL
  kMxcsr,       // LDMXCSR, STMXCSR
  kX87Control,  // x87.cpp
  kXsave,       // xsave.cpp: FXSAVE and XSAVE families, XGETBV, XSETBV
  kPkru,        // RDPKRU, WRPKRU
};

/// What must be enabled before it runs, in the order of checks (SDM 2A, 2.4 to 2.8; SDM 3A, table 2-2, 13.1).
enum class VectorGate : u8 {
  kNone,
  kX87,         // CR0.EM or TS: #NM; pending exception: #MF
  kX87Control,  // the same without #MF: instructions that do not wait
  kWait,        // FWAIT: #NM only if MP and TS
  kMmx,
  kSse,
  kSseMmx,
  kAvx,
  kAvx512,
  kFxsave,
  kXsave,
  kXcr,
  kPku,
};

/// Which bytes of the memory operand are touched.
enum class MaskShape : u8 {
  kWhole,     // all
  kElements,  // element i of n if any mask bit i, i + n, i + 2n ... is set (n smaller than bits: broadcast)
  kPacked,    // the first popcount(mask) elements: compress and expand
  kSigns,     // element i if the sign of element i of a vector register is set: VMASKMOV
};

struct VectorMemory {
  bool present = false;
  bool read = false;
  bool write = false;
  u8 segment = x86::kDs;
  u8 alignment = 1;          // required: else #GP
  bool maskable = false;     // but not with MXCSR.MM set (APM 2, 11.5.10)
  u8 checked_alignment = 1;  // what EFLAGS.AC asks for: else #AC
  u16 size = 0;
  MaskShape shape = MaskShape::kWhole;
  bool whole_must_be_accessible = false;  // no fault suppression (SDM 2A, 2.8.10)
  u8 element_size = 0;
  u8 elements = 0;
  u8 mask_bits = 0;
  u8 mask_register = 0;  // k register, or vector register for kSigns
};

struct VectorGather {
  bool evex = false;
  // A fault leaves the bits of elements that are still to be done, and what lies above the vector length, as
  // on AMD's processors.
  bool keeps_rest = false;
  u8 data = 0;  // vector registers
  u8 index = 0;
  u8 mask = 0;  // k register with EVEX, else vector register
  u8 data_size = 0;
  u8 index_size = 0;
  u8 count = 0;
  u8 scale = 1;
};

struct VectorOp {
  static constexpr u8 kNoRegister = 0xFF;
  using Key = std::array<u8, 16>;  // the instruction's bytes, then the code size

  Key key{};
  VectorKind kind = VectorKind::kStub;
  VectorGate gate = VectorGate::kNone;
  ZydisMnemonic mnemonic = ZYDIS_MNEMONIC_INVALID;
  VectorMemory memory;
  VectorGather gather;
  /// kStore and kLoad: the vector register, or with `general` the general register (MOVNTI), and whether
  /// the rest of the vector register is cleared.
  u8 plain_register = 0;
  bool plain_general = false;
  bool plain_zeroes = false;
  u32 slot = 0;  // in the unit's pool and its stub memory
  StubPlan plan;
  StubCode code;
};

[[nodiscard]] inline VectorOp::Key make_key(const x86::Insn& insn, x86::CodeSize size) {
  VectorOp::Key key{};
  std::memcpy(key.data(), insn.bytes.data(), insn.bytes.size());
  key[15] = static_cast<u8>(size);
  return key;
}

/// Fills `op` (all but its code) for an instruction of the vector unit. False: it is #UD.
[[nodiscard]] bool prepare_vector_op(const x86::Insn& insn, x86::CodeSize size, x86::Vendor vendor,
                                     VectorOp& op);

}  // namespace vert::interp

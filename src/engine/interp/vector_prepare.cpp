// From a decoded instruction to a VectorOp: which registers, which memory, which gate.
#include <algorithm>
#include <bit>

#include "engine/interp/vector_op.hpp"

namespace vert::interp {

namespace {

bool is_vector(ZydisRegister reg) {
  const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
  return kind == ZYDIS_REGCLASS_XMM || kind == ZYDIS_REGCLASS_YMM || kind == ZYDIS_REGCLASS_ZMM;
}

u8 id_of(ZydisRegister reg) { return static_cast<u8>(ZydisRegisterGetId(reg)); }

bool writes(const ZydisDecodedOperand& operand) {
  return (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}
bool reads(const ZydisDecodedOperand& operand) {
  return (operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
}

/// Instructions with a handler of their own, by mnemonic.
struct Special {
  VectorKind kind;
  VectorGate gate;
};

bool find_special(ZydisMnemonic mnemonic, Special& special) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_VZEROUPPER: special = {VectorKind::kZeroUpper, VectorGate::kAvx}; return true;
    case ZYDIS_MNEMONIC_VZEROALL: special = {VectorKind::kZeroAll, VectorGate::kAvx}; return true;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR: special = {VectorKind::kMxcsr, VectorGate::kSse}; return true;
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR: special = {VectorKind::kMxcsr, VectorGate::kAvx}; return true;
    case ZYDIS_MNEMONIC_MASKMOVQ: special = {VectorKind::kByteMask, VectorGate::kMmx}; return true;
    case ZYDIS_MNEMONIC_MASKMOVDQU: special = {VectorKind::kByteMask, VectorGate::kSse}; return true;
    case ZYDIS_MNEMONIC_VMASKMOVDQU: special = {VectorKind::kByteMask, VectorGate::kAvx}; return true;
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE: special = {VectorKind::kX87Control, VectorGate::kX87Control}; return true;
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR: special = {VectorKind::kX87Control, VectorGate::kX87}; return true;
    case ZYDIS_MNEMONIC_FWAIT: special = {VectorKind::kX87Control, VectorGate::kWait}; return true;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64: special = {VectorKind::kXsave, VectorGate::kFxsave}; return true;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64: special = {VectorKind::kXsave, VectorGate::kXsave}; return true;
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_XSETBV: special = {VectorKind::kXsave, VectorGate::kXcr}; return true;
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_WRPKRU: special = {VectorKind::kPkru, VectorGate::kPku}; return true;
    default: return false;
  }
}

bool is_plain_move(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_MOVNTPS:
    case ZYDIS_MNEMONIC_MOVNTPD:
    case ZYDIS_MNEMONIC_MOVNTDQ:
    case ZYDIS_MNEMONIC_MOVNTDQA:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVUPS:
    case ZYDIS_MNEMONIC_VMOVUPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQU:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVDQU8:
    case ZYDIS_MNEMONIC_VMOVDQU16:
    case ZYDIS_MNEMONIC_VMOVDQU32:
    case ZYDIS_MNEMONIC_VMOVDQU64:
    case ZYDIS_MNEMONIC_VLDDQU:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA: return true;
    default: return false;
  }
}

/// Legacy SSE instructions whose 16-byte operand may lie anywhere (SDM 2A, table 2-21).
bool may_be_unaligned(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM: return true;
    default: return false;
  }
}

bool must_be_aligned(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA: return true;
    default: return false;
  }
}

/// What only the 8087 and the 80287 looked at.
bool is_8087_control(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_FENI8087_NOP || mnemonic == ZYDIS_MNEMONIC_FDISI8087_NOP ||
         mnemonic == ZYDIS_MNEMONIC_FSETPM287_NOP;
}

bool is_packed(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_VCOMPRESSPS:
    case ZYDIS_MNEMONIC_VCOMPRESSPD:
    case ZYDIS_MNEMONIC_VPCOMPRESSB:
    case ZYDIS_MNEMONIC_VPCOMPRESSW:
    case ZYDIS_MNEMONIC_VPCOMPRESSD:
    case ZYDIS_MNEMONIC_VPCOMPRESSQ:
    case ZYDIS_MNEMONIC_VEXPANDPS:
    case ZYDIS_MNEMONIC_VEXPANDPD:
    case ZYDIS_MNEMONIC_VPEXPANDB:
    case ZYDIS_MNEMONIC_VPEXPANDW:
    case ZYDIS_MNEMONIC_VPEXPANDD:
    case ZYDIS_MNEMONIC_VPEXPANDQ: return true;
    default: return false;
  }
}

/// Element size of VMASKMOV and VPMASKMOV; 0 for all others.
u8 sign_masked_size(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD: return 4;
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return 8;
    default: return 0;
  }
}

/// Size of the indices of a gather or scatter; 0 for all others (prefetches among them).
u8 gather_index_size(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VSCATTERDPD:
    case ZYDIS_MNEMONIC_VSCATTERDPS:
    case ZYDIS_MNEMONIC_VPSCATTERDD:
    case ZYDIS_MNEMONIC_VPSCATTERDQ: return 4;
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VSCATTERQPD:
    case ZYDIS_MNEMONIC_VSCATTERQPS:
    case ZYDIS_MNEMONIC_VPSCATTERQD:
    case ZYDIS_MNEMONIC_VPSCATTERQQ: return 8;
    default: return 0;
  }
}

/// Instructions whose memory operand is accessed whole, whatever the mask: exception classes NF (SDM 2A,
/// 2.8.10), and those that combine elements before masking, which the decoder library counts elsewhere.
bool no_fault_suppression(ZydisMnemonic mnemonic, ZydisExceptionClass exception_class) {
  if (mnemonic == ZYDIS_MNEMONIC_VDBPSADBW || mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEQB ||
      mnemonic == ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB)
    return true;
  switch (exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1NF:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E4NF:
    case ZYDIS_EXCEPTION_CLASS_E5NF:
    case ZYDIS_EXCEPTION_CLASS_E6NF:
    case ZYDIS_EXCEPTION_CLASS_E9NF:
    case ZYDIS_EXCEPTION_CLASS_E10NF:
    case ZYDIS_EXCEPTION_CLASS_E11NF: return true;
    default: return false;
  }
}

/// Categories that neither read nor write MXCSR.
bool is_integer_category(ZydisInstructionCategory category) {
  switch (category) {
    case ZYDIS_CATEGORY_AES:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_GFNI:
    case ZYDIS_CATEGORY_KMASK:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_LOGICAL_FP:
    case ZYDIS_CATEGORY_MMX:
    case ZYDIS_CATEGORY_PCLMULQDQ:
    case ZYDIS_CATEGORY_SHA:
    case ZYDIS_CATEGORY_VAES:
    case ZYDIS_CATEGORY_VPCLMULQDQ: return true;
    default: return false;
  }
}

struct Broadcast {
  u8 from;
  u8 to;
};
Broadcast broadcast_of(ZydisBroadcastMode mode) {
  switch (mode) {
    case ZYDIS_BROADCAST_MODE_1_TO_2: return {1, 2};
    case ZYDIS_BROADCAST_MODE_1_TO_4: return {1, 4};
    case ZYDIS_BROADCAST_MODE_1_TO_8: return {1, 8};
    case ZYDIS_BROADCAST_MODE_1_TO_16: return {1, 16};
    case ZYDIS_BROADCAST_MODE_1_TO_32: return {1, 32};
    case ZYDIS_BROADCAST_MODE_1_TO_64: return {1, 64};
    case ZYDIS_BROADCAST_MODE_2_TO_4: return {2, 4};
    case ZYDIS_BROADCAST_MODE_2_TO_8: return {2, 8};
    case ZYDIS_BROADCAST_MODE_2_TO_16: return {2, 16};
    case ZYDIS_BROADCAST_MODE_4_TO_8: return {4, 8};
    case ZYDIS_BROADCAST_MODE_4_TO_16: return {4, 16};
    case ZYDIS_BROADCAST_MODE_8_TO_16: return {8, 16};
    default: return {0, 0};
  }
}

class Preparer {
 public:
  Preparer(const x86::Insn& insn, x86::Vendor vendor, VectorOp& op)
      : insn_(insn), amd_(vendor == x86::Vendor::kAmd), op_(op) {}

  [[nodiscard]] bool run(x86::CodeSize size);

 private:
  [[nodiscard]] bool decode(x86::CodeSize size);
  void classify();
  [[nodiscard]] bool set_registers();
  [[nodiscard]] bool set_register(const ZydisDecodedOperand& operand);
  [[nodiscard]] bool set_general(const ZydisDecodedOperand& operand);
  void set_memory();
  [[nodiscard]] u8 required_alignment() const;
  [[nodiscard]] u8 checked_alignment() const;
  void set_mask_shape(const ZydisDecodedOperand& operand);
  [[nodiscard]] bool set_gather(const ZydisDecodedOperand& vsib);
  void set_plain();
  void set_gate();

  [[nodiscard]] bool masked() const {
    const auto& mask = decoded_.avx.mask;
    return decoded_.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && mask.reg != ZYDIS_REGISTER_NONE &&
           mask.reg != ZYDIS_REGISTER_K0;
  }
  [[nodiscard]] std::span<const ZydisDecodedOperand> operands() const {
    return std::span(operands_).first(decoded_.operand_count);
  }

  const x86::Insn& insn_;
  const bool amd_;  // the rules of AMD's processors
  VectorOp& op_;
  ZydisDecodedInstruction decoded_{};
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands_{};
  const ZydisDecodedOperand* memory_ = nullptr;
  bool has_mmx_ = false;
  bool has_vector_ = false;
  bool has_mask_ = false;
  bool has_x87_ = false;
};

bool Preparer::decode(x86::CodeSize size) {
  static constexpr std::array kModes = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32,
                                        ZYDIS_MACHINE_MODE_LONG_64};
  static constexpr std::array kStacks = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64};
  const auto index = static_cast<std::size_t>(size);
  ZydisDecoder decoder;
  return ZYAN_SUCCESS(ZydisDecoderInit(&decoder, kModes[index], kStacks[index])) &&
         ZYAN_SUCCESS(
             ZydisDecoderDecodeFull(&decoder, insn_.bytes.data(), insn_.length, &decoded_, operands_.data()));
}

bool is_x87_isa(ZydisISASet isa) {
  return isa == ZYDIS_ISA_SET_X87 || isa == ZYDIS_ISA_SET_FCMOV || isa == ZYDIS_ISA_SET_SSE3X87;
}

/// What only the 8087 and 80287 knew: like all the control instructions with an N, it does not wait.
bool is_x87_nop(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_FENI8087_NOP || mnemonic == ZYDIS_MNEMONIC_FDISI8087_NOP ||
         mnemonic == ZYDIS_MNEMONIC_FSETPM287_NOP;
}

void Preparer::classify() {
  has_x87_ = is_x87_isa(decoded_.meta.isa_set);
  has_mmx_ = decoded_.mnemonic == ZYDIS_MNEMONIC_EMMS;
  for (const auto& operand : operands()) {
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY && memory_ == nullptr) memory_ = &operand;
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    const ZydisRegisterClass kind = ZydisRegisterGetClass(operand.reg.value);
    has_mmx_ |= kind == ZYDIS_REGCLASS_MMX;
    has_mask_ |= kind == ZYDIS_REGCLASS_MASK;
    has_x87_ |= kind == ZYDIS_REGCLASS_X87;
    has_vector_ |= is_vector(operand.reg.value);
  }
}

bool Preparer::set_general(const ZydisDecodedOperand& operand) {
  StubPlan& plan = op_.plan;
  unsigned slot = 0;
  if (operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG ||
      operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
    if (plan.gprs_in != 0) return false;  // one explicit register, and none beside it
    plan.explicit_gpr = id_of(operand.reg.value);
  } else {
    switch (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operand.reg.value)) {
      case ZYDIS_REGISTER_RAX: slot = 0; break;
      case ZYDIS_REGISTER_RCX: slot = 1; break;
      case ZYDIS_REGISTER_RDX: slot = 2; break;
      default: return false;
    }
    if (plan.explicit_gpr != VectorOp::kNoRegister) return false;
  }
  plan.gprs_in |= static_cast<u8>(1U << slot);
  if (writes(operand)) plan.gprs_out |= static_cast<u8>(1U << slot);
  return true;
}

bool Preparer::set_register(const ZydisDecodedOperand& operand) {
  StubPlan& plan = op_.plan;
  const ZydisRegister reg = operand.reg.value;
  switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
      // Registers that are only written are loaded too: what the instruction leaves alone stays.
      plan.vectors_in |= u32{1} << id_of(reg);
      if (writes(operand)) plan.vectors_out |= u32{1} << id_of(reg);
      return operand.attributes == 0;  // no ranges of registers
    case ZYDIS_REGCLASS_MASK:
      plan.masks_in |= static_cast<u8>(1U << id_of(reg));
      if (writes(operand)) plan.masks_out |= static_cast<u8>(1U << id_of(reg));
      return operand.attributes == 0;
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return set_general(operand);
    case ZYDIS_REGCLASS_FLAGS:
      plan.flags_in = true;
      plan.flags_out = writes(operand);
      return true;
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_MMX: return true;
    default: break;
  }
  return reg == ZYDIS_REGISTER_MXCSR || reg == ZYDIS_REGISTER_X87STATUS || reg == ZYDIS_REGISTER_X87CONTROL ||
         reg == ZYDIS_REGISTER_X87TAG;
}

bool Preparer::set_registers() {
  StubPlan& plan = op_.plan;
  for (const auto& operand : operands()) {
    switch (operand.type) {
      case ZYDIS_OPERAND_TYPE_REGISTER:
        if (!set_register(operand)) return false;
        break;
      case ZYDIS_OPERAND_TYPE_MEMORY:
        if (&operand != memory_ || operand.mem.type != ZYDIS_MEMOP_TYPE_MEM ||
            operand.encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
          return false;
        break;
      case ZYDIS_OPERAND_TYPE_IMMEDIATE: break;
      default: return false;
    }
  }
  plan.legacy = decoded_.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
  plan.x87 = has_x87_ || has_mmx_;
  plan.mmx = has_mmx_;
  plan.control = is_8087_control(decoded_.mnemonic);
  plan.mxcsr = !has_x87_ && !is_integer_category(decoded_.meta.category);
  if (decoded_.mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTD || decoded_.mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTQ)
    return false;  // writes a pair of mask registers; no CPU model has it
  return rewrite_instruction(decoded_, operands_.data(), insn_, plan);
}

void Preparer::set_mask_shape(const ZydisDecodedOperand& operand) {
  VectorMemory& memory = op_.memory;
  const u8 sign_size = sign_masked_size(decoded_.mnemonic);
  if (sign_size != 0) {
    memory.shape = MaskShape::kSigns;
    memory.mask_register = id_of(operands_[1].reg.value);
    memory.element_size = sign_size;
    memory.elements = static_cast<u8>(memory.size / sign_size);
    return;
  }
  if (!masked()) return;
  const bool no_suppression = no_fault_suppression(decoded_.mnemonic, decoded_.meta.exception_class);
  if (no_suppression && !memory.write) return;
  memory.whole_must_be_accessible = no_suppression;
  memory.shape = is_packed(decoded_.mnemonic) ? MaskShape::kPacked : MaskShape::kElements;
  memory.mask_register = id_of(decoded_.avx.mask.reg);
  const Broadcast broadcast = broadcast_of(decoded_.avx.broadcast.mode);
  if (broadcast.to != 0) {
    memory.elements = broadcast.from;
    memory.mask_bits = broadcast.to;
  } else {
    u16 count = operand.element_count;
    if (operands_[0].type == ZYDIS_OPERAND_TYPE_REGISTER && is_vector(operands_[0].reg.value))
      count = std::min(count, operands_[0].element_count);
    memory.elements = static_cast<u8>(count);
    memory.mask_bits = memory.elements;
  }
  memory.element_size = static_cast<u8>(memory.size / memory.elements);
}

u8 Preparer::required_alignment() const {
  switch (op_.kind) {
    case VectorKind::kByteMask: return 1;
    case VectorKind::kXsave: return op_.gate == VectorGate::kFxsave ? 16 : 64;
    default: break;
  }
  const u16 size = op_.memory.size;
  if (amd_ && insn_.isa_set == ZYDIS_ISA_SET_SHA) return 1;  // as a Zen 4 has it
  const bool legacy = decoded_.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
  const bool aligned =
      (legacy && size == 16 && !may_be_unaligned(decoded_.mnemonic)) || must_be_aligned(decoded_.mnemonic);
  return aligned ? static_cast<u8>(size) : u8{1};
}

/// SDM 3A, table 6-7. Vectors of 16 bytes and more are not checked by Intel's processors; AMD's check them
/// for 16 bytes, as they do conversions from and to half precision.
u8 Preparer::checked_alignment() const {
  const u16 size = op_.memory.size;
  switch (op_.kind) {
    case VectorKind::kByteMask: return 8;
    // An area for XSAVE that is not aligned to 64 bytes is #GP on AMD's processors in any case.
    case VectorKind::kXsave: return amd_ && op_.gate != VectorGate::kFxsave ? u8{1} : u8{4};
    case VectorKind::kX87Control:
      if (size > 2) return insn_.operand_size >= 4 ? 4 : 2;  // environments
      break;
    default: break;
  }
  if (size == 10) return 8;
  if (amd_ && size >= 16) return 16;
  const bool half =
      decoded_.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH || decoded_.mnemonic == ZYDIS_MNEMONIC_VCVTPH2PS;
  if (half && !amd_) return 1;
  return size == 2 || size == 4 || size == 8 ? static_cast<u8>(size) : u8{1};
}

void Preparer::set_memory() {
  if (memory_ == nullptr) return;
  VectorMemory& memory = op_.memory;
  memory.present = true;
  memory.read = reads(*memory_);
  memory.write = writes(*memory_);
  memory.segment = id_of(memory_->mem.segment);
  memory.size = static_cast<u16>(memory_->size / 8);
  memory.alignment = required_alignment();
  memory.checked_alignment = checked_alignment();
  memory.maskable = op_.kind == VectorKind::kStub && !must_be_aligned(decoded_.mnemonic);
  set_mask_shape(*memory_);
}

bool Preparer::set_gather(const ZydisDecodedOperand& vsib) {
  VectorGather& gather = op_.gather;
  const bool is_scatter = writes(vsib);
  const auto& data = operands_[is_scatter ? decoded_.operand_count_visible - 1U : 0U];
  if (data.type != ZYDIS_OPERAND_TYPE_REGISTER || !is_vector(data.reg.value)) return false;
  gather.evex = decoded_.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
  gather.keeps_rest = amd_ && !gather.evex;
  const ZydisRegister mask = gather.evex ? decoded_.avx.mask.reg : operands_[2].reg.value;
  if (gather.evex && (mask == ZYDIS_REGISTER_NONE || mask == ZYDIS_REGISTER_K0)) return false;
  gather.data = id_of(data.reg.value);
  gather.mask = id_of(mask);
  gather.index = id_of(vsib.mem.index);
  gather.scale = vsib.mem.scale == 0 ? u8{1} : vsib.mem.scale;
  gather.data_size = static_cast<u8>(vsib.size / 8);
  gather.index_size = gather_index_size(decoded_.mnemonic);
  if (gather.index_size == 0 || (gather.data_size != 4 && gather.data_size != 8)) return false;
  gather.count =
      static_cast<u8>(decoded_.avx.vector_length / 8 / std::max(gather.data_size, gather.index_size));
  // SDM 2C: registers that must differ.
  if (!is_scatter && gather.data == gather.index) return false;
  if (!gather.evex && (gather.mask == gather.index || gather.mask == gather.data)) return false;
  op_.kind = is_scatter ? VectorKind::kScatter : VectorKind::kGather;
  op_.memory.segment = id_of(vsib.mem.segment);
  return true;
}

void Preparer::set_plain() {
  if (!is_plain_move(decoded_.mnemonic) || memory_ == nullptr || masked()) return;
  // The store's source is its last operand; a write mask of K0 may stand between.
  const auto& reg = operands_[writes(*memory_) ? decoded_.operand_count_visible - 1U : 0U];
  op_.kind = writes(*memory_) ? VectorKind::kStore : VectorKind::kLoad;
  op_.plain_register = id_of(reg.reg.value);
  op_.plain_general = !is_vector(reg.reg.value);
  op_.plain_zeroes = decoded_.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY;
}

void Preparer::set_gate() {
  if (decoded_.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
    op_.gate = VectorGate::kAvx512;
  else if (decoded_.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
    op_.gate = has_mask_ ? VectorGate::kAvx512 : VectorGate::kAvx;
  else if (has_mmx_)
    op_.gate = has_vector_ ? VectorGate::kSseMmx : VectorGate::kMmx;
  else if (has_vector_)
    op_.gate = VectorGate::kSse;
  else if (has_x87_)
    op_.gate = is_x87_nop(decoded_.mnemonic) ? VectorGate::kX87Control : VectorGate::kX87;
}

bool Preparer::run(x86::CodeSize size) {
  if (!decode(size)) return false;
  op_.mnemonic = decoded_.mnemonic;
  classify();
  Special special{};
  if (find_special(decoded_.mnemonic, special)) {
    op_.kind = special.kind;
    op_.gate = special.gate;
    set_memory();
    if (op_.kind == VectorKind::kByteMask) {
      op_.gather.data = id_of(operands_[0].reg.value);
      op_.gather.mask = id_of(operands_[1].reg.value);
    }
    return true;
  }
  set_gate();
  if (memory_ != nullptr && memory_->mem.type == ZYDIS_MEMOP_TYPE_VSIB) return set_gather(*memory_);
  set_memory();
  set_plain();
  return op_.kind != VectorKind::kStub || set_registers();
}

}  // namespace

bool prepare_vector_op(const x86::Insn& insn, x86::CodeSize size, x86::Vendor vendor, VectorOp& op) {
  op = VectorOp{};
  op.key = make_key(insn, size);
  return Preparer(insn, vendor, op).run(size);
}

}  // namespace vert::interp

#include "engine/bt/guest_insn.hpp"

#include <algorithm>

#include "cpu/x87_pointers.hpp"
#include "engine/bt/copy_list.hpp"
#include "x86/decode.hpp"
#include "x86/paging.hpp"

namespace vert::bt {

using namespace x86;

namespace {

bool loads_mxcsr(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_LDMXCSR || mnemonic == ZYDIS_MNEMONIC_VLDMXCSR;
}

constexpr u64 kMaxOperand = 64;

bool is_gpr(ZydisRegister reg) {
  switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return true;
    default: return false;
  }
}

u8 gpr_number(ZydisRegister reg) {
  if (ZydisRegisterGetClass(reg) != ZYDIS_REGCLASS_GPR8) return static_cast<u8>(ZydisRegisterGetId(reg));
  if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) return static_cast<u8>(reg - ZYDIS_REGISTER_AH);
  if (reg >= ZYDIS_REGISTER_SPL) return static_cast<u8>(reg - ZYDIS_REGISTER_SPL + kRsp);
  return static_cast<u8>(reg - ZYDIS_REGISTER_AL);
}

/// What a register operand needs of the FPU, or nothing if no instruction that is copied may name it.
std::optional<u8> fpu_need(ZydisRegister reg, ZydisInstructionEncoding encoding) {
  switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
    case ZYDIS_REGCLASS_FLAGS: return u8{0};
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_MMX: return fpu::kX87;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
      if (encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) return fpu::kAvx512;
      return encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? fpu::kAvx : fpu::kSse;
    case ZYDIS_REGCLASS_ZMM:
    case ZYDIS_REGCLASS_MASK: return fpu::kAvx512;
    default: break;
  }
  switch (reg) {
    case ZYDIS_REGISTER_X87CONTROL:
    case ZYDIS_REGISTER_X87STATUS:
    case ZYDIS_REGISTER_X87TAG: return fpu::kX87;
    case ZYDIS_REGISTER_MXCSR: return encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ? fpu::kSse : fpu::kAvx;
    case ZYDIS_REGISTER_NONE: return u8{0};
    default: return std::nullopt;
  }
}

/// What no register operand tells: control registers, and conversions from memory to a general register.
u8 implied_fpu(const ZydisDecodedInstruction& decoded) {
  if (decoded.meta.category == ZYDIS_CATEGORY_CONVERT) {
    if (decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) return fpu::kAvx512;
    if (decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) return fpu::kAvx;
    return decoded.meta.isa_set == ZYDIS_ISA_SET_SSE || decoded.meta.isa_set == ZYDIS_ISA_SET_SSE2 ? fpu::kSse
                                                                                                   : u8{0};
  }
  switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR: return fpu::kAvx;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR: return fpu::kSse;
    case ZYDIS_MNEMONIC_EMMS: return fpu::kX87;
    default: return decoded.meta.category == ZYDIS_CATEGORY_X87_ALU ? fpu::kX87 : u8{0};
  }
}

/// Collects registers and the memory operand; false if something is touched that a copy cannot have.
bool collect_operands(GuestInsn& guest) {
  const ZydisDecodedInstruction& decoded = guest.details.instruction;
  const CopyRule* rule = copy_rule(decoded.mnemonic);
  const bool keeps_target = rule != nullptr && rule->keeps_target;
  bool plain = true;
  guest.fpu = implied_fpu(decoded);
  for (std::size_t i = 0; i < decoded.operand_count; ++i) {
    const ZydisDecodedOperand& operand = guest.details.operand_array[i];
    const bool writes = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    const bool reads = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) {
      const auto need = fpu_need(operand.reg.value, decoded.encoding);
      if (need) guest.fpu |= *need;
      const bool hidden_rsp = operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
                              is_gpr(operand.reg.value) && gpr_number(operand.reg.value) == kRsp;
      plain = plain && need.has_value() && !hidden_rsp;
      if (!is_gpr(operand.reg.value)) continue;
      const auto bit = static_cast<u16>(1U << gpr_number(operand.reg.value));
      // Partial and conditional writes keep what was there.
      const bool keeps = operand.size < 32 || (operand.actions & ZYDIS_OPERAND_ACTION_CONDWRITE) != 0;
      if (reads || (writes && (keeps || keeps_target))) guest.gprs_read |= bit;
      if (writes) guest.gprs_written |= bit;
    } else if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
      for (const ZydisRegister reg : {operand.mem.base, operand.mem.index})
        if (is_gpr(reg)) guest.gprs_read |= static_cast<u16>(1U << gpr_number(reg));
      const bool explicit_modrm = operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
                                  operand.encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64;
      const bool usual =
          operand.mem.type == ZYDIS_MEMOP_TYPE_MEM || operand.mem.type == ZYDIS_MEMOP_TYPE_AGEN;
      plain = plain && guest.memory < 0 && explicit_modrm && usual &&
              operand.visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN;
      if (operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) continue;  // the stack, string elements
      guest.memory = static_cast<i8>(i);
      guest.writes_memory = guest.writes_memory || writes;
    }
  }
  return plain;
}

/// Whether it changes its flags whatever its operands are: a count of 0 leaves all flags alone.
bool always_changes_flags(const GuestInsn& guest) {
  if (guest.insn.repeat != Repeat::kNone) return false;
  switch (guest.details.instruction.meta.category) {
    case ZYDIS_CATEGORY_ROTATE: return false;
    case ZYDIS_CATEGORY_SHIFT: {
      const Operand& last = guest.insn.operands[guest.insn.operand_count - 1U];
      const i64 mask = guest.insn.operand_size == 8 ? 63 : 31;
      return last.kind == OperandKind::kImmediate && (guest.insn.imm & mask) != 0;
    }
    default: return true;
  }
}

void collect_flags(GuestInsn& guest) {
  const ZydisAccessedFlags* flags = guest.details.instruction.cpu_flags;
  if (flags == nullptr) return;
  const auto undefined = static_cast<u16>(flags->undefined & kArithmeticFlags);
  const auto changed = static_cast<u16>((flags->modified | flags->set_0 | flags->set_1) & kArithmeticFlags);
  guest.flags_read = static_cast<u16>(flags->tested & kArithmeticFlags);
  if (always_changes_flags(guest)) {
    guest.flags_killed = static_cast<u16>(changed & ~undefined);
    const CopyRule* rule = copy_rule(guest.insn.mnemonic);
    if (rule != nullptr && rule->settles_flags) guest.flags_killed |= undefined;
  }
  // What may keep a flag must find it right.
  guest.flags_read |= static_cast<u16>((changed | undefined) & ~guest.flags_killed);
}

Form branch_form(const GuestInsn& guest, const Mode& mode) {
  const Insn& insn = guest.insn;
  const unsigned word = mode.code32 ? 4 : 8;
  const OperandKind kind = insn.operands[0].kind;
  const bool near_branch = guest.details.instruction.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR ||
                           guest.details.instruction.meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT;
  // A 66h prefix on near branches outside 64-bit mode cuts EIP to 16 bits; in 64-bit mode processors differ.
  if (!near_branch || (guest.details.instruction.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0)
    return Form::kInterpret;
  // A branch to where no code can be faults itself (SDM 2A, JMP and CALL); with 5-level paging it may not.
  constexpr unsigned kLinearBits = 48;
  if (!mode.code32 && kind == OperandKind::kImmediate &&
      !is_canonical(branch_target(guest, mode.code32), kLinearBits))
    return Form::kInterpret;
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
      if (kind == OperandKind::kImmediate) return Form::kJump;
      return insn.operands[0].size == word ? Form::kJumpIndirect : Form::kInterpret;
    case ZYDIS_MNEMONIC_CALL:
      if (kind == OperandKind::kImmediate) return Form::kCall;
      return insn.operands[0].size == word ? Form::kCallIndirect : Form::kInterpret;
    case ZYDIS_MNEMONIC_RET: return Form::kReturn;
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_XBEGIN: return Form::kInterpret;
    default:
      return guest.details.instruction.meta.category == ZYDIS_CATEGORY_COND_BR ? Form::kBranch
                                                                               : Form::kInterpret;
  }
}

Form stack_form(const GuestInsn& guest, const Mode& mode) {
  const Insn& insn = guest.insn;
  const unsigned word = mode.code32 ? 4 : 8;
  const OperandKind kind = insn.operands[0].kind;
  if (insn.operand_size != word) return Form::kInterpret;
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
      if (kind == OperandKind::kGpr || kind == OperandKind::kImmediate || kind == OperandKind::kMemory)
        return Form::kPush;
      return Form::kInterpret;
    case ZYDIS_MNEMONIC_POP: return kind == OperandKind::kGpr ? Form::kPop : Form::kInterpret;
    case ZYDIS_MNEMONIC_PUSHFQ: return Form::kPushFlags;
    case ZYDIS_MNEMONIC_LEAVE: return Form::kLeave;
    default: return Form::kInterpret;
  }
}

/// MOVS and STOS with 64-bit addresses, in the default segments.
bool is_simple_string(const GuestInsn& guest, const Mode& mode) {
  const Insn& insn = guest.insn;
  if (mode.code32 || insn.address_size != 8 || insn.repeat == Repeat::kNone) return false;
  if (insn.mem.segment == kFs || insn.mem.segment == kGs) return false;
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ: return guest.details.instruction.meta.category == ZYDIS_CATEGORY_STRINGOP;
    default: return false;
  }
}

/// XSAVE and its kin, where CR0.TS is clear and CR4.OSXSAVE set.
Form state_form(const GuestInsn& guest, const Mode& mode) {
  if (mode.code32 || guest.insn.address_size != 8 || (mode.fpu & fpu::kAvx) == 0) return Form::kInterpret;
  switch (guest.insn.mnemonic) {
    case ZYDIS_MNEMONIC_XSAVES64:
      if (mode.user()) return Form::kInterpret;
      [[fallthrough]];
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC64: return Form::kSaveState;
    case ZYDIS_MNEMONIC_XRSTORS64:
      if (mode.user()) return Form::kInterpret;
      [[fallthrough]];
    default: return Form::kLoadState;
  }
}

Form system_form(const GuestInsn& guest, const Mode& mode) {
  switch (guest.insn.mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS64: return state_form(guest, mode);
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP: return mode.time_stamp ? Form::kTimeStamp : Form::kInterpret;
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD: return Form::kDirection;
    case ZYDIS_MNEMONIC_CLI: return mode.user() ? Form::kInterpret : Form::kClearInterrupt;
    case ZYDIS_MNEMONIC_STI: return mode.user() ? Form::kInterpret : Form::kSetInterrupt;
    case ZYDIS_MNEMONIC_SWAPGS: return mode.user() || mode.code32 ? Form::kInterpret : Form::kSwapGs;
    case ZYDIS_MNEMONIC_SYSCALL: return mode.code32 ? Form::kInterpret : Form::kSystemCall;
    case ZYDIS_MNEMONIC_SYSRET: return mode.user() || mode.code32 ? Form::kInterpret : Form::kSystemReturn;
    case ZYDIS_MNEMONIC_IRETQ: return mode.user() || mode.code32 ? Form::kInterpret : Form::kInterruptReturn;
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
      return mode.fs_gs_base && !mode.code32 ? Form::kReadSegmentBase : Form::kInterpret;
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
      return mode.fs_gs_base && !mode.code32 ? Form::kWriteSegmentBase : Form::kInterpret;
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC: return mode.user() || mode.code32 ? Form::kInterpret : Form::kAccessControl;
    case ZYDIS_MNEMONIC_MOV: {
      const auto& operands = guest.insn.operands;
      if (operands[0].kind != OperandKind::kGpr) return Form::kInterpret;
      if (operands[1].kind == OperandKind::kSegment) return Form::kReadSegment;
      const bool control = operands[1].kind == OperandKind::kControl && operands[1].reg != 8;
      return control && !mode.user() && !mode.code32 ? Form::kReadControl : Form::kInterpret;
    }
    default: return Form::kInterpret;
  }
}

/// Instructions of 32-bit code that the host's 64-bit mode does otherwise.
bool needs_other_mode(const GuestInsn& guest, const Mode& mode) {
  if (!mode.code32) return false;
  // 16-bit addresses wrap at 64 KiB, and add registers as no 32-bit address does. Code cannot be written
  // through CS, nor always read.
  if (guest.has_memory() && (guest.insn.address_size == 2 || guest.insn.mem.segment == kCs)) return true;
  // They change the first eight registers only (SDM 2C, VZEROALL and VZEROUPPER).
  return guest.insn.mnemonic == ZYDIS_MNEMONIC_VZEROALL || guest.insn.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER;
}

Form classify(const GuestInsn& guest, const Mode& mode, bool plain) {
  const ZydisDecodedInstruction& decoded = guest.details.instruction;
  if (needs_other_mode(guest, mode)) return Form::kInterpret;
  // Limits and types of segments are the interpreter's; the others are flat where this code runs.
  const u8 segment = guest.insn.mem.segment;
  if (mode.code32 && guest.has_memory() && (segment == kFs || segment == kGs)) return Form::kInterpret;
  switch (decoded.meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR: return branch_form(guest, mode);
    case ZYDIS_CATEGORY_RET:
      return guest.insn.mnemonic == ZYDIS_MNEMONIC_RET ? branch_form(guest, mode) : system_form(guest, mode);
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_POP: return stack_form(guest, mode);
    case ZYDIS_CATEGORY_STRINGOP: return is_simple_string(guest, mode) ? Form::kString : Form::kInterpret;
    case ZYDIS_CATEGORY_PREFETCH:
    case ZYDIS_CATEGORY_PREFETCHWT1:
    case ZYDIS_CATEGORY_NOP:
    case ZYDIS_CATEGORY_WIDENOP: return Form::kNothing;
    default: break;
  }
  if (guest.insn.mnemonic == ZYDIS_MNEMONIC_PAUSE) return Form::kPause;
  if (guest.insn.mnemonic == ZYDIS_MNEMONIC_LEAVE) return stack_form(guest, mode);
  if (guest.insn.mnemonic == ZYDIS_MNEMONIC_LEA) return plain ? Form::kLea : Form::kInterpret;
  if (!plain || copy_rule(guest.insn.mnemonic) == nullptr) return system_form(guest, mode);
  if (guest.has_memory() && (guest.memory_size() == 0 || guest.memory_size() > kMaxOperand))
    return Form::kInterpret;
  // BT and its kin with a bit offset in a register reach beyond their operand.
  if (guest.has_memory() && decoded.meta.category == ZYDIS_CATEGORY_BITBYTE &&
      guest.insn.operands[1].kind == OperandKind::kGpr &&
      guest.insn.operands[0].kind == OperandKind::kMemory) {
    const bool whole = !mode.code32 && guest.insn.address_size == 8 && guest.insn.operand_size >= 4;
    return whole ? Form::kBitString : Form::kInterpret;
  }
  return Form::kCopy;
}

/// Forms with flags as the decoder has them: the guest's state is complete without what they find there.
bool keeps_to_itself(Form form) {
  switch (form) {
    case Form::kCopy:
    case Form::kLea:
    case Form::kNothing:
    case Form::kPush:
    case Form::kPop:
    case Form::kLeave:
    case Form::kBitString:
    case Form::kBranch:
    case Form::kJump:
    case Form::kPause:
    case Form::kClearInterrupt:
    case Form::kTimeStamp:
    case Form::kDirection:
    case Form::kReadControl:
    case Form::kReadSegment:
    case Form::kReadSegmentBase: return true;
    default: return false;
  }
}

}  // namespace

std::optional<u64> GuestInsn::constant_address() const {
  const MemoryOperand& mem = insn.mem;
  const bool bare = mem.base == MemoryOperand::kNoRegister && mem.index == MemoryOperand::kNoRegister;
  if (!bare && mem.base != MemoryOperand::kRip) return std::nullopt;
  u64 address =
      mem.absolute64 ? static_cast<u64>(insn.imm) : static_cast<u64>(static_cast<i64>(mem.displacement));
  if (mem.base == MemoryOperand::kRip) address += next_rip();
  return insn.address_size == 8 ? address : address & 0xFFFFFFFF;
}

bool GuestInsn::ends_block() const {
  switch (form) {
    case Form::kCall:
    case Form::kCallIndirect:
    case Form::kReturn:
    case Form::kJump:
    case Form::kJumpIndirect:
    case Form::kSystemCall:
    case Form::kSystemReturn:
    case Form::kInterruptReturn:
    case Form::kAccessControl:
    case Form::kInterpret: return true;
    default: return false;
  }
}

void decode_guest(std::span<const u8> bytes, u64 rip, const Mode& mode, const CpuModel& model,
                  GuestInsn& guest) {
  guest.rip = rip;
  guest.form = Form::kInterpret;
  guest.flags_read = guest.flags_killed = 0;
  guest.fpu = 0;
  guest.writes_memory = false;
  guest.gprs_read = guest.gprs_written = 0;
  guest.memory = -1;
  guest.insn.length = 0;
  if (decode_as(model.vendor(), bytes, mode.code_size(), guest.insn, guest.details) != DecodeStatus::kOk) {
    guest.insn.length = 0;
    return;
  }
  model.legacy_form(guest.insn);
  const bool plain = collect_operands(guest);
  collect_flags(guest);
  // PREFETCHWT1 is a PREFETCHW.
  const ZydisMnemonic decoded_as = guest.details.instruction.mnemonic;
  const bool as_decoded = guest.insn.mnemonic == decoded_as || decoded_as == ZYDIS_MNEMONIC_PREFETCHWT1;
  if (!as_decoded || !model.allows(guest.insn, mode.code_size())) return;
  guest.form = classify(guest, mode, plain);
  if (guest.form == Form::kSaveState || guest.form == Form::kLoadState) guest.fpu |= fpu::kAvx;
  if (loads_mxcsr(guest.insn.mnemonic) && model.mxcsr_mask() != host_mxcsr_mask())
    guest.form = Form::kInterpret;
  // It makes a pending exception invisible by which FOP, and perhaps FDP, were set (settle_x87_pointers).
  if (guest.insn.mnemonic == ZYDIS_MNEMONIC_FNCLEX && cpu::x87_pointer_rules(model).opcode_raised)
    guest.form = Form::kInterpret;
  if ((guest.fpu & ~mode.fpu) != 0) guest.form = Form::kInterpret;
  // Everything that leaves for the interpreter, or may, needs its flags.
  if (!keeps_to_itself(guest.form)) {
    guest.flags_read = kArithmeticFlags;
    guest.flags_killed = 0;
  }
}

}  // namespace vert::bt

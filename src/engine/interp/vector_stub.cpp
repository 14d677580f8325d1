#include "engine/interp/vector_stub.hpp"

#include <cpuid.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>

#include <xbyak/xbyak.h>

#include "engine/interp/vector_signal.hpp"

namespace vert::interp {

namespace {

constexpr u8 kRsiModrm = 6;
constexpr std::size_t kFxOffset = offsetof(StubFrame, fx);
/// FXRSTOR64 and FXSAVE64 [RSI + kFxOffset], which the assembler library lacks.
constexpr std::array<u8, 5> kFxrstorImage = {0x48, 0x0F, 0xAE, 0x4E, kFxOffset};
constexpr std::array<u8, 5> kFxsaveImage = {0x48, 0x0F, 0xAE, 0x46, kFxOffset};

HostVectors probe_host_vectors() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f"))
    return __builtin_cpu_supports("avx512bw") ? HostVectors::kAvx512Bw : HostVectors::kAvx512F;
  return __builtin_cpu_supports("avx") ? HostVectors::kAvx : HostVectors::kSse;
}

/// Emits into a buffer of its own; the bytes are position-independent.
class StubWriter : public Xbyak::CodeGenerator {
 public:
  StubWriter(u8* buffer, std::size_t size) : Xbyak::CodeGenerator(size, buffer) {}

  void fxrstor_image() { raw(kFxrstorImage); }
  void fxsave_image() { raw(kFxsaveImage); }
  void raw(std::span<const u8> bytes) {
    for (const u8 value : bytes) db(value);
  }

  [[nodiscard]] Xbyak::Address field(std::size_t offset) { return ptr[rsi + offset]; }

  void move_vector(int reg, bool legacy, bool store) {
    const Xbyak::Address at = ptr[rdi + static_cast<std::size_t>(reg) * 64];
    if (legacy || host_vectors() == HostVectors::kSse) {
      store ? movups(at, Xbyak::Xmm(reg)) : movups(Xbyak::Xmm(reg), at);
    } else if (host_vectors() == HostVectors::kAvx) {
      store ? vmovdqu(at, Xbyak::Ymm(reg)) : vmovdqu(Xbyak::Ymm(reg), at);
    } else {
      store ? vmovdqu64(at, Xbyak::Zmm(reg)) : vmovdqu64(Xbyak::Zmm(reg), at);
    }
  }
  void move_mask(int reg, bool store) {
    const Xbyak::Address at = ptr[rdi + offsetof(cpu::FpuState, k) + static_cast<std::size_t>(reg) * 8];
    if (host_vectors() == HostVectors::kAvx512Bw)
      store ? kmovq(at, Xbyak::Opmask(reg)) : kmovq(Xbyak::Opmask(reg), at);
    else
      store ? kmovw(at, Xbyak::Opmask(reg)) : kmovw(Xbyak::Opmask(reg), at);
  }
  void load(const StubPlan& plan);
  void store(const StubPlan& plan);

 private:
  [[nodiscard]] Xbyak::Address gpr_slot(int i) {
    return ptr[rsi + offsetof(StubFrame, gpr) + static_cast<std::size_t>(i) * 8];
  }
};

void StubWriter::load(const StubPlan& plan) {
  if (plan.x87) fxrstor_image();
  for (int reg = 0; reg < 32; ++reg) {
    if ((plan.vectors_in >> reg & 1) != 0) move_vector(reg, plan.legacy, false);
  }
  for (int reg = 0; reg < 8; ++reg) {
    if ((plan.masks_in >> reg & 1) != 0) move_mask(reg, false);
  }
  for (int i = 0; i < 3; ++i) {
    if ((plan.gprs_in >> i & 1) != 0) mov(Xbyak::Reg64(i), gpr_slot(i));
  }
  if (plan.mxcsr) ldmxcsr(field(offsetof(StubFrame, mxcsr)));
  if (plan.flags_in) {
    push(qword[rsi + offsetof(StubFrame, rflags)]);
    popfq();
  }
}

void StubWriter::store(const StubPlan& plan) {
  if (plan.flags_out) {
    pushfq();
    pop(qword[rsi + offsetof(StubFrame, rflags)]);
  }
  if (plan.mxcsr) {
    stmxcsr(field(offsetof(StubFrame, mxcsr)));
    ldmxcsr(field(offsetof(StubFrame, host_mxcsr)));
  }
  for (int i = 0; i < 3; ++i) {
    if ((plan.gprs_out >> i & 1) != 0) mov(gpr_slot(i), Xbyak::Reg64(i));
  }
  for (int reg = 0; reg < 32; ++reg) {
    if ((plan.vectors_out >> reg & 1) != 0) move_vector(reg, plan.legacy, true);
  }
  for (int reg = 0; reg < 8; ++reg) {
    if ((plan.masks_out >> reg & 1) != 0) move_mask(reg, true);
  }
  if (plan.x87) {
    fxsave_image();
    fninit();
  }
  if (!plan.legacy) vzeroupper();
  xor_(eax, eax);
  ret();
}

/// Serialises: the bytes of a slot changed through another mapping (SDM 3A, 8.1.3).
void serialize() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  __cpuid(0, a, b, c, d);
}

bool is_general(ZydisRegister reg) {
  const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
  return kind == ZYDIS_REGCLASS_GPR8 || kind == ZYDIS_REGCLASS_GPR16 || kind == ZYDIS_REGCLASS_GPR32 ||
         kind == ZYDIS_REGCLASS_GPR64;
}

/// Collects the rewritten bytes.
struct Rewriter {
  const ZydisDecodedInstruction& decoded;
  const x86::Insn& insn;
  StubPlan& plan;
  bool memory = false;       // ModRM.rm is a memory operand
  bool general_reg = false;  // ModRM.reg is a general register
  bool general_rm = false;
  bool long_mode = false;

  void put(u8 byte) { plan.bytes[plan.length++] = byte; }
  void copy(std::size_t from, std::size_t to) {
    for (std::size_t i = from; i < to; ++i) put(insn.bytes[i]);
  }
  [[nodiscard]] bool fixed_rm() const { return memory || general_rm; }

  void legacy_prefixes() {
    const bool x87 = decoded.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (decoded.opcode & 0xF8) == 0xD8;
    for (std::size_t i = 0; i < decoded.raw.prefix_count && !x87; ++i) {
      const u8 prefix = insn.bytes[i];
      if (prefix == 0x66 || prefix == 0xF2 || prefix == 0xF3) put(prefix);
    }
    if ((decoded.attributes & ZYDIS_ATTRIB_HAS_REX) == 0) return;
    const auto& rex = decoded.raw.rex;
    u8 byte = static_cast<u8>(rex.W << 3);
    if (!general_reg) byte |= static_cast<u8>(rex.R << 2);
    if (!fixed_rm()) byte |= rex.B;
    if (byte != 0) put(byte | 0x40);
  }
  void vex_prefix() {
    const auto& vex = decoded.raw.vex;
    std::array<u8, 3> byte{};
    std::copy_n(insn.bytes.begin() + vex.offset, vex.size, byte.begin());
    if (vex.size == 2) {
      if (general_reg) byte[1] |= 0x80;
    } else {
      if (general_reg) byte[1] |= 0x80;
      if (fixed_rm()) byte[1] |= 0x60;
      if (!long_mode) byte[1] |= 0x20, byte[2] |= 0x40;
    }
    for (std::size_t i = 0; i < vex.size; ++i) put(byte[i]);
  }
  void evex_prefix() {
    std::array<u8, 4> byte{};
    std::copy_n(insn.bytes.begin() + decoded.raw.evex.offset, 4, byte.begin());
    if (general_reg) byte[1] |= 0x90;
    if (fixed_rm()) byte[1] |= 0x60;
    if (!long_mode) byte[1] |= 0x30, byte[2] |= 0x40, byte[3] |= 0x08;
    for (const u8 b : byte) put(b);
  }
  void modrm() {
    const auto& raw = decoded.raw.modrm;
    const u8 reg = general_reg ? u8{0} : raw.reg;
    if (memory)
      put(static_cast<u8>(reg << 3 | kRsiModrm));
    else
      put(static_cast<u8>(0xC0 | reg << 3 | (general_rm ? 0 : raw.rm)));
  }
  void immediates(bool is4) {
    for (const auto& imm : decoded.raw.imm) {
      if (imm.size == 0) continue;
      const std::size_t at = plan.length;
      copy(imm.offset, imm.offset + imm.size / 8U);
      if (is4 && !long_mode) plan.bytes[at] &= 0x7F;
    }
  }
};

/// The rewritten bytes decode to the same operation on the same registers.
bool same_operation(const StubPlan& plan, const ZydisDecodedInstruction& decoded,
                    const ZydisDecodedOperand* operands) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisDecodedInstruction again;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> others;
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, plan.bytes.data(), plan.length, &again, others.data())))
    return false;
  if (again.mnemonic != decoded.mnemonic || again.length != plan.length) return false;
  for (std::size_t i = 0; i < decoded.operand_count_visible; ++i) {
    const auto& a = operands[i];
    const auto& b = others[i];
    if (a.type != b.type || a.size != b.size) return false;
    if (a.type == ZYDIS_OPERAND_TYPE_REGISTER && !is_general(a.reg.value) && a.reg.value != b.reg.value)
      return false;
  }
  return true;
}

void clear_w(StubPlan& plan, const ZydisDecodedInstruction& decoded) {
  if (decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && plan.bytes[0] == 0xC4) plan.bytes[2] &= 0x7F;
  if (decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) plan.bytes[2] &= 0x7F;
}

}  // namespace

HostVectors host_vectors() {
  static const HostVectors kHost = probe_host_vectors();
  return kHost;
}

bool rewrite_instruction(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands,
                         const x86::Insn& insn, StubPlan& plan) {
  Rewriter rewriter{decoded, insn, plan};
  rewriter.long_mode = decoded.machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
  bool is4 = false;
  for (std::size_t i = 0; i < decoded.operand_count; ++i) {
    const auto& operand = operands[i];
    if (operand.encoding == ZYDIS_OPERAND_ENCODING_IS4) is4 = true;
    if (operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && operand.type == ZYDIS_OPERAND_TYPE_MEMORY)
      rewriter.memory = true;
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER || !is_general(operand.reg.value)) continue;
    if (operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) rewriter.general_reg = true;
    if (operand.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) rewriter.general_rm = true;
  }
  plan.length = 0;
  std::size_t opcode_at = 0;
  switch (decoded.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
      rewriter.legacy_prefixes();
      opcode_at = decoded.raw.prefix_count;
      break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
      rewriter.vex_prefix();
      opcode_at = decoded.raw.vex.offset + decoded.raw.vex.size;
      break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
      rewriter.evex_prefix();
      opcode_at = decoded.raw.evex.offset + 4U;
      break;
    default: return false;
  }
  plan.opcode_offset = static_cast<u8>(opcode_at);
  if ((decoded.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0) {
    rewriter.copy(opcode_at, decoded.raw.modrm.offset);
    rewriter.modrm();
    rewriter.immediates(is4);
  } else {
    rewriter.copy(opcode_at, decoded.length);
  }
  if (same_operation(plan, decoded, operands)) return true;
  clear_w(plan, decoded);  // W is ignored outside 64-bit mode by instructions with general registers
  return !rewriter.long_mode && same_operation(plan, decoded, operands);
}

StubArena::StubArena(base::Mapping writable, base::Mapping executable)
    : writable_(std::move(writable)), executable_(std::move(executable)) {
  used_.resize(executable_.size() / kStubSize);
}

Result<StubArena> StubArena::create(std::size_t stubs) {
  const std::size_t size = ((stubs + 1) * kStubSize + kPageSize - 1) & ~kPageOffsetMask;
  VERT_ASSIGN(auto writable, base::Mapping::map(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS));
  VERT_ASSIGN(auto executable, writable.map_again(PROT_READ | PROT_EXEC));
  StubArena arena(std::move(writable), std::move(executable));
  arena.emit_recovery();
  return arena;
}

/// The first slot: where a thread goes on after a signal in a stub's instruction. RSI and RSP are intact
/// there, RAX holds the StubExit.
void StubArena::emit_recovery() {
  StubWriter writer(writable_.data(), kStubSize);
  writer.stmxcsr(writer.field(offsetof(StubFrame, mxcsr)));
  writer.ldmxcsr(writer.field(offsetof(StubFrame, host_mxcsr)));
  writer.fninit();
  if (host_vectors() != HostVectors::kSse) writer.vzeroupper();
  writer.ret();
}

StubCode StubArena::emit(std::size_t index, const StubPlan& plan) {
  const std::size_t slot = index + 1;
  std::array<u8, kStubSize> buffer{};
  StubWriter writer(buffer.data(), buffer.size());
  writer.load(plan);
  const std::size_t at = writer.getSize();
  writer.raw(std::span(plan.bytes).first(plan.length));
  writer.store(plan);
  std::memcpy(writable_.data() + slot * kStubSize, buffer.data(), buffer.size());
  if (used_[slot]) serialize();
  used_[slot] = true;
  const u8* entry = executable_.data() + slot * kStubSize;
  return {entry, entry + at};
}

StubExit StubArena::run(const StubCode& code, cpu::FpuState& fpu, StubFrame& frame) const {
  using Function = u32 (*)(cpu::FpuState*, StubFrame*);
  const ActiveStub active{code.instruction, executable_.data()};
  ActiveStubScope scope(active);
  // SAFETY: `entry` is what emit() wrote: a function of this type that keeps the ABI, whose one instruction
  // of the guest's touches no memory but frame.memory and no register but those loaded and stored around it.
  return static_cast<StubExit>(reinterpret_cast<Function>(const_cast<u8*>(code.entry))(&fpu, &frame));
}

}  // namespace vert::interp

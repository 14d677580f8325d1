#include "engine/bt/rewrite.hpp"

#include <algorithm>

#include "x86/insn.hpp"

namespace vert::bt {

namespace {

using Memory = HostOperands::Memory;

constexpr unsigned kMaxLength = 15;
constexpr u8 kRsp = 4;  // in ModRM.rm: a SIB byte follows; in SIB.index: none
constexpr u8 kRbp = 5;  // with mod 0: no base

bool is_general(const ZydisDecodedOperand& operand) {
  if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) return false;
  const ZydisRegisterClass kind = ZydisRegisterGetClass(operand.reg.value);
  return kind >= ZYDIS_REGCLASS_GPR8 && kind <= ZYDIS_REGCLASS_GPR64;
}

bool is_high_byte(ZydisRegister reg) { return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH; }

bool is_implicit(const ZydisDecodedOperand& operand) {
  return operand.encoding == ZYDIS_OPERAND_ENCODING_NONE;
}

u8 number_of(ZydisRegister reg) {
  return static_cast<u8>(
      ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg)));
}

/// A register tells of memory beyond the operand: the bit's number (SDM 2A, BT), an address of its own.
bool reaches_elsewhere(const ZydisDecodedInstruction& decoded,
                       std::span<const ZydisDecodedOperand> operands) {
  switch (decoded.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: return operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    case ZYDIS_MNEMONIC_ENQCMD:
    case ZYDIS_MNEMONIC_ENQCMDS:
    case ZYDIS_MNEMONIC_UMONITOR: return true;
    default: return false;
  }
}

/// One rewriting. Each step clears ok_ where it cannot be done.
class Rewriter {
 public:
  Rewriter(const ZydisDecodedInstruction& decoded, std::span<const ZydisDecodedOperand> operands,
           std::span<const u8> bytes, const HostOperands& host, std::span<u8, 16> to)
      : decoded_(decoded), operands_(operands), bytes_(bytes), host_(host), to_(to) {}

  unsigned run(bool clear_w);

 private:
  struct Address {
    u8 base = kNone;
    u8 index = kNone;
    u8 scale = 0;  // its logarithm
    i32 displacement = 0;
  };

  [[nodiscard]] bool has(u64 attribute) const { return (decoded_.attributes & attribute) != 0; }
  [[nodiscard]] bool is_long() const { return decoded_.machine_mode == ZYDIS_MACHINE_MODE_LONG_64; }
  [[nodiscard]] bool is_encoding(ZydisInstructionEncoding encoding) const {
    return decoded_.encoding == encoding;
  }

  void fields();
  void original_bits();
  void operand(const ZydisDecodedOperand& from);
  void general(const ZydisDecodedOperand& from);
  void implicit(const ZydisDecodedOperand& from);
  void memory(const ZydisDecodedOperand& from);
  void short_forms();
  void place_address();
  u8 host_register(u8 guest);
  u8 host_number(const ZydisDecodedOperand& from, u8 guest);
  Address guest_address(const ZydisDecodedOperand& from);
  u8 mapped(ZydisRegister reg);

  void put(u8 byte) {
    if (length_ < to_.size()) to_[length_] = byte;
    ++length_;
  }
  void put_prefixes();
  void put_vex();
  void put_evex();
  void put_modrm();
  void put_address();
  void put_displacement(u8 mod);
  void put_tail();

  const ZydisDecodedInstruction& decoded_;
  std::span<const ZydisDecodedOperand> operands_;
  std::span<const u8> bytes_;
  const HostOperands& host_;
  std::span<u8, 16> to_;
  unsigned length_ = 0;
  bool ok_ = true;

  std::array<u8, 3> opcode_{};  // with its escape bytes
  unsigned opcode_at_ = 0;
  unsigned opcode_size_ = 0;
  unsigned tail_at_ = 0;  // immediates
  bool has_modrm_ = false;
  u8 reg_ = 0;
  u8 rm_ = 0;
  bool has_address_ = false;
  bool maps_rm_ = false;
  bool keeps_address_size_ = false;
  Address address_;
  bool w_ = false, r_ = false, x_ = false, b_ = false;  // as in REX
  bool high_r_ = false, high_v_ = false;                // R' and V' of EVEX, not inverted
  u8 vvvv_ = 0;
  bool needs_rex_ = false;
  bool forbids_rex_ = false;
  bool has_is4_ = false;
};

/// The extension bits of the instruction as it stands. Outside 64-bit mode there are none, whatever VEX and
/// EVEX say in bits that are ignored there (SDM 2A, 2.3.5 and 2.7.1).
void Rewriter::original_bits() {
  if (is_encoding(ZYDIS_INSTRUCTION_ENCODING_LEGACY)) {
    opcode_at_ = decoded_.raw.prefix_count;
    if (!has(ZYDIS_ATTRIB_HAS_REX)) return;
    const auto& rex = decoded_.raw.rex;
    w_ = rex.W != 0, r_ = rex.R != 0, x_ = rex.X != 0, b_ = rex.B != 0;
    return;
  }
  const bool evex = is_encoding(ZYDIS_INSTRUCTION_ENCODING_EVEX);
  const unsigned at = evex ? decoded_.raw.evex.offset : decoded_.raw.vex.offset;
  const unsigned size = evex ? 4 : decoded_.raw.vex.size;
  opcode_at_ = at + size;
  const u8 first = bytes_[at + 1];
  const u8 second = size == 2 ? first : bytes_[at + 2];
  w_ = size != 2 && (second & 0x80) != 0;
  vvvv_ = static_cast<u8>(~second >> 3 & (is_long() ? 15 : 7));
  if (!is_long()) return;
  r_ = (first & 0x80) == 0;
  x_ = size != 2 && (first & 0x40) == 0;
  b_ = size != 2 && (first & 0x20) == 0;
  high_r_ = evex && (first & 0x10) == 0;
  high_v_ = evex && (bytes_[at + 3] & 0x08) == 0;
}

void Rewriter::fields() {
  original_bits();
  keeps_address_size_ = is_long() && decoded_.address_width == 32 && host_.memory != Memory::kContext;
  has_modrm_ = has(ZYDIS_ATTRIB_HAS_MODRM);
  const auto& raw = decoded_.raw;
  if (has_modrm_) {
    reg_ = raw.modrm.reg;
    rm_ = raw.modrm.rm;
    opcode_size_ = raw.modrm.offset - opcode_at_;
    tail_at_ = raw.modrm.offset + 1U + (has(ZYDIS_ATTRIB_HAS_SIB) ? 1U : 0U) + raw.disp.size / 8U;
  } else {
    const bool escaped =
        is_encoding(ZYDIS_INSTRUCTION_ENCODING_LEGACY) && decoded_.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT;
    opcode_size_ = escaped ? 2 : 1;
    tail_at_ = opcode_at_ + opcode_size_ + raw.disp.size / 8U;
  }
  std::copy_n(bytes_.begin() + opcode_at_, opcode_size_, opcode_.begin());
}

u8 Rewriter::host_register(u8 guest) {
  const u8 number = host_.gpr[guest & 15];
  if (number >= host_.gpr.size()) ok_ = false;
  return number;
}

/// The number that encodes an explicit general register.
u8 Rewriter::host_number(const ZydisDecodedOperand& from, u8 guest) {
  if (!is_high_byte(from.reg.value)) {
    const u8 number = host_register(guest);
    if (from.size == 8 && number >= 4) needs_rex_ = true;
    return number;
  }
  const u8 number = host_register(guest & 3);
  forbids_rex_ = true;
  if (number >= 4) ok_ = false;
  return number + 4;
}

/// Maps an explicit general register.
void Rewriter::general(const ZydisDecodedOperand& from) {
  const auto extended = [](u8 low, bool high) { return static_cast<u8>(low | (high ? 8 : 0)); };
  switch (from.encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG: {
      const u8 number = host_number(from, extended(reg_, r_));
      reg_ = number & 7;
      r_ = number >= 8;
      high_r_ = false;
      return;
    }
    case ZYDIS_OPERAND_ENCODING_MODRM_RM: {
      if (host_.memory == Memory::kContext) {
        if (is_high_byte(from.reg.value) || reaches_elsewhere(decoded_, operands_)) ok_ = false;
        has_address_ = true;
        address_.displacement = host_.displacement;
        return;
      }
      const u8 number = host_number(from, extended(rm_, b_));
      maps_rm_ = true;
      rm_ = number & 7;
      b_ = number >= 8;
      x_ = false;
      return;
    }
    case ZYDIS_OPERAND_ENCODING_NDSNDD: vvvv_ = host_number(from, vvvv_); return;
    case ZYDIS_OPERAND_ENCODING_OPCODE: {
      u8& opcode = opcode_[opcode_size_ - 1];
      const u8 number = host_number(from, extended(opcode & 7, b_));
      opcode = static_cast<u8>((opcode & 0xF8) | (number & 7));
      b_ = number >= 8;
      return;
    }
    default: ok_ = false;
  }
}

/// What the encoding does not name cannot be moved.
void Rewriter::implicit(const ZydisDecodedOperand& from) {
  if (from.type == ZYDIS_OPERAND_TYPE_MEMORY) ok_ = false;
  if (!is_general(from)) return;
  const u8 number = number_of(from.reg.value);
  const bool moffs = (decoded_.opcode & 0xFC) == 0xA0 && decoded_.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
  if (host_.gpr[number] != number && !moffs) ok_ = false;
}

u8 Rewriter::mapped(ZydisRegister reg) {
  if (reg == ZYDIS_REGISTER_NONE) return kNone;
  const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
  if (kind == ZYDIS_REGCLASS_GPR32 || kind == ZYDIS_REGCLASS_GPR64) return host_register(number_of(reg));
  ok_ = false;  // RIP, 16-bit addresses
  return kNone;
}

Rewriter::Address Rewriter::guest_address(const ZydisDecodedOperand& from) {
  const auto& raw = decoded_.raw;
  Address address;
  // Zydis 4.0 names R13, and no displacement, where SIB says no base behind a 67h prefix.
  const bool baseless = has(ZYDIS_ATTRIB_HAS_SIB) && raw.modrm.mod == 0 && raw.sib.base == kRbp;
  address.base = baseless ? kNone : mapped(from.mem.base);
  address.index = mapped(from.mem.index);
  address.scale = has(ZYDIS_ATTRIB_HAS_SIB) ? raw.sib.scale : u8{0};
  address.displacement = static_cast<i32>(baseless ? raw.disp.value : from.mem.disp.value);
  return address;
}

void Rewriter::memory(const ZydisDecodedOperand& from) {
  const bool is_lea = from.mem.type == ZYDIS_MEMOP_TYPE_AGEN;
  if (from.mem.type != ZYDIS_MEMOP_TYPE_MEM && !is_lea) ok_ = false;
  if (host_.memory == Memory::kContext || reaches_elsewhere(decoded_, operands_)) ok_ = false;
  const bool moffs = !has_modrm_ && from.encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64;
  if (moffs && host_.memory == Memory::kHost) {  // A0..A3 becomes 8A, 8B, 88, 89 with AL..RAX in ModRM.reg
    opcode_[0] = static_cast<u8>(0x88 | ((opcode_[0] & 3) ^ 2));
    has_modrm_ = true;
    const u8 number = host_register(0);
    reg_ = number & 7;
    r_ = number >= 8;
    if (opcode_[0] % 2 == 0 && number >= 4) needs_rex_ = true;
  } else if (from.encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || decoded_.raw.modrm.mod == 3) {
    ok_ = false;
  }
  has_address_ = true;
  if (host_.memory == Memory::kHost) {
    keeps_address_size_ = false;
    address_ = {host_.base, host_.index, 0, host_.displacement};
  } else {
    if (decoded_.address_width == 16) ok_ = false;
    // LEA of 32 bits takes the sum's low ones, whatever the address size.
    keeps_address_size_ = decoded_.address_width == 32 && !(is_lea && decoded_.operand_width <= 32);
    address_ = guest_address(from);
  }
}

void Rewriter::operand(const ZydisDecodedOperand& from) {
  if (from.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && from.imm.is_relative) ok_ = false;
  if (from.encoding == ZYDIS_OPERAND_ENCODING_IS4) has_is4_ = true;
  if (from.type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(from.reg.value) == ZYDIS_REGCLASS_TMM)
    ok_ = false;
  if (is_implicit(from))
    implicit(from);
  else if (from.type == ZYDIS_OPERAND_TYPE_MEMORY)
    memory(from);
  else if (is_general(from))
    general(from);
}

/// Opcodes that mean something else in 64-bit mode or with another register.
void Rewriter::short_forms() {
  if (has_modrm_ || decoded_.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT) return;
  if (!is_long() && (decoded_.opcode & 0xF0) == 0x40) {  // INC, DEC: FF /0, /1
    rm_ = opcode_[0] & 7;
    reg_ = decoded_.opcode >> 3 & 1;
    opcode_[0] = 0xFF;
    maps_rm_ = true;
    has_modrm_ = true;
  }
  if (decoded_.mnemonic == ZYDIS_MNEMONIC_XCHG && opcode_[0] == 0x90 && !b_) ok_ = false;  // NOP
}

void Rewriter::put_prefixes() {
  if (host_.memory == Memory::kContext) put(0x65);
  if (keeps_address_size_) put(0x67);
  if (!is_encoding(ZYDIS_INSTRUCTION_ENCODING_LEGACY)) return;
  for (const auto& prefix : std::span(decoded_.raw.prefixes).first(decoded_.raw.prefix_count)) {
    // F2 and F3 may mean something to the host that this decoder does not know, but as part of the opcode.
    const bool repeat = prefix.value == 0xF2 || prefix.value == 0xF3;
    const bool kept =
        repeat ? prefix.type == ZYDIS_PREFIX_TYPE_MANDATORY : prefix.value == 0x66 || prefix.value == 0xF0;
    if (kept) put(prefix.value);
  }
  const auto rex = static_cast<u8>((w_ ? 8 : 0) | (r_ ? 4 : 0) | (x_ ? 2 : 0) | (b_ ? 1 : 0));
  if (rex == 0 && !needs_rex_) return;
  if (forbids_rex_) ok_ = false;
  put(rex | 0x40);
}

void Rewriter::put_vex() {
  const unsigned at = decoded_.raw.vex.offset;
  const bool was_short = decoded_.raw.vex.size == 2;
  const u8 map = was_short ? u8{1} : bytes_[at + 1] & 0x1F;
  const u8 low = bytes_[opcode_at_ - 1] & 0x07;  // L, pp
  const auto last = static_cast<u8>((~vvvv_ & 15) << 3 | low);
  if (!x_ && !b_ && !w_ && map == 1) {
    put(0xC5);
    put(static_cast<u8>((r_ ? 0 : 0x80) | last));
    return;
  }
  put(0xC4);
  put(static_cast<u8>((r_ ? 0 : 0x80) | (x_ ? 0 : 0x40) | (b_ ? 0 : 0x20) | map));
  put(static_cast<u8>((w_ ? 0x80 : 0) | last));
}

void Rewriter::put_evex() {
  const unsigned at = decoded_.raw.evex.offset;
  put(0x62);
  put(static_cast<u8>((r_ ? 0 : 0x80) | (x_ ? 0 : 0x40) | (b_ ? 0 : 0x20) | (high_r_ ? 0 : 0x10) |
                      (bytes_[at + 1] & 0x0F)));
  put(static_cast<u8>((w_ ? 0x80 : 0) | (~vvvv_ & 15) << 3 | (bytes_[at + 2] & 0x07)));
  put(static_cast<u8>((bytes_[at + 3] & 0xF7) | (high_v_ ? 0 : 0x08)));
}

void Rewriter::put_displacement(u8 mod) {
  const auto value = static_cast<u32>(address_.displacement);
  const unsigned size = mod == 0 ? 0 : mod == 1 ? 1 : 4;
  for (unsigned i = 0; i < size; ++i) put(static_cast<u8>(value >> 8 * i));
}

/// ModRM, SIB and displacement of address_ (SDM 2A, 2.1.5). EVEX scales 8-bit displacements, so it gets none.
void Rewriter::put_address() {
  const auto field = [](u8 number) { return static_cast<u8>(number & 7); };
  const auto reg = static_cast<u8>(reg_ << 3);
  const bool no_base = address_.base == kNone;
  const bool no_index = address_.index == kNone;
  const i32 offset = address_.displacement;
  u8 mod = 2;
  if (no_base || (offset == 0 && field(address_.base) != kRbp))
    mod = 0;
  else if (offset == static_cast<i8>(offset) && !is_encoding(ZYDIS_INSTRUCTION_ENCODING_EVEX))
    mod = 1;
  const auto top = static_cast<u8>(mod << 6 | reg);
  if (!no_base && no_index && field(address_.base) != kRsp) {
    put(top | field(address_.base));
  } else {
    put(top | kRsp);
    put(static_cast<u8>(address_.scale << 6 | (no_index ? kRsp : field(address_.index)) << 3 |
                        (no_base ? kRbp : field(address_.base))));
  }
  put_displacement(no_base ? u8{2} : mod);
}

void Rewriter::put_modrm() {
  if (has_address_)
    put_address();
  else
    put(static_cast<u8>(0xC0 | reg_ << 3 | rm_));
}

void Rewriter::put_tail() {
  const unsigned at = length_;
  for (unsigned i = tail_at_; i < decoded_.length; ++i) put(bytes_[i]);
  if (has_is4_ && !is_long() && at < to_.size()) to_[at] &= 0x7F;
}

void Rewriter::place_address() {
  const bool is_kept = has_modrm_ && !has_address_ && !maps_rm_ && decoded_.raw.modrm.mod != 3;
  if (is_kept) ok_ = false;  // an address that no operand tells of
  if (!has_address_) {
    if (host_.memory == Memory::kContext) ok_ = false;
    return;
  }
  if (address_.index == kRsp) ok_ = false;
  x_ = address_.index != kNone && address_.index >= 8;
  b_ = address_.base != kNone && address_.base >= 8;
}

unsigned Rewriter::run(bool clear_w) {
  fields();
  if (clear_w) w_ = false;
  for (const auto& each : operands_) operand(each);
  short_forms();
  place_address();
  put_prefixes();
  if (is_encoding(ZYDIS_INSTRUCTION_ENCODING_VEX)) put_vex();
  if (is_encoding(ZYDIS_INSTRUCTION_ENCODING_EVEX)) put_evex();
  for (unsigned i = 0; i < opcode_size_; ++i) put(opcode_[i]);
  if (has_modrm_) put_modrm();
  put_tail();
  return ok_ && length_ <= kMaxLength ? length_ : 0;
}

/// `now` in memory does what `was` in a register does.
bool same_in_memory(const ZydisDecodedOperand& was, const ZydisDecodedOperand& now) {
  if (now.type != ZYDIS_OPERAND_TYPE_MEMORY) return false;
  if ((was.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) == 0) return now.size <= was.size;
  return now.size == was.size && was.size != 32;
}

bool same_operand(const ZydisDecodedOperand& was, const ZydisDecodedOperand& now) {
  if (is_general(was) && !is_general(now)) return same_in_memory(was, now);
  if (was.type != now.type) return false;
  const bool address = was.type == ZYDIS_OPERAND_TYPE_MEMORY && was.mem.type == ZYDIS_MEMOP_TYPE_AGEN;
  return address || was.size == now.size;
}

/// 64-bit mode takes the bytes for the same operation on operands of the same sizes.
bool same_operation(const ZydisDecodedInstruction& decoded, std::span<const ZydisDecodedOperand> operands,
                    std::span<const u8> bytes) {
  x86::Insn insn;
  x86::InsnDetails again;
  if (x86::decode(bytes, x86::CodeSize::k64, insn, again) != x86::DecodeStatus::kOk) return false;
  const ZydisDecodedInstruction& now = again.instruction;
  if (now.mnemonic != decoded.mnemonic || now.length != bytes.size()) return false;
  if (now.operand_count_visible != decoded.operand_count_visible) return false;
  return std::equal(operands.begin(), operands.begin() + now.operand_count_visible, again.operands().begin(),
                    same_operand);
}

}  // namespace

unsigned rewrite(const ZydisDecodedInstruction& decoded, std::span<const ZydisDecodedOperand> operands,
                 std::span<const u8> bytes, const HostOperands& host, std::span<u8, 16> to) {
  const bool legacy = decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
  if (!legacy && decoded.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
      decoded.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
    return 0;
  const bool is_long = decoded.machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
  const bool in_context = host.memory == Memory::kContext;
  const auto all = operands.first(decoded.operand_count);
  const auto attempt = [&](bool clear_w) {
    const unsigned length = Rewriter(decoded, all, bytes, host, to).run(clear_w);
    const bool sure = is_long && !in_context;
    return length != 0 && (sure || same_operation(decoded, all, to.first(length))) ? length : 0;
  };
  const unsigned length = attempt(false);
  // Outside 64-bit mode W is ignored by instructions with general registers (SDM 2A, 2.3.5.5).
  return length == 0 && !is_long && !legacy ? attempt(true) : length;
}

}  // namespace vert::bt

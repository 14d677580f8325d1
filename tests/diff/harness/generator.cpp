#include "diff/harness/generator.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "diff/harness/exclusions.hpp"
#include "diff/harness/values.hpp"

namespace vert::diff {

namespace {

constexpr u64 kStatus = x86::rflags::kArithmetic;
constexpr unsigned kNone = 0xFF;

/// Encoding number of the general register that a register is part of, or kNone.
unsigned gpr_of(ZydisRegister reg) {
  switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
      return static_cast<unsigned>(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg) -
                                   ZYDIS_REGISTER_RAX);
    default: return kNone;
  }
}

bool is_vector(ZydisRegister reg) {
  const ZydisRegisterClass reg_class = ZydisRegisterGetClass(reg);
  return reg_class == ZYDIS_REGCLASS_XMM || reg_class == ZYDIS_REGCLASS_YMM ||
         reg_class == ZYDIS_REGCLASS_ZMM;
}

bool writes(const ZydisDecodedOperand& operand) {
  return (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}

/// Instructions that end most sequences by a fault, a trap, or a jump to nowhere: they come up less often.
bool ends_sequence(const Decoded& decoded) {
  switch (decoded.insn.mnemonic) {
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS: return true;
    default: break;
  }
  switch (decoded.insn.meta.category) {
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP: return true;
    default: break;
  }
  // Selectors are as random as any register.
  return std::ranges::any_of(decoded.all(), [](const ZydisDecodedOperand& operand) {
    return operand.type == ZYDIS_OPERAND_TYPE_REGISTER && writes(operand) &&
           ZydisRegisterGetClass(operand.reg.value) == ZYDIS_REGCLASS_SEGMENT;
  });
}

/// What the generator knows about registers at a point of the sequence. It need not be right (a branch may
/// have skipped something): a wrong guess only makes an access miss.
struct Knowledge {
  std::array<bool, x86::kGprCount> known{};
  std::array<u64, x86::kGprCount> value{};
  bool fs_known = true, gs_known = true;

  void merge(const Knowledge& other) {
    for (unsigned i = 0; i < x86::kGprCount; ++i) known[i] &= other.known[i] && value[i] == other.value[i];
    fs_known &= other.fs_known;
    gs_known &= other.gs_known;
  }
};

/// Builds one sequence.
class Builder {
 public:
  Builder(const TemplateTable& table, const Mix& mix, u64 seed, Input& input)
      : table_(table), mix_(mix), random_(seed), input_(input) {
    sequence_.seed = seed;
    for (const unsigned weight : mix.weight) total_weight_ += weight;
  }

  Sequence build() {
    input_.registers = Registers{};
    fill_registers(input_.registers, random_);
    for (Page& page : input_.data) fill_interesting(page, random_);
    input_.code.fill(0xCC);
    knowledge_.known.fill(true);
    knowledge_.value = input_.registers.gpr;
    if (total_weight_ == 0 || random_.percent(mix_.bytes)) {
      start_at(kCodeBase + random_.below(64));
      add_random_bytes();
    } else {
      choose_start();
      const u64 count = static_cast<u64>(random_.between(4, 40));
      while (sequence_.steps.size() < count && !full()) add_element();
    }
    sequence_.undefined_end = undefined_;
    return std::move(sequence_);
  }

 private:
  static constexpr u64 kRoom = 0x600;  // bytes that a sequence may take

  // Where code goes.

  void choose_start() {
    const u64 kind = random_.below(20);
    if (kind < 10)
      start_at(kCodeBase + random_.below(64));
    else if (kind < 19)
      start_at(kCodeBase + kPageSize - 1 - random_.below(100));
    else
      start_at(kCodeBase + kCodeSize - 20 - random_.below(100));
  }

  void start_at(u64 address) {
    input_.registers.rip = at_ = address;
    limit_ = std::min(address + kRoom, kCodeBase + kCodeSize);
  }

  [[nodiscard]] bool full() { return at_ + 64 > limit_ && (limit_ - at_ < 16 || random_.percent(30)); }
  [[nodiscard]] u8* code_at(u64 address) { return input_.code.data() + (address - kCodeBase); }

  /// Appends an instruction; what does not fit is cut off, and faults there.
  u64 append(std::span<const u8> bytes) {
    const u64 address = at_;
    if (address >= limit_) return address;
    const u64 room = std::min<u64>(bytes.size(), kCodeBase + kCodeSize - address);
    std::copy_n(bytes.begin(), room, code_at(address));
    sequence_.steps.push_back({address, static_cast<u8>(bytes.size()), undefined_});
    at_ = std::min(address + bytes.size(), kCodeBase + kCodeSize);
    return address;
  }

  // Flags that are undefined from here on.

  void account_flags(const Decoded& decoded) {
    const ZydisAccessedFlags* flags = decoded.insn.cpu_flags;
    if (flags == nullptr) return;
    // A shift by 0 and a repetition of 0 leave flags as they are: nothing becomes defined.
    const bool may_not_write = decoded.insn.meta.category == ZYDIS_CATEGORY_SHIFT ||
                               decoded.insn.meta.category == ZYDIS_CATEGORY_ROTATE ||
                               (decoded.insn.attributes &
                                (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0;
    if (!may_not_write) undefined_ &= ~u64{flags->modified | flags->set_0 | flags->set_1};
    undefined_ |= flags->undefined & kStatus;
    sequence_.undefined_any |= undefined_;
  }

  /// Makes all status flags defined if any of `tested` is not.
  void define_flags(u64 tested) {
    if ((tested & undefined_) == 0) return;
    const std::array<u8, 3> compare = {0x48, 0x39, static_cast<u8>(0xC0 | random_.below(64))};
    append(compare);
    undefined_ = 0;
  }

  // Registers.

  void forget(const Decoded& decoded) {
    for (const auto& operand : decoded.all()) {
      if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER || !writes(operand)) continue;
      const unsigned reg = gpr_of(operand.reg.value);
      if (reg != kNone && reg != x86::kRsp) knowledge_.known[reg] = false;
      if (is_vector(operand.reg.value))
        index_spoilt_ |= u32{1} << static_cast<unsigned>(ZydisRegisterGetId(operand.reg.value));
    }
    if (decoded.insn.mnemonic == ZYDIS_MNEMONIC_WRFSBASE) knowledge_.fs_known = false;
    if (decoded.insn.mnemonic == ZYDIS_MNEMONIC_WRGSBASE) knowledge_.gs_known = false;
  }

  /// MOV of a constant, in the shortest or some other form. Does not touch flags.
  void set_register(unsigned reg, u64 value) {
    if (knowledge_.known[reg] && knowledge_.value[reg] == value && random_.percent(90)) return;
    std::array<u8, 10> bytes{};
    const u8 extension = reg >= 8 ? 1 : 0;
    std::size_t size = 0;
    if (value <= 0xFFFF'FFFF && random_.percent(80)) {
      if (extension != 0) bytes[size++] = 0x41;
      bytes[size++] = static_cast<u8>(0xB8 | (reg & 7));
      std::memcpy(&bytes[size], &value, 4);
      size += 4;
    } else if (const auto small = static_cast<i64>(value); small == static_cast<i32>(small)) {
      bytes[size++] = 0x48 | extension;
      bytes[size++] = 0xC7;
      bytes[size++] = static_cast<u8>(0xC0 | (reg & 7));
      std::memcpy(&bytes[size], &value, 4);
      size += 4;
    } else {
      bytes[size++] = 0x48 | extension;
      bytes[size++] = static_cast<u8>(0xB8 | (reg & 7));
      std::memcpy(&bytes[size], &value, 8);
      size += 8;
    }
    append(std::span(bytes).first(size));
    knowledge_.known[reg] = true;
    knowledge_.value[reg] = value;
  }

  [[nodiscard]] bool may_set(unsigned reg) const { return reg != x86::kRsp && reg != reserved_; }

  [[nodiscard]] bool touches_reserved(const Decoded& decoded) {
    for (const auto& operand : decoded.all()) {
      if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER || !writes(operand)) continue;
      const unsigned reg = gpr_of(operand.reg.value);
      if (reg != kNone && reg == reserved_) return true;
      // A lost stack pointer ends most sequences: seldom.
      if (reg == x86::kRsp && operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && !random_.percent(3))
        return true;
    }
    return decoded.insn.mnemonic == ZYDIS_MNEMONIC_LEAVE && !random_.percent(10);
  }

  // Operands.

  template <typename T>
  static void patch(Encoded& encoded, unsigned offset, unsigned size, T value) {
    std::memcpy(&encoded.bytes[offset], &value, size);
  }

  void choose_immediates(Encoded& encoded) {
    const auto& raw = encoded.decoded.insn.raw;
    for (const auto& imm : raw.imm) {
      if (imm.size == 0 || !random_.percent(60)) continue;
      patch(encoded, imm.offset, imm.size / 8U, interesting_integer(random_));
    }
    if (encoded.decoded.insn.mnemonic == ZYDIS_MNEMONIC_ENTER)
      patch(encoded, raw.imm[0].offset, 2, static_cast<u16>(random_.below(96)));
    if (encoded.decoded.insn.mnemonic == ZYDIS_MNEMONIC_RET && raw.imm[0].size != 0)
      patch(encoded, raw.imm[0].offset, 2, static_cast<u16>(random_.below(64)));
  }

  [[nodiscard]] u64 segment_base(ZydisRegister segment) const {
    if (segment == ZYDIS_REGISTER_FS && knowledge_.fs_known) return input_.registers.fs_base;
    if (segment == ZYDIS_REGISTER_GS && knowledge_.gs_known) return input_.registers.gs_base;
    return 0;
  }

  /// Chooses where a memory operand points, and sets its registers or displacement so. False: choose another
  /// instruction. Emits the moves that are needed, before the instruction.
  bool steer(Encoded& encoded) {
    const ZydisDecodedOperand* operand = encoded.decoded.explicit_memory();
    if (operand == nullptr || operand->mem.type == ZYDIS_MEMOP_TYPE_AGEN) return true;
    const auto& mem = operand->mem;
    const auto& raw = encoded.decoded.insn.raw;
    const unsigned size = std::max<unsigned>(operand->size / 8U, 1U);
    const bool narrow = encoded.decoded.insn.address_width == 32;
    u64 target = interesting_address(size, random_);
    if (size >= 16 && random_.percent(95)) target &= ~(std::bit_ceil(u64{size}) - 1);
    target -= segment_base(mem.segment);

    const bool vector_index = is_vector(mem.index);
    if (vector_index && !index_vector_usable(mem.index) && !random_.percent(3)) return false;
    const unsigned index = vector_index ? kNone : gpr_of(mem.index);
    const unsigned base = gpr_of(mem.base);
    const bool absolute = raw.disp.size == 64;
    if (index != kNone && !knowledge_.known[index]) {
      if (!may_set(index)) return false;
      set_register(index, static_cast<u64>(random_.between(-200, 200)));
    }
    const u64 scaled = index == kNone ? 0 : knowledge_.value[index] * mem.scale;
    if (absolute) {
      patch(encoded, raw.disp.offset, 8, target);
      return true;
    }
    if (raw.disp.size == 32 && (base == kNone || knowledge_.known[base])) {
      u64 from = scaled + (base == kNone ? 0 : knowledge_.value[base]);
      if (mem.base == ZYDIS_REGISTER_RIP || mem.base == ZYDIS_REGISTER_EIP)
        from = at_ + encoded.decoded.insn.length;
      const auto displacement = static_cast<i64>(target - from);
      if (narrow || displacement == static_cast<i32>(displacement)) {
        patch(encoded, raw.disp.offset, 4, displacement);
        return true;
      }
    }
    if (base == kNone) return random_.percent(5);
    // RSP keeps its rough value: that must do.
    if (base == x86::kRsp) return true;
    if (base == index || !may_set(base)) return false;
    const u64 value = target - scaled - static_cast<u64>(mem.disp.value);
    set_register(base, narrow ? value & 0xFFFF'FFFF : value);
    return true;
  }

  [[nodiscard]] bool index_vector_usable(ZydisRegister reg) const {
    const auto id = static_cast<unsigned>(ZydisRegisterGetId(reg));
    return is_index_vector(id) && (index_spoilt_ >> id & 1) == 0;
  }

  /// BT and its kin with a register: the bit offset moves the address (SDM 2A, BT).
  bool limit_bit_offset(const Decoded& decoded) {
    if (decoded.insn.meta.category != ZYDIS_CATEGORY_BITBYTE || decoded.explicit_memory() == nullptr)
      return true;
    if (decoded.operands[1].type != ZYDIS_OPERAND_TYPE_REGISTER) return true;
    const unsigned reg = gpr_of(decoded.operands[1].reg.value);
    if (reg == kNone || !may_set(reg)) return false;
    const auto* memory = decoded.explicit_memory();
    if (gpr_of(memory->mem.base) == reg || gpr_of(memory->mem.index) == reg) return false;
    set_register(reg, static_cast<u64>(random_.between(-300, 300)));
    return true;
  }

  /// RSI, RDI, RBX of string instructions, XLAT and MASKMOV; RCX of repetitions.
  bool set_hidden_pointers(const Decoded& decoded) {
    for (const auto& operand : decoded.all()) {
      if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY ||
          operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
        continue;
      const unsigned reg = gpr_of(operand.mem.base);
      if (reg != x86::kRsi && reg != x86::kRdi && reg != x86::kRbx) continue;
      if (!may_set(reg)) return false;
      set_register(reg, interesting_address(std::max(operand.size / 8U, 1U), random_) -
                            segment_base(operand.mem.segment));
    }
    if ((decoded.insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) ==
        0)
      return true;
    if (!may_set(x86::kRcx)) return false;
    set_register(x86::kRcx, random_.below(18));
    return true;
  }

  // Elements of a sequence.

  void add_element() {
    const u64 kind = random_.below(100);
    const bool with_branches = mix_.weight[static_cast<std::size_t>(InsnClass::kInt)] != 0;
    if (with_branches && depth_ == 0 && kind < 6) return add_forward_branch();
    if (with_branches && depth_ == 0 && kind < 8) return add_loop();
    if (with_branches && depth_ == 0 && kind < 10) return add_call();
    if (with_branches && depth_ == 0 && kind == 10) return add_indirect_jump();
    add_instruction();
  }

  InsnClass choose_class() {
    u64 ticket = random_.below(total_weight_);
    for (std::size_t i = 0; i < kInsnClassCount; ++i) {
      if (ticket < mix_.weight[i]) return static_cast<InsnClass>(i);
      ticket -= mix_.weight[i];
    }
    return InsnClass::kInt;
  }

  void add_instruction() {
    for (unsigned tries = 0; tries < 30; ++tries) {
      const Template& form =
          random_.below(400) == 0 ? table_.pick_refused(random_) : table_.pick(choose_class(), random_);
      auto encoded = encode(form, random_);
      if (!encoded) continue;
      choose_immediates(*encoded);
      if (!refresh(*encoded) || excluded(encoded->decoded) || touches_reserved(encoded->decoded)) continue;
      if (ends_sequence(encoded->decoded) && !random_.percent(8)) continue;
      if (!set_hidden_pointers(encoded->decoded) || !limit_bit_offset(encoded->decoded)) continue;
      if (const ZydisAccessedFlags* flags = encoded->decoded.insn.cpu_flags) define_flags(flags->tested);
      if (!steer(*encoded) || !refresh(*encoded)) continue;
      append(encoded->span());
      account_flags(encoded->decoded);
      forget(encoded->decoded);
      return;
    }
  }

  /// Decodes again after patching.
  static bool refresh(Encoded& encoded) {
    const auto decoded = decode(encoded.bytes);
    if (decoded) encoded.decoded = *decoded;
    return decoded.has_value();
  }

  /// A branch, whose displacement is patched when its target is known.
  struct Branch {
    u64 end = 0;  // the address that the displacement counts from
    u8 size = 0;  // of the displacement
    u64 undefined = 0;
    Knowledge knowledge;
  };

  Branch open(std::span<const u8> opcode, u8 size) {
    std::array<u8, kMaxInsn> bytes{};
    std::ranges::copy(opcode, bytes.begin());
    const std::size_t length = opcode.size() + size;
    append(std::span(bytes).first(length));
    return {at_, size, undefined_, knowledge_};
  }

  /// The branch goes here.
  void close(const Branch& branch) {
    set_displacement(branch, at_);
    undefined_ |= branch.undefined;
    sequence_.undefined_any |= undefined_;
    knowledge_.merge(branch.knowledge);
  }

  void set_displacement(const Branch& branch, u64 target) {
    const auto displacement = static_cast<i64>(target - branch.end);
    // Too far for a byte: to the next instruction.
    const i64 value = branch.size == 1 && displacement != static_cast<i8>(displacement) ? 0 : displacement;
    if (branch.end - kCodeBase > kCodeSize || branch.end >= limit_) return;
    std::memcpy(code_at(branch.end - branch.size), &value, branch.size);
  }

  void body(u64 most) {
    ++depth_;
    const u64 count = random_.below(most + 1);
    for (u64 i = 0; i < count && !full(); ++i) add_element();
    --depth_;
  }

  Branch open_conditional() {
    const u8 condition = static_cast<u8>(random_.below(16));
    const u64 kind = random_.below(10);
    if (kind < 5) {
      define_flags(kStatus);
      return open(std::array<u8, 1>{static_cast<u8>(0x70 | condition)}, 1);
    }
    if (kind < 8) {
      define_flags(kStatus);
      return open(std::array<u8, 2>{0x0F, static_cast<u8>(0x80 | condition)}, 4);
    }
    // LOOPNE, LOOPE, LOOP, JRCXZ; also with ECX.
    define_flags(kStatus);
    const u8 opcode = static_cast<u8>(0xE0 | random_.below(4));
    if (opcode != 0xE3) knowledge_.known[x86::kRcx] = false;
    if (random_.percent(30)) return open(std::array<u8, 2>{0x67, opcode}, 1);
    return open(std::array<u8, 1>{opcode}, 1);
  }

  Branch open_jump() {
    if (random_.percent(50)) return open(std::array<u8, 1>{0xEB}, 1);
    return open(std::array<u8, 1>{0xE9}, 4);
  }

  void add_forward_branch() {
    const Branch branch = random_.percent(85) ? open_conditional() : open_jump();
    body(4);
    close(branch);
  }

  /// A loop of a few turns, counted down in a register that its body leaves alone.
  void add_loop() {
    const bool with_loop = random_.percent(40);
    const unsigned counter = with_loop ? unsigned{x86::kRcx} : static_cast<unsigned>(8 + random_.below(8));
    set_register(counter, 1 + random_.below(5));
    knowledge_.known[counter] = false;
    reserved_ = counter;
    const u64 top = at_;
    // Flags from the end of the body come around.
    undefined_ = kStatus;
    sequence_.undefined_any = kStatus;
    body(4);
    reserved_ = kNone;
    Branch back;
    if (with_loop) {
      back = open(std::array<u8, 1>{0xE2}, 1);
    } else {
      append(std::array<u8, 3>{0x49, 0xFF, static_cast<u8>(0xC8 | (counter & 7))});  // DEC: CF stays
      undefined_ &= x86::rflags::CF;
      back = open(std::array<u8, 2>{0x0F, 0x85}, 4);
    }
    set_displacement(back, top);
  }

  /// CALL over a JMP into a body that returns.
  void add_call() {
    const Branch call = open(std::array<u8, 1>{0xE8}, 4);
    const Branch over = open_jump();
    set_displacement(call, at_);
    body(3);
    append(std::array<u8, 1>{0xC3});
    close(over);
  }

  /// JMP or RET to a constant: here.
  void add_indirect_jump() {
    const bool by_return = random_.percent(40);
    const unsigned reg = random_.percent(50) ? unsigned{x86::kRax} : unsigned{x86::kRdi};
    const u64 length = by_return ? 6 : 7;
    const u64 skipped = random_.below(8);
    const u64 target = at_ + length + skipped;
    std::array<u8, 5> load = {static_cast<u8>(by_return ? 0x68 : 0xB8 | reg)};
    std::memcpy(&load[1], &target, 4);
    append(load);
    if (by_return) {
      append(std::array<u8, 1>{0xC3});
    } else {
      append(std::array<u8, 2>{0xFF, static_cast<u8>(0xE0 | reg)});
      knowledge_.known[reg] = true;
      knowledge_.value[reg] = target;
    }
    at_ = std::min(at_ + skipped, kCodeBase + kCodeSize);  // INT3, never reached
  }

  // Random bytes.

  void add_random_bytes() {
    for (;;) {
      Encoded encoded;
      fill_bytes(encoded.bytes);
      const auto decoded = decode(encoded.bytes);
      if (decoded ? excluded(*decoded) || loops(*decoded) : excluded_undefined(encoded.bytes).has_value())
        continue;
      append(decoded ? std::span<const u8>(encoded.bytes).first(decoded->insn.length) : encoded.bytes);
      if (decoded) account_flags(*decoded);
      return;
    }
  }

  void fill_bytes(std::span<u8> bytes) {
    constexpr std::array<u8, 16> kLikely = {0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x0F, 0x0F, 0x0F,
                                            0x62, 0xC4, 0xC5, 0x48, 0x41, 0x64, 0x2E, 0x38};
    for (u8& byte : bytes) byte = static_cast<u8>(random_.next());
    const u64 likely = random_.below(5);
    for (u64 i = 0; i < likely; ++i) bytes[i] = random_.pick(kLikely);
  }

  /// A relative branch back to itself would never end; one elsewhere meets INT3.
  static bool loops(const Decoded& decoded) {
    for (const auto& operand : decoded.all()) {
      if (operand.type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !operand.imm.is_relative) continue;
      const i64 back = operand.imm.value.s + decoded.insn.length;
      if (back >= 0 && back < decoded.insn.length) return true;
    }
    return false;
  }

  const TemplateTable& table_;
  const Mix& mix_;
  test::Random random_;
  Input& input_;
  Sequence sequence_;
  u64 total_weight_ = 0;
  u64 at_ = 0;
  u64 limit_ = 0;
  u64 undefined_ = 0;
  Knowledge knowledge_;
  u32 index_spoilt_ = 0;
  unsigned reserved_ = kNone;
  unsigned depth_ = 0;
};

}  // namespace

u64 Sequence::undefined_at(u64 rip) const {
  for (const Step& step : steps) {
    if (step.address == rip) return step.undefined;
  }
  return undefined_any;
}

Sequence Generator::generate(u64 seed, Input& input) const {
  return Builder(table_, mix_, seed, input).build();
}

}  // namespace vert::diff

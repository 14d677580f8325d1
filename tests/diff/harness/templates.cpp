#include "diff/harness/templates.hpp"

#include <algorithm>
#include <map>

#include "diff/harness/exclusions.hpp"
#include "x86/exception.hpp"

namespace vert::diff {

namespace {

constexpr std::array<u8, 4> kPrefixByte = {0, 0x66, 0xF3, 0xF2};

/// The free choices of an encoding.
struct Choice {
  u8 mod = 3;
  u8 reg = 0;
  u8 rm = 0;
  u8 sib = 0;
  bool r = false, x = false, b = false;  // REX, VEX, EVEX: not inverted
  bool r2 = false, v2 = false;           // EVEX R' and V'
  u8 vvvv = 0;
  u8 mask = 0;
  bool zero = false;
  bool rex = false;
  u8 lock = 0, segment = 0, address = 0;  // prefix bytes or 0
};

class Bytes {
 public:
  void put(unsigned byte) {
    if (size_ < bytes_.size()) bytes_[size_++] = static_cast<u8>(byte);
  }
  void put_prefix(u8 prefix) {
    if (prefix != 0) put(prefix);
  }
  [[nodiscard]] std::array<u8, kMaxInsn> take(test::Random* random) {
    while (random != nullptr && size_ < bytes_.size()) put(static_cast<u8>(random->next()));
    return bytes_;
  }

 private:
  std::array<u8, kMaxInsn> bytes_{};
  std::size_t size_ = 0;
};

void put_legacy(const Template& from, const Choice& choice, Bytes& bytes) {
  bytes.put_prefix(kPrefixByte[from.prefix]);
  const unsigned rex =
      0x40U | unsigned{from.w} << 3 | unsigned{choice.r} << 2 | unsigned{choice.x} << 1 | unsigned{choice.b};
  if (choice.rex || rex != 0x40) bytes.put(rex);
  if (from.map != 0) bytes.put(0x0F);
  if (from.map == 2) bytes.put(0x38);
  if (from.map == 3) bytes.put(0x3A);
}

void put_vex(const Template& from, const Choice& choice, Bytes& bytes) {
  bytes.put(0xC4);
  bytes.put(unsigned{!choice.r} << 7 | unsigned{!choice.x} << 6 | unsigned{!choice.b} << 5 | from.map);
  bytes.put(unsigned{from.w} << 7 | (~choice.vvvv & 15U) << 3 | unsigned{from.length} << 2 | from.prefix);
}

void put_evex(const Template& from, const Choice& choice, Bytes& bytes) {
  bytes.put(0x62);
  bytes.put(unsigned{!choice.r} << 7 | unsigned{!choice.x} << 6 | unsigned{!choice.b} << 5 |
            unsigned{!choice.r2} << 4 | from.map);
  bytes.put(unsigned{from.w} << 7 | (~choice.vvvv & 15U) << 3 | 4U | from.prefix);
  bytes.put(unsigned{choice.zero} << 7 | unsigned{from.length} << 5 | unsigned{from.broadcast} << 4 |
            unsigned{!choice.v2} << 3 | choice.mask);
}

std::array<u8, kMaxInsn> assemble(const Template& from, const Choice& choice, test::Random* random) {
  Bytes bytes;
  bytes.put_prefix(choice.lock);
  bytes.put_prefix(choice.segment);
  bytes.put_prefix(choice.address);
  switch (from.kind) {
    case EncodingKind::kLegacy: put_legacy(from, choice, bytes); break;
    case EncodingKind::kVex: put_vex(from, choice, bytes); break;
    case EncodingKind::kEvex: put_evex(from, choice, bytes); break;
  }
  bytes.put(from.opcode);
  if (from.has_modrm) {
    bytes.put(unsigned{choice.mod} << 6 | unsigned{choice.reg} << 3 | choice.rm);
    if (choice.mod != 3 && choice.rm == 4) bytes.put(choice.sib);
  }
  return bytes.take(random);
}

Choice plain_choice(const Template& from) {
  Choice choice;
  choice.mod = from.memory ? 0 : 3;
  choice.reg = from.reg;
  choice.rm = from.rm;
  return choice;
}

void choose_prefixes(const Template& from, const Decoded& plain, test::Random& random, Choice& choice) {
  const bool lockable = (plain.insn.attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK) != 0;
  if (lockable && from.memory && random.percent(20)) choice.lock = 0xF0;
  if (random.percent(from.memory ? 6 : 1)) choice.segment = random.percent(50) ? 0x64 : 0x65;
  if (random.percent(from.memory ? 8 : 1)) choice.address = 0x67;
}

Choice random_choice(const Template& from, const Decoded& plain, test::Random& random) {
  Choice choice;
  const u64 bits = random.next();
  const auto bit = [&](unsigned index) { return (bits >> index & 1) != 0; };
  choice.mod = from.memory ? static_cast<u8>(random.below(3)) : u8{3};
  choice.reg = from.reg_fixed ? from.reg : static_cast<u8>(bits & 7);
  choice.rm = from.rm_fixed && !from.memory ? from.rm : static_cast<u8>(bits >> 3 & 7);
  choice.sib = static_cast<u8>(bits >> 8);
  choice.rex = bit(16);
  if (from.kind != EncodingKind::kLegacy || choice.rex) {
    choice.r = bit(17) && !from.reg_fixed;
    choice.x = bit(18) && (from.memory || from.kind == EncodingKind::kEvex);
    choice.b = bit(19) && !from.rm_fixed;
  }
  choice.r2 = bit(20);
  choice.v2 = bit(21);
  // Where vvvv must not name a register, half of the tries are right.
  choice.vvvv = bit(22) ? static_cast<u8>(bits >> 24 & 15) : u8{0};
  if (!bit(22)) choice.v2 = false;
  if (bit(28)) choice.mask = static_cast<u8>(bits >> 29 & 7);
  choice.zero = choice.mask != 0 && bit(33);
  choose_prefixes(from, plain, random, choice);
  return choice;
}

InsnClass classify(const Template& from, const Decoded& decoded) {
  for (const auto& operand : decoded.all()) {
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER &&
        ZydisRegisterGetClass(operand.reg.value) == ZYDIS_REGCLASS_MMX)
      return InsnClass::kMmx;
  }
  switch (decoded.insn.meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87: return InsnClass::kX87;
    case ZYDIS_ISA_EXT_MMX: return InsnClass::kMmx;
    case ZYDIS_ISA_EXT_AVX512VEX:
    case ZYDIS_ISA_EXT_AVX512EVEX: return InsnClass::kAvx512;
    case ZYDIS_ISA_EXT_BMI1:
    case ZYDIS_ISA_EXT_BMI2: return InsnClass::kInt;
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA: return InsnClass::kSse;
    case ZYDIS_ISA_EXT_GFNI:
      if (from.kind == EncodingKind::kLegacy) return InsnClass::kSse;
      break;
    default: break;
  }
  if (from.kind == EncodingKind::kVex) return InsnClass::kAvx;
  return from.kind == EncodingKind::kEvex ? InsnClass::kAvx512 : InsnClass::kInt;
}

/// Branches with a displacement are made by the generator, which knows where code is.
bool is_relative_branch(const Decoded& decoded) {
  return std::ranges::any_of(decoded.all(), [](const ZydisDecodedOperand& operand) {
    return operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && operand.imm.is_relative;
  });
}

bool is_prefix(const Template& from) {
  if (from.kind != EncodingKind::kLegacy || from.map != 0) return false;
  constexpr std::array<u8, 15> kPrefixes = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67,
                                            0xF0, 0xF2, 0xF3, 0x0F, 0xC4, 0xC5, 0x62};
  return (from.opcode & 0xF0) == 0x40 || std::ranges::find(kPrefixes, from.opcode) != kPrefixes.end();
}

/// Collects what the decoder accepts, each instruction form once.
class Collector {
 public:
  std::vector<Template> take() {
    for (u8 map = 0; map < 4; ++map) {
      for (unsigned opcode = 0; opcode < 256; ++opcode) {
        add_all({.kind = EncodingKind::kLegacy, .map = map, .opcode = static_cast<u8>(opcode)});
        if (map == 0) continue;
        add_all({.kind = EncodingKind::kVex, .map = map, .opcode = static_cast<u8>(opcode)});
        add_all({.kind = EncodingKind::kEvex, .map = map, .opcode = static_cast<u8>(opcode)});
      }
    }
    return std::move(found_);
  }

 private:
  void add_all(Template base) {
    if (is_prefix(base)) return;
    const unsigned lengths = base.kind == EncodingKind::kLegacy ? 1 : base.kind == EncodingKind::kVex ? 2 : 3;
    const unsigned broadcasts = base.kind == EncodingKind::kEvex ? 2 : 1;
    for (unsigned variant = 0; variant < 8 * lengths * broadcasts; ++variant) {
      base.prefix = static_cast<u8>(variant & 3);
      base.w = (variant >> 2 & 1) != 0;
      base.length = static_cast<u8>((variant >> 3) % lengths);
      base.broadcast = (variant >> 3) / lengths != 0;
      add_modrm_forms(base);
    }
  }

  static std::optional<Decoded> try_decode(Template& candidate) {
    candidate.has_modrm = true;
    auto decoded = decode(assemble(candidate, plain_choice(candidate), nullptr));
    // VSIB needs an index, and a destination that differs from it.
    if (!decoded && candidate.memory && candidate.kind != EncodingKind::kLegacy) {
      Choice choice = plain_choice(candidate);
      choice.rm = 4;
      choice.sib = 0x10;
      choice.vvvv = 3;
      choice.mask = candidate.kind == EncodingKind::kEvex ? 1 : 0;
      decoded = decode(assemble(candidate, choice, nullptr));
      if (!decoded) {
        choice.vvvv = 0;
        decoded = decode(assemble(candidate, choice, nullptr));
      }
    }
    return decoded;
  }

  void add_modrm_forms(Template base) {
    for (const bool memory : {true, false}) {
      base.memory = memory;
      std::array<ZydisMnemonic, 64> mnemonics{};
      for (unsigned i = 0; i < 64; ++i) {
        Template candidate = base;
        candidate.reg = static_cast<u8>(i >> 3);
        candidate.rm = static_cast<u8>(i & 7);
        if (memory && candidate.rm != 0) continue;
        const auto decoded = try_decode(candidate);
        if (!decoded) continue;
        mnemonics[i] = decoded->insn.mnemonic;
        if ((decoded->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0) continue;
        base.mnemonic = decoded->insn.mnemonic;
        if (memory) keep(base);
        return;
      }
      keep_distinct(base, mnemonics);
    }
  }

  void keep_distinct(Template base, const std::array<ZydisMnemonic, 64>& mnemonics) {
    base.has_modrm = true;
    const auto row = [&](unsigned reg) { return std::span(mnemonics).subspan(reg * 8, 8); };
    for (unsigned reg = 1; reg < 8; ++reg) base.reg_fixed |= !std::ranges::equal(row(reg), row(0));
    for (unsigned reg = 0; reg < 8 && !base.memory; ++reg)
      base.rm_fixed |= std::ranges::adjacent_find(row(reg), std::ranges::not_equal_to()) != row(reg).end();
    for (unsigned i = 0; i < 64; ++i) {
      if (mnemonics[i] == ZYDIS_MNEMONIC_INVALID) continue;
      base.reg = static_cast<u8>(i >> 3);
      base.rm = static_cast<u8>(i & 7);
      base.mnemonic = mnemonics[i];
      if ((!base.reg_fixed && base.reg != 0) || (!base.rm_fixed && base.rm != 0)) continue;
      keep(base);
    }
  }

  void keep(const Template& candidate) { found_.push_back(candidate); }

  std::vector<Template> found_;
};

/// The plainest encoding, with an aligned address, where it is one.
std::optional<Encoded> encode_trial(const Template& form, test::Random& random) {
  Encoded plain;
  plain.bytes = assemble(form, plain_choice(form), nullptr);
  if (const auto decoded = decode(plain.bytes); decoded && decoded->insn.mnemonic == form.mnemonic) {
    plain.decoded = *decoded;
    return plain;
  }
  for (unsigned tries = 0; tries < 40; ++tries) {
    if (auto encoded = encode(form, random)) return encoded;
  }
  return std::nullopt;
}

/// Registers for a trial run: every address register points into the middle of the data.
void prepare_trial(Input& input, std::span<const u8> bytes) {
  input = Input{};
  input.code.fill(0xCC);
  std::ranges::copy(bytes, input.code.begin());
  input.registers.gpr.fill(kDataBase + 0x800);
  input.registers.gpr[x86::kRcx] = 1;
  input.registers.gpr[x86::kRsp] = kStackBase + 0x800;
  input.registers.rip = kCodeBase;
  input.registers.fpu.fcw = 0x37F;
}

}  // namespace

std::string_view name_of(InsnClass insn_class) {
  constexpr std::array<std::string_view, kInsnClassCount> kNames = {"int", "x87", "mmx",
                                                                    "sse", "avx", "avx512"};
  return kNames[static_cast<std::size_t>(insn_class)];
}

std::optional<Encoded> encode(const Template& from, test::Random& random) {
  Encoded encoded;
  const auto plain = decode(assemble(from, plain_choice(from), nullptr));
  const Choice choice = random_choice(from, plain.value_or(Decoded{}), random);
  encoded.bytes = assemble(from, choice, &random);
  const auto decoded = decode(encoded.bytes);
  if (!decoded || decoded->insn.mnemonic != from.mnemonic) return std::nullopt;
  encoded.decoded = *decoded;
  return encoded;
}

TemplateTable::TemplateTable(Executor& oracle) {
  std::array<std::map<ZydisMnemonic, Group>, kInsnClassCount> groups;
  test::Random random(1);
  std::vector<std::pair<Template, Decoded>> batch;
  const auto run_batch = [&] {
    oracle.submit(batch.size());
    oracle.finish();
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const Output& output = oracle.output(i);
      const bool refused = output.ending != Ending::kException || output.vector == x86::kUD ||
                           (output.vector == x86::kGP && output.registers.rip == kCodeBase);
      const auto& [form, decoded] = batch[i];
      if (refused)
        refused_.push_back(form);
      else
        groups[static_cast<std::size_t>(classify(form, decoded))][form.mnemonic].push_back(form);
    }
    batch.clear();
  };
  for (const Template& form : Collector().take()) {
    const std::optional<Encoded> encoded = encode_trial(form, random);
    if (!encoded || excluded(encoded->decoded) || is_relative_branch(encoded->decoded)) continue;
    prepare_trial(oracle.input(batch.size()), encoded->span());
    batch.emplace_back(form, encoded->decoded);
    if (batch.size() == oracle.capacity()) run_batch();
  }
  if (!batch.empty()) run_batch();
  for (std::size_t i = 0; i < kInsnClassCount; ++i) {
    for (auto& [mnemonic, group] : groups[i]) usable_[i].push_back(std::move(group));
  }
}

const Template& TemplateTable::pick(InsnClass insn_class, test::Random& random) const {
  return random.pick(random.pick(usable_[static_cast<std::size_t>(insn_class)]));
}

}  // namespace vert::diff

// Every instruction encoding that the decoder knows, found by asking it: what the generator draws from.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "base/types.hpp"
#include "diff/harness/case.hpp"
#include "diff/harness/decoder.hpp"
#include "support/random.hpp"

namespace vert::diff {

enum class InsnClass : u8 { kInt, kX87, kMmx, kSse, kAvx, kAvx512, kCount };
inline constexpr std::size_t kInsnClassCount = static_cast<std::size_t>(InsnClass::kCount);
[[nodiscard]] std::string_view name_of(InsnClass insn_class);

enum class EncodingKind : u8 { kLegacy, kVex, kEvex };

/// The parts of an encoding that decide which instruction it is. Registers and addresses are chosen later.
struct Template {
  EncodingKind kind = EncodingKind::kLegacy;
  u8 map = 0;     // 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A
  u8 prefix = 0;  // 0, 66, F3, F2 as pp: 0..3
  u8 opcode = 0;
  bool w = false;
  u8 length = 0;           // VEX.L, EVEX.L'L
  bool broadcast = false;  // EVEX.b
  bool memory = false;     // mod != 3
  u8 reg = 0;
  u8 rm = 0;
  bool has_modrm = false;
  bool reg_fixed = false;  // reg belongs to the opcode
  bool rm_fixed = false;   // with mod = 3, rm does
  ZydisMnemonic mnemonic = ZYDIS_MNEMONIC_INVALID;
};

inline constexpr std::size_t kMaxInsn = ZYDIS_MAX_INSTRUCTION_LENGTH;

/// Bytes of a template with registers, prefixes and addressing form chosen by `random`; immediates and
/// displacements are random. Nothing if the choice was no valid encoding of that instruction: try again.
struct Encoded {
  std::array<u8, kMaxInsn> bytes{};
  Decoded decoded;
  [[nodiscard]] std::span<const u8> span() const { return {bytes.data(), decoded.insn.length}; }
};
[[nodiscard]] std::optional<Encoded> encode(const Template& from, test::Random& random);

class TemplateTable {
 public:
  /// Sorts out by one run each what this host refuses in user mode: those come up rarely only.
  explicit TemplateTable(Executor& oracle);

  /// A template of the class: each mnemonic as likely as any other.
  [[nodiscard]] const Template& pick(InsnClass insn_class, test::Random& random) const;
  /// One that raises #UD or #GP here.
  [[nodiscard]] const Template& pick_refused(test::Random& random) const { return random.pick(refused_); }
  [[nodiscard]] std::size_t mnemonics(InsnClass insn_class) const {
    return usable_[static_cast<std::size_t>(insn_class)].size();
  }
  [[nodiscard]] std::size_t refused() const { return refused_.size(); }

 private:
  using Group = std::vector<Template>;  // of one mnemonic

  std::array<std::vector<Group>, kInsnClassCount> usable_;
  std::vector<Template> refused_;
};

}  // namespace vert::diff

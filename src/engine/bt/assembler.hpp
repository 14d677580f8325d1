// Host code of one block under construction: two sections, labels, and the few instructions that translations
// need.
//
// `hot` is what usually runs; `cold` comes behind it. Everything is position-independent until place(). On
// the vCPU's thread, reused for each block.
#pragma once

#include <span>
#include <vector>

#include "base/types.hpp"
#include "engine/bt/rewrite.hpp"

namespace vert::bt {

/// A host memory operand [base + index * scale + displacement], relative to the Context if `gs`.
struct HostMem {
  u8 base = kNone;
  u8 index = kNone;
  u8 scale = 1;
  i32 displacement = 0;
  bool gs = false;
};
/// A field of the Context, by its offset.
[[nodiscard]] constexpr HostMem field(std::size_t offset) {
  return {.displacement = static_cast<i32>(offset), .gs = true};
}
[[nodiscard]] constexpr HostMem indexed_field(std::size_t offset, u8 index, u8 scale = 1) {
  return {.index = index, .scale = scale, .displacement = static_cast<i32>(offset), .gs = true};
}

/// Condition codes as Jcc, SETcc and CMOVcc encode them.
enum class Cond : u8 { kO, kNo, kB, kAe, kE, kNe, kBe, kA, kS, kNs, kP, kNp, kL, kGe, kLe, kG };

struct Label {
  u32 id = ~0U;
  [[nodiscard]] bool valid() const { return id != ~0U; }
};

class Assembler {
 public:
  void reset();

  void use_hot() { section_ = &hot_; }
  void use_cold() { section_ = &cold_; }

  [[nodiscard]] Label make_label();
  void bind(Label label);
  [[nodiscard]] Label here();

  void raw(std::span<const u8> bytes);

  void mov(u8 to, u8 from) { register_form(0x8B, to, from, true); }
  void mov32(u8 to, u8 from) { register_form(0x8B, to, from, false); }
  void movzx16(u8 to, u8 from);
  /// The shortest form; leaves the flags alone.
  void mov_imm(u8 to, u64 value);
  void load(u8 to, const HostMem& from, unsigned size = 8);  // 1 and 2 bytes are zero-extended
  void store(const HostMem& to, u8 from, unsigned size = 8);
  /// Stores a sign-extended immediate.
  void store_imm(const HostMem& to, i32 value, unsigned size = 8);
  void lea(u8 to, const HostMem& address, bool wide = true);
  void rorx(u8 to, u8 from, u8 count);
  void pext(u8 to, u8 from, const HostMem& mask);
  void shlx(u8 to, u8 from, u8 count);
  void xor_load(u8 to, const HostMem& from) { memory_form({}, 0x33, to, from, true); }
  void cmp_load(u8 reg, const HostMem& from) { memory_form({}, 0x3B, reg, from, true); }
  void and_imm32(u8 reg, i32 value) { immediate_form(4, reg, value, false); }
  void cmp_imm(u8 reg, i32 value, bool wide) { immediate_form(7, reg, value, wide); }
  void cmp_imm8(const HostMem& byte, u8 value);
  void test_imm8(const HostMem& byte, u8 value);
  void cmp_imm32(const HostMem& word, i32 value);
  void sub_imm(const HostMem& quad, i32 value);
  void cmp_mem_imm(const HostMem& quad, i32 value);
  void or_mem_imm(const HostMem& word, i32 value) { memory_immediate(1, word, value); }
  void and_mem_imm(const HostMem& word, i32 value) { memory_immediate(4, word, value); }
  void sar_imm(u8 reg, u8 count) { shift_immediate(7, reg, count); }

  void jmp(Label target);
  void jcc(Cond cond, Label target);
  void call(Label target);
  void jrcxz(Label target);  // short: the target must be near, in the same section, and not bound yet
  void jmp_mem(const HostMem& target);
  void ret() { byte(0xC3); }
  void pushfq() { byte(0x9C); }
  void popfq() { byte(0x9D); }

  /// To a fixed place in the code cache, given as its offset there.
  void jmp_out(u32 cache_offset);
  void call_out(u32 cache_offset);
  void jcc_out(Cond cond, u32 cache_offset);

  /// Marks the 32-bit displacement of the jump or call that was just written: patchable later.
  struct Site {
    bool cold = false;
    u32 offset = 0;
  };
  [[nodiscard]] Site last_displacement() const;

  [[nodiscard]] std::size_t size() const { return hot_.size() + cold_.size(); }
  [[nodiscard]] u32 hot_size() const { return static_cast<u32>(hot_.size()); }
  [[nodiscard]] u32 position() const { return static_cast<u32>(section_->size()); }
  [[nodiscard]] bool in_cold() const { return section_ == &cold_; }
  [[nodiscard]] u32 cold_size() const { return static_cast<u32>(cold_.size()); }

  /// Where a block's sections lie: offsets in the code cache.
  struct Place {
    u32 hot = 0;
    u32 cold = 0;
  };
  /// Offset in the code cache of something written here, once the block is placed.
  [[nodiscard]] static u32 placed(Place place, Site site) {
    return (site.cold ? place.cold : place.hot) + site.offset;
  }
  [[nodiscard]] u32 placed(Place place, Label label) const;

  /// Resolves all jumps for a block at `place` and copies its sections to `hot` and `cold` (null: it has
  /// none).
  void place(Place place, u8* hot, u8* cold);

 private:
  struct Fixup {
    bool cold;
    u32 offset;  // of the displacement in its section
    u32 target;  // label id, or cache offset if `out`
    bool out;
    bool is_short;
  };
  struct Bound {
    bool bound = false;
    Site site;
  };

  void byte(u8 value) { section_->push_back(value); }
  void word32(u32 value);
  void word64(u64 value);
  void opcode(std::span<const u8> escape, u8 op);
  void memory_immediate(u8 extension, const HostMem& word, i32 value);
  void shift_immediate(u8 extension, u8 reg, u8 count);
  void register_form(u8 op, u8 reg, u8 rm, bool wide);
  void immediate_form(u8 extension, u8 reg, i32 value, bool wide);
  void memory_form(std::span<const u8> escape, u8 op, u8 reg, const HostMem& mem, bool wide, u8 prefix = 0,
                   bool byte_register = false);
  void modrm_memory(u8 reg, const HostMem& mem);
  void vex_memory_or_register(u8 pp, u8 map, u8 op, u8 reg, u8 vvvv, const HostMem* mem, u8 rm);
  void fixup(u32 target, bool out, bool is_short = false);

  std::vector<u8> hot_;
  std::vector<u8> cold_;
  std::vector<u8>* section_ = &hot_;
  std::vector<Fixup> fixups_;
  std::vector<Bound> labels_;
};

}  // namespace vert::bt

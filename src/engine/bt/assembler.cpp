#include "engine/bt/assembler.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.hpp"

namespace vert::bt {

namespace {

constexpr u8 kGsPrefix = 0x65;
constexpr u8 kOperandSize = 0x66;

u8 low(u8 reg) { return reg == kNone ? u8{0} : static_cast<u8>(reg & 7); }
u8 high(u8 reg) { return reg == kNone ? u8{0} : static_cast<u8>(reg >> 3); }

u8 scale_bits(u8 scale) { return scale == 1 ? 0 : scale == 2 ? 1 : scale == 4 ? 2 : 3; }

bool fits8(i32 value) { return value >= -128 && value <= 127; }

}  // namespace

void Assembler::reset() {
  hot_.clear();
  cold_.clear();
  fixups_.clear();
  labels_.clear();
  section_ = &hot_;
}

Label Assembler::make_label() {
  labels_.push_back({});
  return {static_cast<u32>(labels_.size() - 1)};
}

void Assembler::bind(Label label) { labels_[label.id] = {true, {in_cold(), position()}}; }

Label Assembler::here() {
  const Label label = make_label();
  bind(label);
  return label;
}

u32 Assembler::placed(Place place, Label label) const {
  VERT_CHECK(labels_[label.id].bound);
  return placed(place, labels_[label.id].site);
}

void Assembler::raw(std::span<const u8> bytes) {
  section_->insert(section_->end(), bytes.begin(), bytes.end());
}

void Assembler::word32(u32 value) {
  std::array<u8, 4> bytes;
  std::memcpy(bytes.data(), &value, bytes.size());
  raw(bytes);
}

void Assembler::word64(u64 value) {
  word32(static_cast<u32>(value));
  word32(static_cast<u32>(value >> 32));
}

void Assembler::register_form(u8 op, u8 reg, u8 rm, bool wide) {
  const u8 rex = static_cast<u8>((wide ? 8 : 0) | high(reg) << 2 | high(rm));
  if (rex != 0) byte(0x40 | rex);
  byte(op);
  byte(static_cast<u8>(0xC0 | low(reg) << 3 | low(rm)));
}

void Assembler::movzx16(u8 to, u8 from) {
  const u8 rex = static_cast<u8>(high(to) << 2 | high(from));
  if (rex != 0) byte(0x40 | rex);
  byte(0x0F);
  byte(0xB7);
  byte(static_cast<u8>(0xC0 | low(to) << 3 | low(from)));
}

void Assembler::immediate_form(u8 extension, u8 reg, i32 value, bool wide) {
  const u8 rex = static_cast<u8>((wide ? 8 : 0) | high(reg));
  if (rex != 0) byte(0x40 | rex);
  byte(fits8(value) ? 0x83 : 0x81);
  byte(static_cast<u8>(0xC0 | extension << 3 | low(reg)));
  if (fits8(value))
    byte(static_cast<u8>(value));
  else
    word32(static_cast<u32>(value));
}

void Assembler::modrm_memory(u8 reg, const HostMem& mem) {
  const u8 reg_bits = static_cast<u8>(low(reg) << 3);
  if (mem.base == kNone) {  // SIB without base: disp32
    byte(reg_bits | 4);
    const u8 index = mem.index == kNone ? u8{4} : low(mem.index);
    byte(static_cast<u8>(scale_bits(mem.scale) << 6 | index << 3 | 5));
    word32(static_cast<u32>(mem.displacement));
    return;
  }
  const bool sib = mem.index != kNone || low(mem.base) == 4;
  const u8 mod = mem.displacement == 0 && low(mem.base) != 5 ? 0x00 : fits8(mem.displacement) ? 0x40 : 0x80;
  byte(mod | reg_bits | (sib ? u8{4} : low(mem.base)));
  if (sib) {
    const u8 index = mem.index == kNone ? u8{4} : low(mem.index);
    byte(static_cast<u8>(scale_bits(mem.scale) << 6 | index << 3 | low(mem.base)));
  }
  if (mod == 0x40)
    byte(static_cast<u8>(mem.displacement));
  else if (mod == 0x80)
    word32(static_cast<u32>(mem.displacement));
}

void Assembler::memory_form(std::span<const u8> escape, u8 op, u8 reg, const HostMem& mem, bool wide,
                            u8 prefix, bool byte_register) {
  if (mem.gs) byte(kGsPrefix);
  if (prefix != 0) byte(prefix);
  const u8 rex = static_cast<u8>((wide ? 8 : 0) | high(reg) << 2 | high(mem.index) << 1 | high(mem.base));
  if (rex != 0 || (byte_register && reg >= 4)) byte(0x40 | rex);
  raw(escape);
  byte(op);
  modrm_memory(reg, mem);
}

void Assembler::mov_imm(u8 to, u64 value) {
  const auto sign_extended = static_cast<u64>(static_cast<i64>(static_cast<i32>(value)));
  if (value <= 0xFFFFFFFF) {
    if (to >= 8) byte(0x41);
    byte(static_cast<u8>(0xB8 | low(to)));
    word32(static_cast<u32>(value));
  } else if (value == sign_extended) {
    byte(static_cast<u8>(0x48 | high(to)));
    byte(0xC7);
    byte(static_cast<u8>(0xC0 | low(to)));
    word32(static_cast<u32>(value));
  } else {
    byte(static_cast<u8>(0x48 | high(to)));
    byte(static_cast<u8>(0xB8 | low(to)));
    word64(value);
  }
}

void Assembler::load(u8 to, const HostMem& from, unsigned size) {
  constexpr std::array<u8, 1> kEscape = {0x0F};
  switch (size) {
    case 1: return memory_form(kEscape, 0xB6, to, from, false);
    case 2: return memory_form(kEscape, 0xB7, to, from, false);
    case 4: return memory_form({}, 0x8B, to, from, false);
    default: return memory_form({}, 0x8B, to, from, true);
  }
}

void Assembler::store(const HostMem& to, u8 from, unsigned size) {
  switch (size) {
    case 1: return memory_form({}, 0x88, from, to, false, 0, true);
    case 2: return memory_form({}, 0x89, from, to, false, kOperandSize);
    case 4: return memory_form({}, 0x89, from, to, false);
    default: return memory_form({}, 0x89, from, to, true);
  }
}

void Assembler::store_imm(const HostMem& to, i32 value, unsigned size) {
  switch (size) {
    case 1:
      memory_form({}, 0xC6, 0, to, false);
      byte(static_cast<u8>(value));
      return;
    case 2:
      memory_form({}, 0xC7, 0, to, false, kOperandSize);
      byte(static_cast<u8>(value));
      byte(static_cast<u8>(value >> 8));
      return;
    default: memory_form({}, 0xC7, 0, to, size == 8); word32(static_cast<u32>(value));
  }
}

void Assembler::lea(u8 to, const HostMem& address, bool wide) { memory_form({}, 0x8D, to, address, wide); }

void Assembler::vex_memory_or_register(u8 pp, u8 map, u8 op, u8 reg, u8 vvvv, const HostMem* mem, u8 rm) {
  if (mem != nullptr && mem->gs) byte(kGsPrefix);
  const u8 x = mem != nullptr ? high(mem->index) : u8{0};
  const u8 b = mem != nullptr ? high(mem->base) : high(rm);
  byte(0xC4);
  byte(static_cast<u8>((high(reg) ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | map));
  byte(static_cast<u8>(0x80 | (~vvvv & 15) << 3 | pp));
  byte(op);
  if (mem != nullptr)
    modrm_memory(reg, *mem);
  else
    byte(static_cast<u8>(0xC0 | low(reg) << 3 | low(rm)));
}

void Assembler::rorx(u8 to, u8 from, u8 count) {
  vex_memory_or_register(3, 3, 0xF0, to, 0, nullptr, from);
  byte(count);
}

void Assembler::pext(u8 to, u8 from, const HostMem& mask) {
  vex_memory_or_register(2, 2, 0xF5, to, from, &mask, 0);
}

void Assembler::shlx(u8 to, u8 from, u8 count) {
  vex_memory_or_register(1, 2, 0xF7, to, count, nullptr, from);
}

void Assembler::cmp_imm8(const HostMem& target, u8 value) {
  memory_form({}, 0x80, 7, target, false);
  byte(value);
}

void Assembler::test_imm8(const HostMem& target, u8 value) {
  memory_form({}, 0xF6, 0, target, false);
  byte(value);
}

void Assembler::memory_immediate(u8 extension, const HostMem& word, i32 value) {
  memory_form({}, 0x81, extension, word, false);
  word32(static_cast<u32>(value));
}
void Assembler::shift_immediate(u8 extension, u8 reg, u8 count) {
  byte(static_cast<u8>(0x48 | high(reg)));
  byte(0xC1);
  byte(static_cast<u8>(0xC0 | extension << 3 | low(reg)));
  byte(count);
}

void Assembler::cmp_imm32(const HostMem& target, i32 value) { memory_immediate(7, target, value); }

void Assembler::sub_imm(const HostMem& quad, i32 value) {
  memory_form({}, 0x81, 5, quad, true);
  word32(static_cast<u32>(value));
}

void Assembler::cmp_mem_imm(const HostMem& quad, i32 value) {
  memory_form({}, 0x81, 7, quad, true);
  word32(static_cast<u32>(value));
}

void Assembler::fixup(u32 target, bool out, bool is_short) {
  fixups_.push_back({in_cold(), position(), target, out, is_short});
  if (is_short)
    byte(0);
  else
    word32(0);
}

void Assembler::jmp(Label target) {
  byte(0xE9);
  fixup(target.id, false);
}
void Assembler::jcc(Cond cond, Label target) {
  byte(0x0F);
  byte(static_cast<u8>(0x80 | static_cast<u8>(cond)));
  fixup(target.id, false);
}
void Assembler::call(Label target) {
  byte(0xE8);
  fixup(target.id, false);
}
void Assembler::jrcxz(Label target) {
  byte(0xE3);
  fixup(target.id, false, true);
}
void Assembler::jmp_mem(const HostMem& target) { memory_form({}, 0xFF, 4, target, false); }
void Assembler::jmp_out(u32 cache_offset) {
  byte(0xE9);
  fixup(cache_offset, true);
}
void Assembler::call_out(u32 cache_offset) {
  byte(0xE8);
  fixup(cache_offset, true);
}
void Assembler::jcc_out(Cond cond, u32 cache_offset) {
  byte(0x0F);
  byte(static_cast<u8>(0x80 | static_cast<u8>(cond)));
  fixup(cache_offset, true);
}

Assembler::Site Assembler::last_displacement() const { return {in_cold(), position() - 4}; }

void Assembler::place(Place place, u8* hot, u8* cold) {
  for (const Fixup& fixup : fixups_) {
    const u32 at = placed(place, Site{fixup.cold, fixup.offset});
    const u32 target = fixup.out ? fixup.target : placed(place, Label{fixup.target});
    std::vector<u8>& bytes = fixup.cold ? cold_ : hot_;
    if (fixup.is_short) {
      const i64 distance = i64{target} - (i64{at} + 1);
      VERT_CHECK(distance >= -128 && distance <= 127);
      bytes[fixup.offset] = static_cast<u8>(distance);
    } else {
      const u32 distance = target - (at + 4);
      std::memcpy(bytes.data() + fixup.offset, &distance, sizeof distance);
    }
  }
  std::copy(hot_.begin(), hot_.end(), hot);
  std::copy(cold_.begin(), cold_.end(), cold);
}

}  // namespace vert::bt

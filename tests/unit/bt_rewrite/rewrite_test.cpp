// Rewritten instructions, decoded again: everything but the place of general registers and memory is as it
// was.
#include "engine/bt/rewrite.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace vert::test {
namespace {

using bt::HostOperands;
using Memory = HostOperands::Memory;
using Bytes = std::vector<u8>;

struct Decoded {
  ZydisDecodedInstruction insn;
  std::array<ZydisDecodedOperand, ZYDIS_MAX_OPERAND_COUNT> operands;

  [[nodiscard]] std::span<const ZydisDecodedOperand> all() const {
    return {operands.data(), insn.operand_count};
  }
  [[nodiscard]] bool has(u64 attribute) const { return (insn.attributes & attribute) != 0; }
  [[nodiscard]] const ZydisDecodedOperand* memory() const {
    for (const auto& operand : all()) {
      if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY &&
          operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
        return &operand;
    }
    return nullptr;
  }
};

ZydisDecoder make_decoder(bool is_long) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, is_long ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                   is_long ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
  for (const auto hint : {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE})
    ZydisDecoderEnableMode(&decoder, hint, ZYAN_FALSE);
  return decoder;
}

std::optional<Decoded> decode(std::span<const u8> bytes, bool is_long = true) {
  static const ZydisDecoder kLong = make_decoder(true);
  static const ZydisDecoder kShort = make_decoder(false);
  Decoded to;
  const ZydisDecoder& decoder = is_long ? kLong : kShort;
  if (!ZYAN_SUCCESS(
          ZydisDecoderDecodeFull(&decoder, bytes.data(), bytes.size(), &to.insn, to.operands.data())))
    return std::nullopt;
  return to;
}

/// As in generated code: 4 is the host's 15, what is in memory comes through a scratch register.
HostOperands host_registers() {
  HostOperands host;
  host.gpr = {0, 1, 2, 3, 15, 5, 6, 7, 8, 9, 10, 11, 12, 13, 10, 11};
  return host;
}

HostOperands at(u8 base, u8 index, i32 displacement) {
  HostOperands host = host_registers();
  host.memory = Memory::kHost;
  host.base = base;
  host.index = index;
  host.displacement = displacement;
  return host;
}

HostOperands in_context(i32 displacement) {
  HostOperands host = host_registers();
  host.memory = Memory::kContext;
  host.displacement = displacement;
  return host;
}

std::optional<Bytes> rewrite(const Bytes& from, const HostOperands& host, bool is_long = true) {
  const auto decoded = decode(from, is_long);
  if (!decoded) {
    ADD_FAILURE() << "not an instruction";
    return std::nullopt;
  }
  std::array<u8, 16> to{};
  const unsigned length = bt::rewrite(decoded->insn, decoded->all(), from, host, to);
  if (length == 0) return std::nullopt;
  return Bytes(to.begin(), to.begin() + length);
}

std::string hex(std::span<const u8> bytes) {
  std::string text;
  for (const u8 byte : bytes) {
    text += "0123456789ABCDEF"[byte >> 4];
    text += "0123456789ABCDEF"[byte & 15];
  }
  return text;
}

std::string text(const std::optional<Bytes>& bytes) { return bytes ? hex(*bytes) : "none"; }

TEST(Rewrite, Registers) {
  const HostOperands host = host_registers();
  EXPECT_EQ(text(rewrite({0x01, 0xE0}, host)), "4401F8");                        // add eax, esp
  EXPECT_EQ(text(rewrite({0x4D, 0x01, 0xF7}, host)), "4D01D3");                  // add r15, r14
  EXPECT_EQ(text(rewrite({0x40, 0x88, 0xE0}, host)), "4488F8");                  // mov al, spl
  EXPECT_EQ(text(rewrite({0x40, 0x88, 0xE8}, host)), "4088E8");                  // mov al, bpl
  EXPECT_EQ(text(rewrite({0x88, 0xE0}, host)), "88E0");                          // mov al, ah
  EXPECT_EQ(text(rewrite({0xBC, 1, 2, 3, 4}, host)), "41BF01020304");            // mov esp, imm
  EXPECT_EQ(text(rewrite({0x49, 0x0F, 0xCF}, host)), "490FCB");                  // bswap r15
  EXPECT_EQ(text(rewrite({0x94}, host)), "4197");                                // xchg eax, esp
  EXPECT_EQ(text(rewrite({0xC4, 0xE2, 0x58, 0xF2, 0xC4}, host)), "C4C200F2C7");  // andn eax, esp, esp
  EXPECT_EQ(text(rewrite({0xC5, 0xF9, 0x6E, 0xC4}, host)), "C4C1796EC7");        // vmovd xmm0, esp
  EXPECT_EQ(text(rewrite({0xF0, 0x0F, 0xB1, 0x20}, at(10, 14, 0))),
            "F0470FB13C32");  // lock cmpxchg [rax], esp
}

TEST(Rewrite, KeepsRepeatPrefixesThatBelongToTheOpcodeOnly) {
  const HostOperands host = host_registers();
  EXPECT_EQ(text(rewrite({0xF3, 0x01, 0xD8}, host)), "01D8");                         // add eax, ebx
  EXPECT_EQ(text(rewrite({0xF2, 0xF0, 0x01, 0x18}, at(3, bt::kNone, 0))), "F0011B");  // lock add [rax], ebx
  EXPECT_EQ(text(rewrite({0xF2, 0xF3, 0x0F, 0x10, 0xC1}, host)), "F30F10C1");         // movss xmm0, xmm1
  EXPECT_EQ(text(rewrite({0xF3, 0x0F, 0xB8, 0xC3}, host)), "F30FB8C3");               // popcnt eax, ebx
  EXPECT_EQ(text(rewrite({0xF3, 0x90}, host)), "F390");                               // pause
  EXPECT_EQ(text(rewrite({0x66, 0xF2, 0x0F, 0x38, 0xF1, 0xC3}, host)), "66F20F38F1C3");  // crc32 eax, bx
}

TEST(Rewrite, Refuses) {
  const HostOperands host = host_registers();
  EXPECT_FALSE(rewrite({0x88, 0x20}, at(10, 14, 0)));  // mov [rax], ah
  EXPECT_TRUE(rewrite({0x88, 0x20}, at(5, bt::kNone, 0)));
  EXPECT_FALSE(rewrite({0x50}, host));                                         // push rax
  EXPECT_FALSE(rewrite({0xF3, 0xA4}, host));                                   // rep movsb
  EXPECT_FALSE(rewrite({0x0F, 0xF7, 0xC1}, host));                             // maskmovq
  EXPECT_FALSE(rewrite({0x66, 0x0F, 0x38, 0xF8, 0x03}, at(10, 14, 0)));        // movdir64b
  EXPECT_FALSE(rewrite({0x0F, 0xA3, 0x00}, at(10, 14, 0)));                    // bt [rax], eax
  EXPECT_TRUE(rewrite({0x0F, 0xBA, 0x20, 1}, at(10, 14, 0)));                  // bt [rax], 1
  EXPECT_FALSE(rewrite({0x48, 0x8D, 0x05, 0, 0, 0, 0}, host));                 // lea rax, [rip]
  EXPECT_FALSE(rewrite({0xEB, 0x00}, host));                                   // jmp
  EXPECT_FALSE(rewrite({0xC4, 0xE2, 0x7B, 0x4B, 0x04, 0x08}, at(10, 14, 0)));  // tileloadd
  EXPECT_FALSE(rewrite({0xC4, 0xE2, 0x69, 0x92, 0x04, 0x08}, at(10, 14, 0)));  // vgatherdps
}

TEST(Rewrite, RefusesRegistersThatAreNowhere) {
  HostOperands host = host_registers();
  host.gpr[11] = bt::kNone;
  EXPECT_FALSE(rewrite({0x49, 0x01, 0xC3}, host));  // add r11, rax
  EXPECT_FALSE(rewrite({0x49, 0x8D, 0x03}, host));  // lea rax, [r11]
  EXPECT_TRUE(rewrite({0x49, 0x8B, 0x03}, at(3, bt::kNone, 0)));
  host.memory = Memory::kContext;
  EXPECT_TRUE(rewrite({0x49, 0x01, 0xC3}, host));
}

TEST(Rewrite, Context) {
  const HostOperands host = in_context(0x78);
  EXPECT_EQ(text(rewrite({0x49, 0x01, 0xC3}, host)),
            "6548010425"
            "78000000");  // add r11, rax
  EXPECT_EQ(text(rewrite({0x44, 0x03, 0xDC}, host)),
            "65440"
            "31C2578000000");  // add r11d, esp
  EXPECT_EQ(text(rewrite({0x4D, 0x0F, 0xB1, 0xC3}, host)), "654C0FB1042578000000");
  EXPECT_FALSE(rewrite({0x41, 0x01, 0xC3}, host));                       // 32-bit write
  EXPECT_FALSE(rewrite({0x00, 0xC4}, host));                             // ah
  EXPECT_FALSE(rewrite({0x49, 0x0F, 0xA3, 0xC3}, host));                 // bt r11, rax
  EXPECT_FALSE(rewrite({0x66, 0x49, 0x0F, 0x3A, 0x14, 0xC3, 1}, host));  // pextrb r11, xmm0, 1
  EXPECT_FALSE(rewrite({0x49, 0x8C, 0xC3}, host));                       // mov r11, es
  EXPECT_FALSE(rewrite({0x49, 0x0F, 0xC7, 0xF3}, host));                 // rdrand r11, in memory VMPTRLD
  EXPECT_FALSE(rewrite({0x48, 0x01, 0x03}, host));                       // no register
  EXPECT_TRUE(rewrite({0x66, 0x41, 0x0F, 0x3A, 0x20, 0xC3, 1}, host));   // pinsrb xmm0, r11d, 1
}

TEST(Rewrite, Addresses) {
  const Bytes mov = {0x8B, 0x03};  // mov eax, [rbx]
  EXPECT_EQ(text(rewrite(mov, at(3, bt::kNone, 0))), "8B03");
  EXPECT_EQ(text(rewrite(mov, at(5, bt::kNone, 0))), "8B4500");
  EXPECT_EQ(text(rewrite(mov, at(13, bt::kNone, 0))), "418B4500");
  EXPECT_EQ(text(rewrite(mov, at(12, bt::kNone, -128))), "418B442480");
  EXPECT_EQ(text(rewrite(mov, at(10, 11, 128))), "438B841A80000000");
  EXPECT_EQ(text(rewrite(mov, at(bt::kNone, 14, 4))), "428B043504000000");
  EXPECT_EQ(text(rewrite(mov, at(bt::kNone, bt::kNone, 4))), "8B042504000000");
  EXPECT_FALSE(rewrite(mov, at(3, 4, 0)));                                       // RSP is no index
  const Bytes load = {0x62, 0xF1, 0xFE, 0x48, 0x6F, 0x43, 0x01};                 // vmovdqu64 zmm0, [rbx+64]
  EXPECT_EQ(text(rewrite(load, at(3, bt::kNone, 64))), "62F1FE486F8340000000");  // never disp8*64
  EXPECT_EQ(text(rewrite(load, at(13, bt::kNone, 0))), "62D1FE486F8500000000");
  const HostOperands host = host_registers();
  EXPECT_EQ(text(rewrite({0x48, 0x8D, 0x44, 0x24, 0x08}, host)), "498D4708");  // lea rax, [rsp+8]
  EXPECT_EQ(text(rewrite({0x67, 0x8D, 0x04, 0x0B}, host)), "8D040B");          // lea eax, [ebx+ecx]
  EXPECT_FALSE(rewrite({0x67, 0x8D, 0x06, 0x00, 0x80}, host, false));          // lea eax, [disp16]
}

TEST(Rewrite, Code32) {
  const HostOperands host = host_registers();
  EXPECT_EQ(text(rewrite({0x44}, host, false)), "41FFC7");                         // inc esp
  EXPECT_EQ(text(rewrite({0x66, 0x4D}, host, false)), "66FFCD");                   // dec bp
  EXPECT_EQ(text(rewrite({0xA1, 1, 2, 3, 4}, at(10, 14, 0), false)), "438B0432");  // mov eax, moffs
  EXPECT_EQ(text(rewrite({0xA2, 1, 2, 3, 4}, at(10, 14, 0), false)), "43880432");
  EXPECT_EQ(text(rewrite({0x8D, 0x05, 1, 2, 3, 0x84}, host, false)), "8D042501020384");  // lea eax, [disp32]
  EXPECT_EQ(text(rewrite({0xC4, 0xE1, 0xF9, 0x6E, 0xC4}, host, false)),
            "C4C1796EC7");                                 // vmovd xmm0, esp, W ignored
  EXPECT_FALSE(rewrite({0x63, 0xC0}, host, false));        // arpl
  EXPECT_FALSE(rewrite({0xFF, 0xE0}, host, false));        // jmp eax
  EXPECT_FALSE(rewrite({0x27}, host, false));              // daa
  EXPECT_FALSE(rewrite({0x0F, 0x20, 0xC0}, host, false));  // mov eax, cr0
}

bool is_general(ZydisRegister reg) {
  const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
  return kind >= ZYDIS_REGCLASS_GPR8 && kind <= ZYDIS_REGCLASS_GPR64;
}

/// The register of the same size and half that stands for the guest's `reg`.
ZydisRegister wanted(ZydisRegister reg, const HostOperands& host) {
  if (!is_general(reg)) return reg;
  if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
    return static_cast<ZydisRegister>(ZYDIS_REGISTER_AH + host.gpr[static_cast<u8>(reg - ZYDIS_REGISTER_AH)]);
  const auto parent = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  const u8 number = host.gpr[static_cast<u8>(ZydisRegisterGetId(parent))];
  const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
  if (kind != ZYDIS_REGCLASS_GPR8) return ZydisRegisterEncode(kind, number);
  return static_cast<ZydisRegister>(number < 4 ? ZYDIS_REGISTER_AL + number
                                               : ZYDIS_REGISTER_SPL + number - 4);
}

ZydisRegister address_register(u8 number) {
  return number == bt::kNone ? ZYDIS_REGISTER_NONE : ZydisRegisterEncode(ZYDIS_REGCLASS_GPR64, number);
}

/// Address of a kept LEA operand, in 64-bit registers: their upper halves and the sum's do not count where
/// the address or the result has 32 bits.
void expect_kept(const Decoded& was, const ZydisDecodedOperand& a, const ZydisDecodedOperand& b,
                 const HostOperands& host) {
  const auto wide = [](ZydisRegister reg) {
    return reg == ZYDIS_REGISTER_NONE ? reg
                                      : ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  };
  const auto& raw = was.insn.raw;
  const bool baseless = was.has(ZYDIS_ATTRIB_HAS_SIB) && raw.modrm.mod == 0 && raw.sib.base == 5;
  // Zydis 4.0 names R13 where SIB says no base behind a 67h prefix.
  if (!baseless) {
    EXPECT_EQ(wide(b.mem.base), wanted(wide(a.mem.base), host));
    EXPECT_EQ(b.mem.disp.value, a.mem.disp.value);
  }
  EXPECT_EQ(wide(b.mem.index), wanted(wide(a.mem.index), host));
  if (a.mem.index != ZYDIS_REGISTER_NONE) {
    EXPECT_EQ(b.mem.scale, a.mem.scale);
  }
}

void expect_memory(const ZydisDecodedOperand& b, const HostOperands& host) {
  const bool in_slot = host.memory == Memory::kContext;
  const u8 base = in_slot ? bt::kNone : host.base;
  const u8 index = in_slot ? bt::kNone : host.index;
  EXPECT_EQ(b.mem.base, address_register(base));
  EXPECT_EQ(b.mem.index, address_register(index));
  if (index != bt::kNone) {
    EXPECT_EQ(b.mem.scale, 1);
  }
  EXPECT_EQ(b.mem.disp.value, host.displacement);
  const bool stack = base == 5;
  EXPECT_EQ(b.mem.segment, in_slot ? ZYDIS_REGISTER_GS : stack ? ZYDIS_REGISTER_SS : ZYDIS_REGISTER_DS);
}

void expect_operand(const Decoded& was, const ZydisDecodedOperand& a, const ZydisDecodedOperand& b,
                    const HostOperands& host) {
  const bool moved = host.memory == Memory::kContext && a.encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
  EXPECT_EQ(a.actions, b.actions);
  if (moved) {
    ASSERT_EQ(a.type, ZYDIS_OPERAND_TYPE_REGISTER);
    ASSERT_EQ(b.type, ZYDIS_OPERAND_TYPE_MEMORY);
    if ((a.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0) {
      EXPECT_EQ(a.size, b.size);
    }
    return expect_memory(b, host);
  }
  ASSERT_EQ(a.type, b.type);
  if (a.type != ZYDIS_OPERAND_TYPE_MEMORY || a.mem.type != ZYDIS_MEMOP_TYPE_AGEN) {
    EXPECT_EQ(a.size, b.size);
  }
  EXPECT_EQ(a.element_size, b.element_size);
  if (a.type == ZYDIS_OPERAND_TYPE_REGISTER) {
    EXPECT_STREQ(ZydisRegisterGetString(b.reg.value), ZydisRegisterGetString(wanted(a.reg.value, host)));
  } else if (a.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
    EXPECT_EQ(a.imm.value.u, b.imm.value.u);
  } else if (host.memory == Memory::kKeep) {
    expect_kept(was, a, b, host);
  } else {
    expect_memory(b, host);
  }
}

void expect_same(const Decoded& was, const Decoded& now, const HostOperands& host) {
  constexpr u64 kKept = ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                        ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_EVEX_B | ZYDIS_ATTRIB_IS_PRIVILEGED;
  EXPECT_STREQ(ZydisMnemonicGetString(was.insn.mnemonic), ZydisMnemonicGetString(now.insn.mnemonic));
  EXPECT_EQ(was.insn.encoding, now.insn.encoding);
  EXPECT_EQ(was.insn.attributes & kKept, now.insn.attributes & kKept);
  EXPECT_FALSE(now.has(ZYDIS_ATTRIB_HAS_XACQUIRE | ZYDIS_ATTRIB_HAS_XRELEASE));
  const auto& a = was.insn.avx;
  const auto& b = now.insn.avx;
  EXPECT_EQ(a.vector_length, b.vector_length);
  EXPECT_EQ(a.mask.mode, b.mask.mode);
  EXPECT_EQ(a.mask.reg, b.mask.reg);
  EXPECT_EQ(a.broadcast.mode, b.broadcast.mode);
  EXPECT_EQ(a.rounding.mode, b.rounding.mode);
  EXPECT_EQ(a.has_sae, b.has_sae);
  ASSERT_EQ(was.insn.operand_count_visible, now.insn.operand_count_visible);
  for (std::size_t i = 0; i < was.insn.operand_count_visible; ++i)
    expect_operand(was, was.operands[i], now.operands[i], host);
}

/// Must not be rewritten, whatever `host` is: see bt::rewrite().
bool is_refused(const Decoded& decoded) {
  const auto visible = decoded.insn.operand_count_visible;
  for (const auto& operand : decoded.all().subspan(visible)) {
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) return true;
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER && operand.reg.value == ZYDIS_REGISTER_RSP) return true;
  }
  return decoded.has(ZYDIS_ATTRIB_IS_RELATIVE) && decoded.memory() == nullptr;
}

/// May 64-bit code without 8-bit registers be refused? Everything common must not be.
bool must_work(const Decoded& decoded, const HostOperands& host, std::size_t length) {
  const auto* memory = decoded.memory();
  if (host.memory == Memory::kContext || length > 8 || is_refused(decoded)) return false;
  if (memory == nullptr && decoded.insn.operand_count_visible == 0) return false;
  if (memory != nullptr && memory->mem.type != ZYDIS_MEMOP_TYPE_MEM) return false;
  if (memory != nullptr && host.memory == Memory::kKeep) return false;
  for (const auto& operand : decoded.all()) {
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    const ZydisRegister reg = operand.reg.value;
    if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_TMM) return false;
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) return false;
    if (operand.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && is_general(reg) && wanted(reg, host) != reg)
      return false;
  }
  switch (decoded.insn.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
      return memory == nullptr || decoded.operands[1].type != ZYDIS_OPERAND_TYPE_REGISTER;
    case ZYDIS_MNEMONIC_ENQCMD:
    case ZYDIS_MNEMONIC_ENQCMDS:
    case ZYDIS_MNEMONIC_UMONITOR: return false;
    default: break;
  }
  return decoded.insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
         decoded.insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ||
         decoded.insn.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
}

/// Random encodings, with prefixes more often than chance has them.
class Corpus : public ::testing::TestWithParam<bool> {
 protected:
  u8 byte() { return static_cast<u8>(random_()); }
  u8 pick(std::span<const u8> from) { return from[random_() % from.size()]; }

  std::array<u8, 15> encoding() {
    static constexpr std::array<u8, 8> kPrefixes = {0x66, 0xF2, 0xF3, 0xF0, 0x67, 0x2E, 0x64, 0x65};
    std::array<u8, 15> bytes{};
    std::ranges::generate(bytes, [this] { return byte(); });
    std::size_t at = 0;
    if (random_() % 2 == 0) {
      vector(bytes);
      return bytes;
    }
    while (random_() % 4 == 0 && at < 3) bytes[at++] = pick(kPrefixes);
    if (random_() % 3 == 0) bytes[at++] = 0x40 | (byte() & 15);
    const auto kind = random_() % 4;
    if (kind != 0) bytes[at] = 0x0F;
    if (kind > 1) bytes[at + 1] = kind == 2 ? 0x38 : 0x3A;
    return bytes;
  }
  void vector(std::array<u8, 15>& bytes) {
    // Opcodes with general registers.
    static constexpr std::array<u8, 10> kGeneral = {0x6E, 0x7E, 0x2A, 0x7B, 0x2D,
                                                    0x20, 0x22, 0x16, 0xF2, 0xF7};
    const auto kind = random_() % 4;
    const auto map = static_cast<u8>(1 + random_() % 3);
    const std::size_t size = kind == 0 ? 2 : kind == 1 ? 3 : 4;
    bytes[0] = kind == 0 ? 0xC5 : kind == 1 ? 0xC4 : 0x62;
    if (kind != 0) bytes[1] = static_cast<u8>((byte() & (kind == 1 ? 0xE0 : 0xF0)) | map);
    if (!GetParam()) bytes[1] |= 0xC0;                         // else LES, LDS, BOUND
    if (random_() % 2 == 0) bytes[kind == 0 ? 1 : 2] |= 0x78;  // vvvv must often be 1111b,
    if (kind > 1) bytes[2] |= 0x04;
    if (kind > 1 && random_() % 4 != 0) bytes[3] |= 0x08;  // and V',
    if (kind > 1 && random_() % 2 != 0) bytes[3] &= 0x6F;  // z and b clear
    if (random_() % 4 == 0) bytes[size] = pick(kGeneral);
  }
  HostOperands host() {
    static constexpr std::array<u8, 8> kBases = {10, 11, 5, 12, 13, 3, 15, bt::kNone};
    static constexpr std::array<u8, 3> kIndices = {bt::kNone, 14, 11};
    static constexpr std::array<i32, 9> kOffsets = {
        0, 1, -1, 127, -128, 128, 0x1000, 0x7FFFFFFF, -0x7FFFFFFF - 1};
    const i32 displacement = kOffsets[random_() % kOffsets.size()];
    switch (random_() % 6) {
      case 0: return host_registers();
      case 1: return in_context(displacement);
      default: return at(pick(kBases), pick(kIndices), displacement);
    }
  }

  std::mt19937 random_{20240229};
};

TEST_P(Corpus, DecodesToTheSame) {
  const bool is_long = GetParam();
  std::array<std::array<unsigned, 3>, 8> done{};
  for (unsigned i = 0; i < 3'000'000 && !HasFailure(); ++i) {
    const auto bytes = encoding();
    const auto was = decode(bytes, is_long);
    if (!was) continue;
    const HostOperands to = host();
    std::array<u8, 16> out{};
    const unsigned length = bt::rewrite(was->insn, was->all(), bytes, to, out);
    SCOPED_TRACE(hex(std::span(bytes).first(was->insn.length)) + " to " + hex(std::span(out).first(length)));
    ASSERT_LE(length, 15U);
    if (length == 0) {
      EXPECT_FALSE(is_long && must_work(*was, to, was->insn.length));
      continue;
    }
    EXPECT_FALSE(is_refused(*was));
    const auto now = decode(std::span(out).first(length));
    ASSERT_TRUE(now);
    EXPECT_EQ(now->insn.length, length);
    expect_same(*was, *now, to);
    ++done[was->insn.encoding][static_cast<unsigned>(to.memory)];
  }
  for (const auto encoding :
       {ZYDIS_INSTRUCTION_ENCODING_LEGACY, ZYDIS_INSTRUCTION_ENCODING_VEX, ZYDIS_INSTRUCTION_ENCODING_EVEX}) {
    EXPECT_GT(done[encoding][static_cast<unsigned>(Memory::kKeep)], 4000U);
    EXPECT_GT(done[encoding][static_cast<unsigned>(Memory::kHost)], 15'000U);
    EXPECT_GT(done[encoding][static_cast<unsigned>(Memory::kContext)], 10U);
  }
}

INSTANTIATE_TEST_SUITE_P(Rewrite, Corpus, ::testing::Bool(),
                         [](const auto& of) { return of.param ? "Code64" : "Code32"; });

}  // namespace
}  // namespace vert::test

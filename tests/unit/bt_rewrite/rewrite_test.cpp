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

}  // namespace
}  // namespace vert::test

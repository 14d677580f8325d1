// decode(): operands of every kind, sizes, segments and refusals in all three code sizes.
#include <gtest/gtest.h>
#include <algorithm>
#include <vector>

#include "x86/decode.hpp"

namespace vert::test {
namespace {

using namespace x86;
using enum OperandKind;

Insn decoded(CodeSize size, std::vector<u8> bytes) {
  Insn insn;
  EXPECT_EQ(decode(bytes, size, insn), DecodeStatus::kOk);
  EXPECT_EQ(insn.length, bytes.size());
  EXPECT_TRUE(std::ranges::equal(insn.encoding(), bytes));
  return insn;
}
Insn in64(std::vector<u8> bytes) { return decoded(CodeSize::k64, std::move(bytes)); }
Insn in32(std::vector<u8> bytes) { return decoded(CodeSize::k32, std::move(bytes)); }
Insn in16(std::vector<u8> bytes) { return decoded(CodeSize::k16, std::move(bytes)); }

DecodeStatus status(std::vector<u8> bytes, CodeSize size = CodeSize::k64) {
  Insn insn;
  return decode(bytes, size, insn);
}

void expect_operands(const Insn& insn, const std::vector<Operand>& expected) {
  ASSERT_EQ(insn.operand_count, expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(insn.operands[i].kind, expected[i].kind) << i;
    EXPECT_EQ(insn.operands[i].reg, expected[i].reg) << i;
    EXPECT_EQ(insn.operands[i].size, expected[i].size) << i;
  }
}

TEST(Decode, GeneralRegistersOfEverySize) {
  for (u8 reg = 0; reg < 8; ++reg) {
    const u8 modrm = static_cast<u8>(0xC0 | reg);  // MOV rm, eAX
    expect_operands(in64({0x48, 0x89, modrm}), {{kGpr, reg, 8}, {kGpr, kRax, 8}});
    expect_operands(in64({0x89, modrm}), {{kGpr, reg, 4}, {kGpr, kRax, 4}});
    expect_operands(in64({0x66, 0x89, modrm}), {{kGpr, reg, 2}, {kGpr, kRax, 2}});
    expect_operands(in64({0x41, 0x89, modrm}), {{kGpr, static_cast<u8>(reg + 8), 4}, {kGpr, kRax, 4}});
    expect_operands(in64({0x40, 0x88, modrm}), {{kGpr, reg, 1}, {kGpr, kRax, 1}});
    expect_operands(in64({0x41, 0x88, modrm}), {{kGpr, static_cast<u8>(reg + 8), 1}, {kGpr, kRax, 1}});
    if (reg < 4)
      expect_operands(in64({0x88, modrm}), {{kGpr, reg, 1}, {kGpr, kRax, 1}});
    else
      expect_operands(in64({0x88, modrm}), {{kGprHigh, static_cast<u8>(reg - 4), 1}, {kGpr, kRax, 1}});
  }
}

TEST(Decode, SegmentControlAndDebugRegisters) {
  expect_operands(in64({0x8E, 0xE8}), {{kSegment, kGs, 2}, {kGpr, kRax, 2}});
  expect_operands(in64({0x8C, 0xD8}), {{kGpr, kRax, 4}, {kSegment, kDs, 2}});
  expect_operands(in64({0x44, 0x0F, 0x20, 0xC0}), {{kGpr, kRax, 8}, {kControl, 8, 8}});
  expect_operands(in32({0x0F, 0x22, 0xD9}), {{kControl, 3, 4}, {kGpr, kRcx, 4}});
  expect_operands(in64({0x0F, 0x23, 0xF8}), {{kDebug, 7, 8}, {kGpr, kRax, 8}});
}

TEST(Decode, FixedOperandsAreListed) {
  expect_operands(in64({0x48, 0x25, 0, 0, 0, 0x80}), {{kGpr, kRax, 8}, {kImmediate, 0, 4}});  // AND RAX, imm
  expect_operands(in64({0xD1, 0xE0}), {{kGpr, kRax, 4}, {kImmediate, 0, 1}});                 // SHL EAX, 1
  expect_operands(in64({0xD3, 0xE0}), {{kGpr, kRax, 4}, {kGpr, kRcx, 1}});                    // SHL EAX, CL
  expect_operands(in64({0xEC}), {{kGpr, kRax, 1}, {kGpr, kRdx, 2}});                          // IN AL, DX
  expect_operands(in64({0xE7, 0x80}), {{kImmediate, 0, 1}, {kGpr, kRax, 4}});                 // OUT 80h, EAX
  expect_operands(in32({0x06}), {{kSegment, kEs, 2}});                                        // PUSH ES
  expect_operands(in64({0x48, 0x93}), {{kGpr, kRbx, 8}, {kGpr, kRax, 8}});                    // XCHG RBX, RAX
  expect_operands(in64({0x48, 0xF7, 0xE3}), {{kGpr, kRbx, 8}});                               // MUL RBX
  expect_operands(in64({0xA4}), {});                                                          // MOVSB
  EXPECT_EQ(in64({0xD1, 0xE0}).imm, 1);
}

TEST(Decode, ImmediatesExtendAsTheInstructionDoes) {
  EXPECT_EQ(in64({0x48, 0x25, 0, 0, 0, 0x80}).imm, i64{-0x8000'0000LL});
  EXPECT_EQ(in64({0x6A, 0xFF}).imm, -1);            // PUSH imm8
  EXPECT_EQ(in64({0xC2, 0xFF, 0xFF}).imm, 0xFFFF);  // RET imm16
  EXPECT_EQ(in64({0xCD, 0x80}).imm, 0x80);          // INT
  EXPECT_EQ(in64({0xE4, 0xFF}).imm, 0xFF);          // IN AL, imm8
  EXPECT_EQ(in64({0xEB, 0xFE}).imm, -2);            // JMP rel8
  EXPECT_EQ(in64({0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 0x88}).imm, static_cast<i64>(0x8807'0605'0403'0201));
  expect_operands(in64({0x6B, 0xC1, 0xFE}), {{kGpr, kRax, 4}, {kGpr, kRcx, 4}, {kImmediate, 0, 1}});
  EXPECT_EQ(in64({0x6B, 0xC1, 0xFE}).imm, -2);
}

TEST(Decode, TwoImmediates) {
  const Insn enter = in64({0xC8, 0x34, 0x12, 5});
  EXPECT_EQ(enter.imm, 0x1234);
  EXPECT_EQ(enter.imm2, 5);
  const Insn far_jump = in32({0xEA, 0x78, 0x56, 0x34, 0x92, 0x08, 0xF0});
  expect_operands(far_jump, {{kFarPointer, 0, 6}});
  EXPECT_EQ(static_cast<u32>(far_jump.imm), 0x9234'5678U);
  EXPECT_EQ(static_cast<u16>(far_jump.imm2), 0xF008);
}

TEST(Decode, MemoryOperands) {
  const Insn sib = in64({0x4A, 0x8B, 0x44, 0x93, 0x10});  // MOV RAX, [RBX + R10 * 4 + 10h]
  expect_operands(sib, {{kGpr, kRax, 8}, {kMemory, 0, 8}});
  EXPECT_EQ(sib.mem.base, kRbx);
  EXPECT_EQ(sib.mem.index, kR10);
  EXPECT_EQ(sib.mem.scale, 4);
  EXPECT_EQ(sib.mem.displacement, 0x10);
  EXPECT_EQ(sib.address_size, 8);

  const Insn rip = in64({0x8B, 0x05, 0xFC, 0xFF, 0xFF, 0xFF});
  EXPECT_EQ(rip.mem.base, MemoryOperand::kRip);
  EXPECT_EQ(rip.mem.displacement, -4);
  EXPECT_EQ(in64({0x67, 0x8B, 0x05, 1, 0, 0, 0}).address_size, 4);

  const Insn absolute32 = in32({0x8B, 0x05, 0, 0, 0xE0, 0xFE});
  EXPECT_EQ(absolute32.mem.base, MemoryOperand::kNoRegister);
  EXPECT_EQ(static_cast<u32>(absolute32.mem.displacement), 0xFEE0'0000U);

  const Insn real = in16({0x8B, 0x42, 0xFE});  // MOV AX, [BP + SI - 2]
  EXPECT_EQ(real.mem.base, kRbp);
  EXPECT_EQ(real.mem.index, kRsi);
  EXPECT_EQ(real.mem.displacement, -2);
  EXPECT_EQ(real.address_size, 2);
  EXPECT_EQ(real.operand_size, 2);
  EXPECT_EQ(in16({0x66, 0x67, 0x8B, 0x00}).address_size, 4);
}

TEST(Decode, AbsoluteMoves) {
  const Insn far_away = in64({0xA0, 1, 2, 3, 4, 5, 6, 7, 8});
  expect_operands(far_away, {{kGpr, kRax, 1}, {kMemory, 0, 1}});
  EXPECT_TRUE(far_away.mem.absolute64);
  EXPECT_EQ(far_away.imm, 0x0807'0605'0403'0201);
  const Insn near = in64({0x48, 0xA3, 0, 0x10, 0, 0, 0, 0, 0, 0});
  EXPECT_FALSE(near.mem.absolute64);
  EXPECT_EQ(near.mem.displacement, 0x1000);
}

TEST(Decode, DefaultSegmentsAndOverrides) {
  EXPECT_EQ(in64({0x8B, 0x00}).mem.segment, kDs);
  EXPECT_EQ(in64({0x8B, 0x45, 0}).mem.segment, kSs);     // [RBP]
  EXPECT_EQ(in64({0x8B, 0x04, 0x24}).mem.segment, kSs);  // [RSP]
  EXPECT_EQ(in64({0x65, 0x8B, 0x45, 0}).mem.segment, kGs);
  EXPECT_EQ(in64({0x2E, 0x8B, 0x45, 0}).mem.segment, kSs);  // CS is ignored in 64-bit mode
  EXPECT_EQ(in32({0x2E, 0x8B, 0x45, 0}).mem.segment, kCs);
  EXPECT_EQ(in16({0x8B, 0x46, 0}).mem.segment, kSs);     // [BP]
  EXPECT_EQ(in64({0x64, 0xFF, 0x30}).mem.segment, kFs);  // PUSH fs:[RAX]
}

TEST(Decode, SegmentsOfHiddenOperands) {
  EXPECT_EQ(in64({0x64, 0xA4}).mem.segment, kFs);  // MOVSB: the source's
  EXPECT_EQ(in64({0x64, 0xA6}).mem.segment, kFs);  // CMPSB
  EXPECT_EQ(in32({0x26, 0xAC}).mem.segment, kEs);  // LODSB
  EXPECT_EQ(in64({0xAC}).mem.segment, kDs);
  EXPECT_EQ(in64({0x65, 0x6E}).mem.segment, kGs);                    // OUTSB
  EXPECT_EQ(in64({0x64, 0xD7}).mem.segment, kFs);                    // XLAT
  EXPECT_EQ(in64({0x64, 0x66, 0x0F, 0xF7, 0xC1}).mem.segment, kFs);  // MASKMOVDQU
  EXPECT_EQ(in64({0x65, 0x0F, 0x01, 0xC8}).mem.segment, kGs);        // MONITOR
  EXPECT_EQ(in64({0x36, 0x0F, 0x01, 0xC8}).mem.segment, kDs);
  EXPECT_EQ(in32({0x36, 0x0F, 0x01, 0xC8}).mem.segment, kSs);
}

TEST(Decode, MemorySizes) {
  EXPECT_EQ(in64({0x48, 0x8D, 0x00}).operands[1].size, 0);         // LEA
  EXPECT_EQ(in64({0x0F, 0x01, 0x38}).operands[0].size, 0);         // INVLPG
  EXPECT_EQ(in64({0x0F, 0xAE, 0x00}).operands[0].size, 0);         // FXSAVE
  EXPECT_EQ(in64({0x0F, 0xAE, 0x20}).operands[0].size, 0);         // XSAVE
  EXPECT_EQ(in64({0xDB, 0x28}).operands[0].size, 10);              // FLD m80
  EXPECT_EQ(in64({0x48, 0x0F, 0xC7, 0x08}).operands[0].size, 16);  // CMPXCHG16B
  EXPECT_EQ(in64({0x0F, 0x01, 0x10}).operands[0].size, 10);        // LGDT
  EXPECT_EQ(in32({0x0F, 0x01, 0x10}).operands[0].size, 6);
  EXPECT_EQ(in32({0x66, 0xFF, 0x18}).operands[0].size, 4);                     // CALLF m16:16
  EXPECT_EQ(in64({0x48, 0xFF, 0x18}).operands[0].size, 10);                    // CALLF m16:64
  EXPECT_EQ(in64({0x62, 0xF1, 0x7C, 0x48, 0x10, 0x00}).operands[2].size, 64);  // VMOVUPS zmm{k0}
}

TEST(Decode, OperandSizes) {
  EXPECT_EQ(in64({0x50}).operand_size, 8);  // PUSH
  EXPECT_EQ(in64({0x66, 0x50}).operand_size, 2);
  EXPECT_EQ(in32({0x50}).operand_size, 4);
  EXPECT_EQ(in16({0x50}).operand_size, 2);
  EXPECT_EQ(in16({0x66, 0x50}).operand_size, 4);
  EXPECT_EQ(in64({0x66, 0xE9, 1, 0, 0, 0}).operand_size, 8);  // Intel ignores 66 on near branches
  EXPECT_EQ(in64({0x88, 0xC0}).operand_size, 1);
}

TEST(Decode, RepeatPrefixes) {
  EXPECT_EQ(in64({0xA4}).repeat, Repeat::kNone);
  EXPECT_EQ(in64({0xF3, 0xA4}).repeat, Repeat::kRep);
  EXPECT_EQ(in64({0xF2, 0xA4}).repeat, Repeat::kRep);  // MOVS does not look at ZF
  EXPECT_EQ(in64({0xF2, 0x48, 0xAB}).repeat, Repeat::kRep);
  EXPECT_EQ(in64({0xF3, 0xA6}).repeat, Repeat::kRep);
  EXPECT_EQ(in64({0xF2, 0xA6}).repeat, Repeat::kRepne);
  EXPECT_EQ(in64({0xF2, 0xF3, 0xAE}).repeat, Repeat::kRep);            // the last one counts
  EXPECT_EQ(in64({0xF2, 0x0F, 0xC2, 0xC1, 0}).repeat, Repeat::kNone);  // CMPSD xmm
  EXPECT_EQ(in64({0xF3, 0x90}).mnemonic, ZYDIS_MNEMONIC_PAUSE);
}

TEST(Decode, Lock) {
  EXPECT_TRUE(in64({0xF0, 0x01, 0x00}).lock);
  EXPECT_FALSE(in64({0x87, 0x00}).lock);                          // XCHG locks by itself
  EXPECT_EQ(status({0xF0, 0x01, 0xC0}), DecodeStatus::kInvalid);  // a register
  EXPECT_EQ(status({0xF0, 0x89, 0x00}), DecodeStatus::kInvalid);  // MOV
}

TEST(Decode, HintsOfUnknownExtensionsAreNops) {
  const std::vector<std::vector<u8>> hints = {
      {0xF3, 0x0F, 0x1E, 0xFA},        // ENDBR64
      {0xF3, 0x0F, 0x1E, 0xFB},        // ENDBR32
      {0xF3, 0x48, 0x0F, 0x1E, 0xC8},  // RDSSPQ
      {0x66, 0x0F, 0x1A, 0xC0},        // BNDMOV
      {0xF3, 0x0F, 0x1B, 0x00},        // BNDMK
      {0x0F, 0x1C, 0x00},              // CLDEMOTE
      {0x0F, 0x1F, 0x00},
      {0x0F, 0x18, 0x38},
  };
  for (const auto& bytes : hints) EXPECT_EQ(in64(bytes).mnemonic, ZYDIS_MNEMONIC_NOP) << int(bytes[2]);
  EXPECT_EQ(in64({0xF3, 0x0F, 0x09}).mnemonic, ZYDIS_MNEMONIC_WBINVD);     // WBNOINVD
  EXPECT_EQ(in64({0x0F, 0x0D, 0x10}).mnemonic, ZYDIS_MNEMONIC_PREFETCHW);  // PREFETCHWT1
}

TEST(Decode, Refusals) {
  EXPECT_EQ(status({}), DecodeStatus::kTruncated);
  EXPECT_EQ(status({0x48}), DecodeStatus::kTruncated);
  EXPECT_EQ(status({0x48, 0x8B, 0x05, 1, 2}), DecodeStatus::kTruncated);
  EXPECT_EQ(status({0x06}), DecodeStatus::kInvalid);              // PUSH ES in 64-bit mode
  EXPECT_EQ(status({0x8E, 0xC8}), DecodeStatus::kInvalid);        // MOV CS
  EXPECT_EQ(status({0x0F, 0x22, 0xC8}), DecodeStatus::kInvalid);  // MOV CR1
  EXPECT_EQ(status(std::vector<u8>(14, 0x66)), DecodeStatus::kTruncated);
  EXPECT_EQ(status(std::vector<u8>(15, 0x66)), DecodeStatus::kTooLong);
  EXPECT_EQ(status(std::vector<u8>(40, 0x66)), DecodeStatus::kTooLong);
  std::vector<u8> longest(14, 0x66);
  longest.push_back(0x90);
  EXPECT_EQ(status(longest), DecodeStatus::kOk);
  longest.insert(longest.begin(), 0x66);
  EXPECT_EQ(status(longest), DecodeStatus::kTooLong);
}

TEST(Decode, FailureLeavesTheInstructionAlone) {
  Insn insn = in64({0x90});
  EXPECT_EQ(decode(std::vector<u8>{0x06}, CodeSize::k64, insn), DecodeStatus::kInvalid);
  EXPECT_EQ(insn.mnemonic, ZYDIS_MNEMONIC_NOP);
}

TEST(Decode, OpcodeAndModrm) {
  const Insn insn = in64({0x66, 0x0F, 0xAF, 0xC3});
  EXPECT_EQ(insn.opcode, 0xAF);
  EXPECT_TRUE(insn.has_modrm);
  EXPECT_EQ(insn.modrm, 0xC3);
  EXPECT_FALSE(in64({0x90}).has_modrm);
}

Insn on_amd(std::vector<u8> bytes) {
  Insn insn;
  EXPECT_EQ(decode_as(Vendor::kAmd, bytes, CodeSize::k64, insn), DecodeStatus::kOk);
  return insn;
}

TEST(DecodeOnAmd, NearBranchesAreNarrowWithAnOperandSizePrefix) {
  const std::vector<std::vector<u8>> branches = {
      {0x66, 0xE9, 1, 2},        // jmp rel16
      {0x66, 0xEB, 5},           // jmp rel8
      {0x66, 0xE8, 1, 2},        // call rel16
      {0x66, 0x0F, 0x84, 1, 2},  // jz rel16
      {0x66, 0x74, 5},           // jz rel8
      {0x66, 0xC3},              // ret
      {0x66, 0xE2, 5},           // loop
      {0x66, 0xE3, 5},           // jrcxz
      {0x66, 0xFF, 0xE0},        // jmp ax
      {0x66, 0xFF, 0x10},        // call word [rax]
  };
  for (const auto& bytes : branches) {
    const Insn insn = on_amd(bytes);
    EXPECT_EQ(insn.length, bytes.size());
    EXPECT_EQ(insn.operand_size, 2);
  }
  EXPECT_EQ(on_amd({0x66, 0xFF, 0xE0}).operands[0].size, 2);
  EXPECT_EQ(on_amd({0x66, 0xFF, 0x10}).operands[0].size, 2);
  // REX.W overrides the prefix, and Intel's processors ignore it.
  EXPECT_EQ(on_amd({0x66, 0x48, 0xE9, 1, 2, 3, 4}).operand_size, 8);
  EXPECT_EQ(on_amd({0x66, 0x48, 0xFF, 0xE0}).operands[0].size, 8);
  EXPECT_EQ(in64({0x66, 0xE9, 1, 2, 3, 4}).operand_size, 8);
  EXPECT_EQ(in64({0x66, 0xEB, 5}).operand_size, 8);
}

TEST(DecodeOnAmd, PauseWithRexBExchangesR8) {
  const Insn insn = on_amd({0xF3, 0x49, 0x90});
  EXPECT_EQ(insn.mnemonic, ZYDIS_MNEMONIC_XCHG);
  expect_operands(insn, {{kGpr, kR8, 8}, {kGpr, kRax, 8}});
  expect_operands(on_amd({0xF3, 0x41, 0x90}), {{kGpr, kR8, 4}, {kGpr, kRax, 4}});
  EXPECT_EQ(on_amd({0xF3, 0x48, 0x90}).mnemonic, ZYDIS_MNEMONIC_PAUSE);
  EXPECT_EQ(in64({0xF3, 0x41, 0x90}).mnemonic, ZYDIS_MNEMONIC_PAUSE);
}

TEST(DecodeOnAmd, RepeatPrefixesDecideWhatLoopsCompareWith) {
  EXPECT_EQ(on_amd({0xF2, 0xE1, 5}).mnemonic, ZYDIS_MNEMONIC_LOOPNE);
  EXPECT_EQ(on_amd({0xF3, 0xE0, 5}).mnemonic, ZYDIS_MNEMONIC_LOOPE);
  EXPECT_EQ(on_amd({0xF2, 0xE0, 5}).mnemonic, ZYDIS_MNEMONIC_LOOPNE);
  EXPECT_EQ(on_amd({0xF2, 0xE2, 5}).mnemonic, ZYDIS_MNEMONIC_LOOP);
  EXPECT_EQ(in64({0xF2, 0xE1, 5}).mnemonic, ZYDIS_MNEMONIC_LOOPE);
}

}  // namespace
}  // namespace vert::test

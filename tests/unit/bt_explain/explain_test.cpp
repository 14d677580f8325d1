// Listings of guest code beside its translation.
#include "engine/bt/explain.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/bt/code_names.hpp"

namespace vert::bt {
namespace {

constexpr u64 kAddress = 0x401000;

class ExplainTest : public testing::Test {
 protected:
  std::string explain(const std::vector<u8>& bytes, const Mode& mode, u64 address = kAddress) {
    std::string text;
    for (std::size_t at = 0; at < bytes.size();)
      at += explainer_->block(bytes, address, address + at, mode, text, sum_);
    return text;
  }
  static std::size_t count(const std::string& text, const std::string& what) {
    std::size_t found = 0;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
    return found;
  }

  x86::CpuModel model_ = x86::CpuModel::make("host").value();
  std::unique_ptr<Explainer> explainer_ = Explainer::create(model_).value();
  ExplainedSum sum_;
  Mode user_ = Explainer::linux_mode(true, false);
  Mode kernel_ = Explainer::linux_mode(false, false);
};

TEST_F(ExplainTest, ShowsEachGuestInstructionAboveItsHostCode) {
  // mov rax, rcx; add rax, [rbx+8]; ret
  const std::string text = explain({0x48, 0x89, 0xC8, 0x48, 0x03, 0x43, 0x08, 0xC3}, user_);
  const std::size_t mov = text.find("401000  48 89 c8");
  const std::size_t copy = text.find("  mov rax, rcx", mov + 50);
  const std::size_t add = text.find("401003  48 03 43 08");
  const std::size_t lookup = text.find("[ctx.tlb.user.read.tag", add);
  const std::size_t ret = text.find("401007  c3");
  ASSERT_NE(ret, std::string::npos) << text;
  EXPECT_LT(mov, copy);
  EXPECT_LT(copy, add);
  EXPECT_LT(add, lookup);
  EXPECT_LT(lookup, ret);
  EXPECT_EQ(sum_.blocks, 1U);
  EXPECT_EQ(sum_.guest_instructions, 3U);
  EXPECT_EQ(sum_.guest_bytes, 8U);
}

TEST_F(ExplainTest, NamesThunksAndTellsWhatExitsAreFor) {
  const std::string text = explain({0x48, 0x8B, 0x03, 0x0F, 0x30}, kernel_);  // mov rax, [rbx]; wrmsr
  EXPECT_NE(text.find("guest-kernel:401000"), std::string::npos);
  EXPECT_NE(text.find("ctx.tlb.smap.read"), std::string::npos);
  EXPECT_NE(text.find("call fill"), std::string::npos);
  EXPECT_NE(text.find("jmp exit"), std::string::npos);
  EXPECT_NE(text.find("leaves for the fallback engine: wrmsr at 401003"), std::string::npos);
  EXPECT_NE(text.find("leaves for the fallback engine: mov reg, mem at 401000, declined here"),
            std::string::npos);
}

TEST_F(ExplainTest, NamesTheModes) {
  EXPECT_NE(explain({0xC3}, user_).find("guest-user:401000 "), std::string::npos);
  EXPECT_NE(explain({0xC3}, Explainer::linux_mode(true, true)).find("guest-user32:401000 "),
            std::string::npos);
}

TEST_F(ExplainTest, CodeThatCannotBeDecodedIsShownAndStepsOn) {
  const std::string text = explain({0x06, 0x06, 0xC3}, user_);  // PUSH ES: invalid in 64-bit mode
  EXPECT_EQ(count(text, "(cannot be decoded)"), 2U);
  EXPECT_NE(text.find("401002  c3"), std::string::npos);
}

TEST_F(ExplainTest, AnInstructionThatCrossesPagesIsWhole) {
  std::vector<u8> bytes(0x1010, 0x90);
  const std::vector<u8> mov = {0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8};  // mov rax, imm64
  std::ranges::copy(mov, bytes.begin() + 0xFFC);
  std::string text;
  EXPECT_EQ(explainer_->block(bytes, kAddress, kAddress + 0xFFC, user_, text, sum_), 10U);
  EXPECT_NE(text.find("mov rax, 0x807060504030201"), std::string::npos) << text;
}

TEST_F(ExplainTest, NothingAtTheAddressIsNothing) {
  std::string text;
  EXPECT_EQ(explainer_->block({}, kAddress, kAddress, user_, text, sum_), 1U);
  EXPECT_EQ(text, "");
  EXPECT_EQ(sum_.blocks, 0U);
}

/// Every field that generated code reaches has a name, and every jump is within the block or to a thunk.
TEST_F(ExplainTest, NamesAllThatRandomCodeComesTo) {
  std::mt19937 random(20240229);
  std::vector<u8> bytes(4096);
  for (unsigned round = 0; round < 20; ++round) {
    for (u8& byte : bytes) byte = static_cast<u8>(random());
    Mode mode = Explainer::linux_mode(round % 2 == 0, round % 4 == 3);
    mode.counted = round % 5 == 0;
    mode.unshared = round % 3 == 0;
    const std::string text = explain(bytes, mode);
    EXPECT_EQ(count(text, "ctx+"), 0U) << text.substr(text.find("ctx+") - 100, 200);
    // The guest's own accesses never go by the host's GS.
    std::size_t line_start = 0;
    while (line_start < text.size()) {
      const std::size_t end = text.find('\n', line_start);
      const std::string line = text.substr(line_start, end - line_start);
      if (line.starts_with("    ")) {
        EXPECT_EQ(line.find("gs:["), std::string::npos) << line;
      }
      line_start = end + 1;
    }
  }
  EXPECT_GT(sum_.guest_instructions, 5000U);
  EXPECT_GT(sum_.hot_bytes, sum_.guest_bytes);
}

TEST(CodeNames, OfContextFields) {
  EXPECT_EQ(context_name(offsetof(Context, gpr) + 10 * 8), "ctx.gpr.r10");
  EXPECT_EQ(context_name(offsetof(Context, save_flags)), "ctx.save_flags");
  EXPECT_EQ(context_name(offsetof(Context, tlb)), "ctx.tlb.user.read.tag");
  EXPECT_EQ(context_name(offsetof(Context, tlb) + sizeof(TlbBank) + offsetof(TlbBank, write) + 24),
            "ctx.tlb.supervisor.write[1].addend");
  EXPECT_EQ(context_name(offsetof(Context, code_tokens) + 4 * (kTokenSlots + 5)), "ctx.code_tokens.user[5]");
}

TEST(CodeNames, OfThunksAscend) {
  const Thunks thunks{.enter = 0, .exit = 300, .exit_saved = 320, .fill = 100};
  const std::vector<NamedThunk> named = named_thunks(thunks);
  EXPECT_TRUE(std::ranges::is_sorted(named, {}, &NamedThunk::offset));
  EXPECT_EQ(named.back().name, "exit_saved");
}

TEST(InsnClasses, HaveTheNumberOfSystemRegisters) {
  const auto name = [](std::vector<u8> bytes) {
    x86::Insn insn;
    EXPECT_EQ(x86::decode(bytes, x86::CodeSize::k64, insn), x86::DecodeStatus::kOk);
    return name_of(class_of(insn));
  };
  EXPECT_EQ(name({0x0F, 0x22, 0xD8}), "mov cr3, reg");
  EXPECT_EQ(name({0x8E, 0xD8}), "mov ds, reg");
  EXPECT_EQ(name({0x0F, 0x23, 0xF8}), "mov dr7, reg");
  EXPECT_EQ(name({0x48, 0x0F, 0xAB, 0x03}), "bts mem, reg");
  EXPECT_EQ(name({0xF4}), "hlt");
  EXPECT_NE(name_of(InsnClass{}).find("undecodable"), std::string::npos);
}

}  // namespace
}  // namespace vert::bt

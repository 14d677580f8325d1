// The ways into and out of generated code: what it finds in the host's vector registers, and what it leaves.
#include "engine/bt/thunks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <optional>

#include <immintrin.h>

#include "engine/bt/assembler.hpp"
#include "engine/bt/context_memory.hpp"
#include "engine/bt/fpu_image.hpp"
#include "engine/bt/return_stack.hpp"
#include "x86/registers.hpp"

namespace vert::test {
namespace {

using bt::Context;

constexpr u8 kDirty = 0xA5;

/// Fills all vector registers with kDirty, as C++ may leave them.
__attribute__((noinline, target("xsave"))) void dirty_registers() {
  alignas(64) static std::array<u8, bt::kXsaveSize> image;
  constexpr u32 kMxcsr = 0x1F80;
  image.fill(kDirty);
  const u64 components = bt::host_components();
  std::fill_n(image.begin() + 512, 64, u8{0});  // the header
  std::memcpy(&image[512], &components, sizeof components);
  std::memcpy(&image[24], &kMxcsr, sizeof kMxcsr);
  _xrstor64(image.data(), components & ~x86::xcr0::X87);
}

class ThunksTest : public testing::Test {
 protected:
  void SetUp() override {
    auto context = bt::ContextMemory::create();
    auto cache = bt::CodeCache::create(kCacheSize);
    auto returns = bt::ReturnStack::create();
    ASSERT_TRUE(context && cache && returns);
    context_.emplace(std::move(*context));
    cache_.emplace(std::move(*cache));
    returns_.emplace(std::move(*returns));
    thunks_ = bt::make_thunks(
        *cache_, [](Context*) {}, offsetof(Context, attention));
    (*context_)->return_rsp = returns_->empty(cache_->code(thunks_.return_empty));
  }

  /// Has generated code run `body`, then leave.
  void run(bt::Assembler& body) {
    body.jmp_out(thunks_.exit);
    const bt::Assembler::Place at{cache_->position(), cache_->cold_position()};
    body.place(at, cache_->write_at(at.hot), nullptr);
    cache_->take(body.hot_size(), 0);
    const u64 outer = _readgsbase_u64();
    _writegsbase_u64(reinterpret_cast<u64>(context_->get()));
    dirty_registers();
    using Enter = void (*)(const u8*);
    // SAFETY: the thunk keeps the calling convention, and the body touches the Context only.
    reinterpret_cast<Enter>(const_cast<u8*>(cache_->code(thunks_.enter)))(cache_->code(at.hot));
    _writegsbase_u64(outer);
  }

  /// An instruction on Context::state_buffer, which is 64-byte aligned, from `offset` on.
  static void on_buffer(bt::Assembler& body, std::initializer_list<u8> opcode, u8 reg,
                        std::size_t offset = 0) {
    body.raw(std::array<u8, 1>{0x65});
    body.raw(std::span(opcode.begin(), opcode.size()));
    const auto at = static_cast<u32>(offsetof(Context, state_buffer) + offset);
    std::array<u8, 6> address{static_cast<u8>(reg << 3 | 4), 0x25};
    std::memcpy(&address[2], &at, sizeof at);
    body.raw(address);
  }
  [[nodiscard]] Context& context() { return **context_; }
  [[nodiscard]] std::span<u8> buffer() { return context().state_buffer; }

 private:
  static constexpr std::size_t kCacheSize = 1 << 20;
  std::optional<bt::ContextMemory> context_;
  std::optional<bt::CodeCache> cache_;
  std::optional<bt::ReturnStack> returns_;
  bt::Thunks thunks_;
};

TEST_F(ThunksTest, GeneratedCodeFindsNothingOfTheHostsInVectorRegisters) {
  std::ranges::fill(buffer(), u8{0});
  bt::Assembler body;
  body.mov_imm(x86::kRax, bt::host_components() & ~x86::xcr0::X87);
  body.mov_imm(x86::kRdx, 0);
  on_buffer(body, {0x48, 0x0F, 0xAE}, 4);  // XSAVE64
  run(body);
  const auto dirty = std::ranges::count(buffer(), kDirty);
  EXPECT_EQ(dirty, 0);
}

TEST_F(ThunksTest, TheHostGetsItsFloatingPointControlsBackThoughNothingWasLoaded) {
  std::ranges::fill(buffer(), u8{0});
  bt::Assembler body;
  on_buffer(body, {0x0F, 0xAE}, 2);  // LDMXCSR: all exceptions unmasked
  on_buffer(body, {0xD9}, 5);        // FLDCW
  run(body);
  u16 control = 0;
  asm volatile("fnstcw %0" : "=m"(control));
  const u32 mxcsr = _mm_getcsr();
  _mm_setcsr(0x1F80);
  asm volatile("fninit");
  EXPECT_EQ(mxcsr, context().host_mxcsr);
  EXPECT_EQ(control, 0x37F);
}

TEST_F(ThunksTest, TheHostGetsAnEmptyX87Stack) {
  bt::Assembler body;
  for (unsigned i = 0; i < 8; ++i) body.raw(std::array<u8, 2>{0xD9, 0xE8});  // FLD1
  run(body);
  std::array<u8, 28> environment{};
  asm volatile("fnstenv %0; fninit" : "=m"(environment));
  u16 tags = 0;
  std::memcpy(&tags, &environment[8], sizeof tags);
  EXPECT_EQ(tags, 0xFFFF);
}

TEST(CodeCacheTest, ManyVcpusHaveSmallerCachesThatSuffice) {
  constexpr std::size_t kMebibyte = 1 << 20;
  EXPECT_EQ(bt::usual_cache_size(1), 128 * kMebibyte);
  EXPECT_EQ(bt::usual_cache_size(4), 64 * kMebibyte);
  EXPECT_EQ(bt::usual_cache_size(64), 32 * kMebibyte);
}

}  // namespace
}  // namespace vert::test

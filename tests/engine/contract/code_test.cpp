// Code that changes under an engine that keeps what it made of it, and how its pieces are joined.
#include <cstring>

#include "engine/contract/engine_test.hpp"

namespace vert::test {
namespace {

constexpr u64 kGlobalUsed = 0x120;  // G and A in a page-table entry

class CodeTest : public EngineTest {
 protected:
  static constexpr u64 kUserCode = 0x40'0000;
  static constexpr u64 kUserStack = 0x50'0000;

  /// Two pages of user code, writable, and a stack.
  void start_user(Assembler& assembler) {
    u8* host = rig().map(kUserCode, 2, {true, true, true});
    rig().map(kUserStack, 1, {true, true, false});
    rig().write_host(host, assembler.finish());
    rig().set_state(rig().initial_state(kUserCode, kUserStack + 0x800, 3));
  }
};

TEST_P(CodeTest, BudgetHoldsInALoopOfVectorInstructions) {
  make_rig();
  Assembler a(kUserCode);
  a.label("loop").bytes({0x0F, 0x2F, 0xC1}).branch({0xE9}, "loop");  // comiss xmm0, xmm1; jmp
  start_user(a);
  const cpu::ExitInfo exit = rig().run(1000);
  EXPECT_EQ(exit.reason, cpu::Exit::kBudget);
  EXPECT_EQ(exit.instructions, 1000U);
}

/// An instruction whose second part lies on a page that is written, after a jump from the same page.
TEST_P(CodeTest, WriteToTheSecondPageOfAnInstructionIsSeen) {
  make_rig();
  Assembler a(kUserCode);
  a.label("loop").bytes({0x0F, 0x28, 0xDB}).branch({0xE9}, "across");  // movaps xmm3, xmm3
  while (a.here() < kUserCode + kPageSize - 2) a.bytes({0xCC});
  a.label("across").bytes({0x0F, 0x58, 0xC1});                       // addps xmm0, xmm1
  a.bytes({0x31, 0xC0, 0x41, 0xFF, 0xC4});                           // xor eax, eax; inc r12d
  a.bytes({0x41, 0x83, 0xFC, 0x02}).branch({0x0F, 0x84}, "modify");  // cmp r12d, 2
  a.bytes({0x41, 0x83, 0xFC, 0x04}).branch({0x0F, 0x85}, "loop").hlt();
  a.label("modify").bytes({0xC6, 0x03, 0xC2}).branch({0xE9}, "loop");  // mov byte [rbx], ModRM of xmm0, xmm2
  start_user(a);
  cpu::CpuState& state = rig().state();
  state.gpr[x86::kRbx] = kUserCode + kPageSize;
  const float one = 1;
  const float hundred = 100;
  std::memcpy(state.fpu.zmm[1].data(), &one, sizeof one);
  std::memcpy(state.fpu.zmm[2].data(), &hundred, sizeof hundred);
  (void)rig().run(cpu::kNoBudget);
  float sum = 0;
  std::memcpy(&sum, rig().state().fpu.zmm[0].data(), sizeof sum);
  EXPECT_EQ(sum, 202);
}

/// Code that reaches memory through GS, whose base moves from a page that was used, but is not known any
/// more, to one whose place in a TLB is next to it.
TEST_P(CodeTest, MovedGsBaseReachesNoOtherMemory) {
  constexpr u64 kUsed = 0x60'5000;
  constexpr u64 kUnmapped = kUsed ^ kPageSize;
  make_rig();
  rig().map(kUsed, 1, {false, true, false});
  Assembler a(code());
  a.load(7, kUsed).bytes({0xB9, 0x01, 0x01, 0x00, 0xC0, 0x31, 0xD2});  // mov ecx, IA32_GS_BASE; xor edx, edx
  a.label("again").bytes({0x89, 0xF8, 0x0F, 0x30});                    // mov eax, edi; wrmsr
  a.bytes({0x65, 0x48, 0x8B, 0x1C, 0x25, 0, 0, 0, 0});                 // mov rbx, gs:[0]
  a.bytes({0x0F, 0x01, 0x3F, 0x41, 0xFF, 0xC4});                       // invlpg [rdi]; inc r12d
  a.bytes({0x41, 0x83, 0xFC, 0x40}).branch({0x0F, 0x85}, "again");     // cmp r12d, 64; jne
  a.bytes({0x81, 0xF7, 0x00, 0x10, 0x00, 0x00}).branch({0xE9}, "again");  // xor edi, 1000h
  start(a);
  cpu::CpuState state = rig().state();
  state.idtr.limit = 0;
  rig().set_state(state);
  EXPECT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kShutdown);
  EXPECT_EQ(rig().state().gpr[x86::kR12], 64U);
  EXPECT_EQ(rig().state().cr2, kUnmapped);
}

/// A store that changes the code right behind it, which would have overwritten the flags.
class PatchedAheadTest : public CodeTest {
 protected:
  static constexpr u8 kRounds = 40;

  /// kRounds times: sets or clears CF, makes a NOP of the `add edx, 1` behind the store, if RSI points there,
  /// and puts the ADD back. EAX counts how often CF was another.
  static void emit_rounds(Assembler& a) {
    a.bytes({0x31, 0xC0, 0x31, 0xC9});                                         // xor eax, eax; xor ecx, ecx
    a.label("round").bytes({0x89, 0xCA, 0xD1, 0xEA}).branch({0xE9}, "store");  // mov edx, ecx; shr edx, 1
    a.label("store").bytes({0xC7, 0x06, 0x0F, 0x1F, 0x00, 0x0F});              // mov dword [rsi], 0F001F0Fh
    a.label("patched").bytes({0x83, 0xC2, 0x01});                              // add edx, 1 -> nop [rax]
    a.bytes({0x0F, 0x92, 0xC2, 0x31, 0xCA, 0x83, 0xE2, 0x01, 0x01,
             0xD0});                                // setc dl; xor edx, ecx; and edx, 1; add eax, edx
    a.bytes({0xC7, 0x06, 0x83, 0xC2, 0x01, 0x0F});  // mov dword [rsi], 0F01C283h
    a.bytes({0xFF, 0xC1, 0x83, 0xF9, kRounds}).branch({0x0F, 0x85}, "round");  // inc ecx; cmp ecx, kRounds
  }
};

TEST_P(PatchedAheadTest, FlagsThatOnlyTheNewCodeReadsAreKept) {
  make_rig();
  Assembler a(kUserCode);
  emit_rounds(a);
  a.hlt();
  start_user(a);
  rig().state().gpr[x86::kRsi] = a.address("patched");
  (void)rig().run(cpu::kNoBudget);
  ASSERT_EQ(reg(x86::kRcx), kRounds);
  EXPECT_EQ(reg(x86::kRax), 0U) << "times that CF was another";
}

TEST_P(PatchedAheadTest, WhatWasDecidedForReadOnlyCodeEndsWhenItBecomesWritable) {
  constexpr u64 kPatched = 0xFFFF'A000'0000'0000;
  make_rig();
  const Gpa frame = rig().allocate_page();
  rig().map_page(kPatched, frame, {false, false, true});
  u64* entry = rig().page_entry(kPatched);
  *entry |= kGlobalUsed;
  Assembler patched(kPatched);
  emit_rounds(patched);
  patched.bytes({0xC3});
  rig().write(frame, patched.finish());

  Assembler a(code());
  a.load(x86::kRbx, kPatched).load(x86::kRsi, data()).bytes({0xFF, 0xD3});  // call rbx
  a.load(x86::kRdi, GuestRig::direct(rig().memory().gpa_of(reinterpret_cast<u8*>(entry))));
  a.bytes({0x48, 0x83, 0x0F, 0x02, 0x0F, 0x01, 0x3B});  // or qword [rdi], 2 (writable); invlpg [rbx]
  a.load(x86::kRsi, patched.address("patched")).bytes({0xFF, 0xD3}).hlt();
  start(a);
  ASSERT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
  ASSERT_EQ(reg(x86::kRcx), kRounds);
  EXPECT_EQ(reg(x86::kRax), 0U) << "times that CF was another";
}

/// A page of kernel code gets another frame, with or without INVLPG: that is behind a branch whose target is
/// looked for while the page goes.
class RemappedCodeTest : public CodeTest {
 protected:
  static constexpr u64 kCallee = 0xFFFF'A000'0000'0000;
  static constexpr u64 kCaller = 0xFFFF'A000'0010'0000;
  static constexpr u8 kTurns = 9;

  void run(bool invalidate);
  [[nodiscard]] Gpa map_kernel(u64 linear) {
    const Gpa frame = rig().allocate_page();
    rig().map_page(linear, frame, {false, true, true});
    *rig().page_entry(linear) |= kGlobalUsed;
    return frame;
  }
};

void RemappedCodeTest::run(bool invalidate) {
  make_rig();
  const Gpa old_code = map_kernel(kCallee);
  const Gpa new_code = rig().allocate_page();
  const Gpa caller = map_kernel(kCaller);
  u64* entry = rig().page_entry(kCallee);
  const Gpa entry_address = rig().memory().gpa_of(reinterpret_cast<u8*>(entry));

  Assembler callee(kCallee);
  callee.branch({0x0F, 0x84}, "taken").bytes({0xC3}).label("taken").bytes({0xC3});  // jz; ret
  rig().write(old_code, callee.finish());
  rig().write(new_code, std::vector<u8>{0x41, 0xFF, 0xC5, 0xC3, 0xC3, 0xC3, 0xC3, 0xC3});  // inc r13d; ret...

  Assembler a(kCaller);
  a.load(x86::kRbx, GuestRig::direct(entry_address)).load(x86::kRcx, (*entry & 0xFFF) | new_code.value());
  a.load(x86::kRdx, kCallee).bytes({0x45, 0x31, 0xE4, 0x45, 0x31, 0xED});  // xor r12d, r12d; xor r13d, r13d
  a.label("loop").bytes({0x41, 0x83, 0xFC, 0x05}).branch({0x0F, 0x85}, "go");  // cmp r12d, 5
  a.bytes({0x48, 0x89, 0x0B});                                                 // mov [rbx], rcx
  if (invalidate) a.bytes({0x0F, 0x01, 0x3A});                                 // invlpg [rdx]
  a.branch({0xE9}, "go");
  a.label("go").bytes({0x41, 0x83, 0xFC, 0x05, 0xE8});  // cmp r12d, 5; call
  a.value(static_cast<u32>(kCallee - (a.here() + 4)));
  a.bytes({0x41, 0xFF, 0xC4, 0x41, 0x83, 0xFC, kTurns}).branch({0x0F, 0x85}, "loop").hlt();
  rig().write(caller, a.finish());
  rig().set_state(rig().initial_state(kCaller, GuestRig::kernel_stack_top(), 0));
  ASSERT_EQ(rig().run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
  EXPECT_EQ(reg(x86::kR12), kTurns);
}

TEST_P(RemappedCodeTest, WithInvlpgTheNewCodeRuns) {
  run(true);
  EXPECT_EQ(reg(x86::kR13), kTurns - 5U);
}
TEST_P(RemappedCodeTest, WithoutInvlpgItRunsTheOldOrTheNew) { run(false); }

INSTANTIATE_TEST_SUITE_P(Engines, CodeTest, testing::ValuesIn(engine_names()));
INSTANTIATE_TEST_SUITE_P(Engines, PatchedAheadTest, testing::ValuesIn(engine_names()));
INSTANTIATE_TEST_SUITE_P(Engines, RemappedCodeTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

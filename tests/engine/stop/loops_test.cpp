// Loops that once were not to be stopped, and others like them.
#include "engine/stop/stop_test.hpp"
#include "x86/paging.hpp"

namespace vert::test {
namespace {

class Loops : public StopTest {
 protected:
  /// Code at the bottom and at the top of the address space.
  void map_ends(u64 top_page, bool user) {
    bottom_ = rig().map(0, 1, {.user = user, .execute = true});
    top_ = rig().map(top_page, 1, {.user = user, .execute = true});
    // Global, so that the two do not share the place of a token.
    *rig().page_entry(top_page) |= x86::pte::G;
    std::fill_n(top_, kPageSize, u8{0x90});
  }
  u8* bottom_ = nullptr;
  u8* top_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Engines, Loops, testing::ValuesIn(engines_to_stop()));

TEST_P(Loops, PushesMeetTheReturnStacksEndBeforeCallsDo) {
  for (const u8 cpl : {u8{0}, u8{3}}) {
    make_rig(cpl);
    Assembler a(kCode);
    a.label("again").bytes({0x9C, 0x48, 0x8D, 0x64, 0x24, 0x10});  // pushfq; lea rsp, [rsp+16]
    a.branch({0xE8}, "again");
    load(a);
    expect_to_stop();
  }
}

TEST_P(Loops, LookUpsMeetTheReturnStacksEndBeforeCallsDo) {
  for (const u8 cpl : {u8{0}, u8{3}}) {
    make_rig(cpl);
    Assembler a(kCode);
    a.label("again");
    a.bytes({0x41, 0x8A, 0x04, 0x24, 0x41, 0x8A, 0x45, 0x00});        // mov al, [r12]; mov al, [r13]
    a.bytes({0x48, 0x8D, 0x64, 0x24, 0x08}).branch({0xE8}, "again");  // lea rsp, [rsp+8]; call
    load(a);
    expect_to_stop();
  }
}

TEST_P(Loops, OverTheTopOfTheAddressSpace) {
  constexpr u64 kTop = ~u64{0} - kPageOffsetMask;
  make_rig(0);
  map_ends(kTop, false);
  Assembler a(0);
  a.bytes({0xE9}).value(static_cast<u32>(kTop - 5));  // jmp: forward, as unsigned numbers go
  rig().write_host(bottom_, a.finish());
  start_state().rip = kTop;
  rig().set_state(start_state());
  expect_to_stop();
  expect_looks();
}

TEST_P(Loops, OverTheTopOfTheAddressSpaceInOneInstruction) {
  constexpr u64 kTop = ~u64{0} - kPageOffsetMask;
  make_rig(0);
  map_ends(kTop, false);
  // mov eax, imm32 begins 2 bytes before the end.
  top_[kPageSize - 2] = 0xB8;
  Assembler a(0);
  a.bytes({0, 0, 0, 0xE9}).value(static_cast<u32>(kTop - 8));
  rig().write_host(bottom_, a.finish());
  start_state().rip = kTop;
  rig().set_state(start_state());
  expect_to_stop();
  expect_looks();
}

TEST_P(Loops, Over4GiBIn32BitCode) {
  constexpr u64 kTop = 0xFFFF'F000;
  make_rig(3, false);
  map_ends(kTop, true);
  Assembler a(0);
  a.bytes({0xE9}).value(static_cast<u32>(kTop - 5));
  rig().write_host(bottom_, a.finish());
  start_state().rip = kTop;
  rig().set_state(start_state());
  expect_to_stop();
  expect_looks();
}

TEST_P(Loops, PushesIn32BitCode) {
  make_rig(3, false);
  Assembler a(kCode);
  a.label("again").bytes({0x9C, 0x8D, 0x64, 0x24, 0x08}).branch({0xE8}, "again");  // pushfd; lea esp, [esp+8]
  load(a);
  expect_to_stop();
}

/// The time goes by in functions that generated code calls.
TEST_P(Loops, OfLongStringInstructions) {
  make_rig(0);
  Assembler a(kCode);
  a.label("again").bytes({0x4C, 0x89, 0xE7, 0xB9}).value(u32{0x1000});  // mov rdi, r12; mov ecx, 1000h
  a.bytes({0xF3, 0xAA}).branch({0xE9}, "again");                        // rep stosb; jmp
  load(a);
  expect_to_stop();
  expect_looks();
}

TEST_P(Loops, ThroughTheKernel) {
  make_rig(3);
  Assembler a(kCode);
  a.label("again").bytes({0x0F, 0x05}).branch({0xE9}, "again");  // syscall; jmp
  load(a);
  constexpr Gpa kEntry{0x18'0000};
  rig().write(kEntry, std::array<u8, 3>{0x48, 0x0F, 0x07});  // sysretq
  cpu::CpuState state = start_state();
  state.msr.lstar = GuestRig::direct(kEntry);
  state.msr.star = u64{kUserCs32} << 48 | u64{kKernelCs} << 32;
  rig().set_state(state);
  expect_to_stop();
  expect_looks();
}

}  // namespace
}  // namespace vert::test

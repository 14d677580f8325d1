// A hostile guest: random bytes run as kernel and user code in every mode, from random but valid processor
// states, over random descriptor and page tables. Nothing it does may crash or hang the engine, or break
// CpuState's rules.
//
// Guest n is always the same. VERT_FUZZ_SECONDS=N goes on for N seconds.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "fuzz/random_code/random_guest.hpp"

namespace vert::test {
namespace {

using namespace std::chrono_literals;
using namespace x86;

/// A flat segment with random attributes.
Segment random_segment(Random& random, bool code) {
  Segment segment;
  segment.selector = static_cast<u16>(random.below(0x80));
  segment.attributes = static_cast<u16>((random.next() & 0xD06F) | Segment::kS | Segment::kP);
  segment.attributes =
      static_cast<u16>(code ? segment.attributes | Segment::kCode : segment.attributes & ~Segment::kCode);
  segment.limit = random.below(2) != 0 ? 0xFFFFFFFF : static_cast<u32>(random.next());
  segment.base = random.below(2) != 0 ? 0 : random.below(0x200000);
  return segment;
}

/// The state of the rig at CPL 0 or 3, roughened: other modes, random registers, segments and tables.
cpu::CpuState random_state(Random& random, const GuestRig& rig) {
  const bool user = random.below(2) != 0;
  cpu::CpuState state =
      rig.initial_state(user ? 0x400000 : GuestRig::direct(Gpa(0x210000)), 0x401800, user ? 3 : 0);
  for (u64& value : state.gpr) value = interesting(random);
  state.rflags =
      (random.next() & rflags::kDefined & ~(rflags::VM | rflags::VIP | rflags::VIF)) | rflags::kFixed1;
  for (auto& reg : state.fpu.zmm) {
    for (u8& byte : reg) byte = static_cast<u8>(random.next());
  }
  state.fpu.fcw = static_cast<u16>(random.next());
  state.fpu.mxcsr = static_cast<u32>(random.next() & 0xFFFF);
  for (u64& address : state.dr) address = interesting(random);
  if (random.below(4) == 0) state.dr7 = (random.next() & 0xFFFF23FF) | dr7::kFixed1;
  if (random.below(3) == 0) {
    // Leave long mode: real or protected mode, without paging.
    state.efer &= ~(efer::LME | efer::LMA);
    state.cr0 &= ~cr0::PG;
    state.cr4 &= ~(cr4::PCIDE | cr4::PAE);
    const bool real = random.below(2) != 0;
    if (real) state.cr0 &= ~cr0::PE;
    state.seg(kCs).attributes &= static_cast<u16>(~(Segment::kL | Segment::kDb));
    if (!real && random.below(2) != 0) state.seg(kCs).attributes |= Segment::kDb;
    state.seg(kCs).base = 0x210000;
    state.seg(kCs).limit = 0xFFFF;
    state.rip = random.below(0x100);
    state.cpl = 0;
    for (Segment& segment : state.segment) segment.attributes &= static_cast<u16>(~(3 << Segment::kDplShift));
    state.gdtr.base = 0x100000 + random.below(0x4000);
    state.idtr.base = random.below(2) != 0 ? 0 : 0x100000;
  }
  for (const SegmentRegister reg : {kEs, kDs, kFs, kGs}) {
    if (random.below(3) == 0) state.seg(reg) = random_segment(random, random.below(4) == 0);
  }
  return state;
}

void run_guest(u64 seed, u64& instructions) {
  Random random(seed);
  GuestRig rig("interp");
  u8* user = rig.map(0x400000, 2, {.user = true, .write = true, .execute = true});
  fill_code(random, {user, 2 * kPageSize});
  fill_code(random, {rig.host(Gpa(0x210000), 2 * kPageSize), 2 * kPageSize});
  // Descriptor tables, and the page tables behind them, with some bits turned.
  for (u64 i = random.below(200); i != 0; --i)
    *rig.host(Gpa(0x100000 + random.below(0x4000))) = static_cast<u8>(random.next());
  // A guest whose every instruction faults uses up no budget.
  const Ticker kicker(20ms, [&] { rig.events().request(cpu::VcpuEvents::kKick); });
  for (unsigned turn = 0; turn < 8; ++turn) {
    const cpu::CpuState state = random_state(random, rig);
    if (!cpu::check(state, rig.model())) continue;
    rig.set_state(state);
    const cpu::ExitInfo exit = rig.run(2000);
    instructions += exit.instructions;
    static_cast<void>(rig.events().take(~0U));
    const Status valid = cpu::check(rig.state(), rig.model());
    ASSERT_TRUE(valid.has_value()) << "seed " << seed << " turn " << turn << ": " << valid.error().message;
  }
}

TEST(RandomCode, NeitherCrashesNorHangsNorBreaksTheState) {
  constexpr u64 kShortRun = 150;
  const char* seconds = std::getenv("VERT_FUZZ_SECONDS");
  const auto end = std::chrono::steady_clock::now() +
                   std::chrono::seconds(seconds != nullptr ? std::strtoul(seconds, nullptr, 10) : 0);
  u64 instructions = 0;
  u64 seed = 0;
  for (; seed < kShortRun || std::chrono::steady_clock::now() < end; ++seed) {
    run_guest(seed, instructions);
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
  }
  // Guests that never get anywhere would test nothing.
  EXPECT_GT(instructions, seed * 10);
}

}  // namespace
}  // namespace vert::test

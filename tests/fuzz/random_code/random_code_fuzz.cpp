// A hostile guest: random bytes run as kernel and user code in every mode, from random but valid processor
// states, over random descriptor and page tables. Nothing it does may crash or hang the engine, or break
// CpuState's rules.
//
// Guest n is always the same. VERT_FUZZ_SECONDS=N goes on for N seconds.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "support/guest_rig.hpp"
#include "support/random.hpp"

namespace vert::test {
namespace {

using namespace std::chrono_literals;
using namespace x86;

/// Kicks a vCPU every few milliseconds: a guest whose every instruction faults uses up no budget.
class Kicker {
 public:
  explicit Kicker(cpu::VcpuEvents& events) : thread_([this, &events] { work(events); }) {}
  ~Kicker() {
    {
      const std::scoped_lock lock(mutex_);
      done_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Kicker(const Kicker&) = delete;
  Kicker& operator=(const Kicker&) = delete;

 private:
  void work(cpu::VcpuEvents& events) {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, 20ms, [this] { return done_; })) events.request(cpu::VcpuEvents::kKick);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;
};

/// Opcodes after which system behaviour begins; the rest of an instruction is left to chance.
constexpr auto kBeginnings = std::to_array<std::array<u8, 2>>({
    {0x0F, 0x00}, {0x0F, 0x01}, {0x0F, 0x20}, {0x0F, 0x22}, {0x0F, 0x23}, {0x0F, 0x30}, {0x0F, 0x32},
    {0x0F, 0xAE}, {0x0F, 0xC7}, {0x0F, 0x05}, {0x0F, 0x07}, {0x0F, 0x34}, {0x0F, 0x35}, {0x0F, 0xA2},
    {0x8E, 0xD8}, {0x8E, 0xD0}, {0xCF, 0x90}, {0xCB, 0x90}, {0xCD, 0x80}, {0xFF, 0x28}, {0xFF, 0x18},
    {0xF3, 0xA4}, {0xF3, 0xAB}, {0xC8, 0x10}, {0xD9, 0x30}, {0xDD, 0x20}, {0x62, 0xF1}, {0xC5, 0xF8},
    {0xC4, 0xE2}, {0xE7, 0x80}, {0x6C, 0x90}, {0x9D, 0x9C},
});

void fill_code(Random& random, std::span<u8> code) {
  for (u8& byte : code) byte = static_cast<u8>(random.next());
  for (std::size_t at = 0; at + 2 < code.size(); at += 1 + random.below(24)) {
    const auto& beginning = kBeginnings[random.below(kBeginnings.size())];
    code[at] = beginning[0];
    code[at + 1] = beginning[1];
  }
}

/// Numbers near where checks have their edges, and addresses near the guest's own tables.
u64 interesting(Random& random) {
  switch (random.below(6)) {
    case 0: return random.next();
    case 1: return random.below(0x1000);
    case 2: return 0x100000 + random.below(0x200000);
    case 3: return GuestRig::direct(Gpa(0x100000 + random.below(0x200000)));
    case 4: return (u64{1} << random.below(64)) - random.below(3);
    default: return ~u64{0} << random.below(64);
  }
}

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
  const Kicker kicker(rig.events());
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

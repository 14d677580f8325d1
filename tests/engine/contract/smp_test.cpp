// Two vCPUs on two threads: atomics, and code that changes under the feet of whoever runs it.
#include <thread>

#include "engine/contract/engine_test.hpp"

namespace vert::test {
namespace {

class SmpTest : public EngineTest {
 protected:
  /// Runs two vCPUs on a thread each, until both halt.
  void run_both() {
    std::array<cpu::Exit, 2> reasons{};
    std::thread other([&] { reasons[1] = rig().run(kLimit, 1).reason; });
    reasons[0] = rig().run(kLimit, 0).reason;
    other.join();
    EXPECT_EQ(reasons[0], cpu::Exit::kHalt);
    EXPECT_EQ(reasons[1], cpu::Exit::kHalt);
  }
  static constexpr u64 kLimit = 500'000'000;
};

TEST_P(SmpTest, LockedIncrementsAddUp) {
  constexpr u32 kTurns = 102'400;
  constexpr u32 kSplitEvery = 1024;
  make_rig(2);
  Assembler a(code());
  // The dword at +4094 crosses a page: split locks must be atomic too. Some hosts make each of them wait.
  a.load(3, data()).bytes({0xB9}).value(kTurns).label("loop");
  a.bytes({0xF0, 0xFF, 0x03});                                          // lock inc dword [rbx]
  a.bytes({0xB8}).value(u32{1}).bytes({0xF0, 0x0F, 0xC1, 0x43, 0x08});  // lock xadd [rbx+8], eax
  a.bytes({0xF0, 0x48, 0x83, 0x43, 0x21, 0x01});                        // lock add qword [rbx+33], 1
  a.bytes({0xF6, 0xC5, 0x03}).branch({0x0F, 0x85}, "next");             // test ch, 3; jnz
  a.bytes({0x84, 0xC9}).branch({0x0F, 0x85}, "next");                   // test cl, cl; jnz
  a.bytes({0xF0, 0xFF, 0x83}).value(u32{4094});                         // lock inc dword [rbx+4094]
  a.label("next");
  a.bytes({0xFF, 0xC9}).branch({0x0F, 0x85}, "loop").hlt();
  start(a);
  place(code(), 1);
  run_both();
  EXPECT_EQ(counter(0), 2 * kTurns);
  EXPECT_EQ(counter(8), 2 * kTurns);
  EXPECT_EQ(counter(33), 2 * kTurns);
  EXPECT_EQ(rig().memory().load<u32>(kData + 4094), 2 * (kTurns / kSplitEvery));
}

TEST_P(SmpTest, CompareAndExchangeOf16BytesIsAtomic) {
  constexpr u32 kTurns = 20'000;
  make_rig(2);
  Assembler a(code());
  // Both halves count in step, whoever wins.
  a.load(6, data()).load(7, kTurns).label("turn");
  a.bytes({0x48, 0x8B, 0x06, 0x48, 0x8B, 0x56, 0x08});  // mov rax, [rsi]; mov rdx, [rsi+8]
  a.label("retry");
  a.bytes({0x48, 0x8D, 0x58, 0x01, 0x48, 0x8D, 0x4A, 0x01});  // lea rbx, [rax+1]; lea rcx, [rdx+1]
  a.bytes({0xF0, 0x48, 0x0F, 0xC7, 0x0E}).branch({0x0F, 0x85}, "retry");  // lock cmpxchg16b [rsi]
  a.bytes({0x48, 0xFF, 0xCF}).branch({0x0F, 0x85}, "turn").hlt();         // dec rdi
  start(a);
  place(code(), 1);
  run_both();
  EXPECT_EQ(rig().memory().load<u64>(kData), 2 * kTurns);
  EXPECT_EQ(rig().memory().load<u64>(kData + 8), 2 * kTurns);
}

TEST_P(SmpTest, StoresAreSeenInOrder) {
  constexpr u32 kTurns = 50'000;
  make_rig(2);
  Assembler a(code());
  // The writer stores data, then the flag; the reader reads the flag, then data, which must not be older.
  a.load(3, data()).bytes({0x31, 0xC0}).label("write");
  a.bytes({0xFF, 0xC0, 0x89, 0x43, 0x40, 0x89, 0x03});  // inc eax; mov [rbx+64], eax; mov [rbx], eax
  a.bytes({0x3D}).value(kTurns).branch({0x0F, 0x85}, "write").hlt();
  a.label("reader").load(3, data()).label("read");
  a.bytes({0x8B, 0x03, 0x8B, 0x4B, 0x40});            // mov eax, [rbx]; mov ecx, [rbx+64]
  a.bytes({0x39, 0xC1}).branch({0x0F, 0x82}, "bad");  // cmp ecx, eax; jb
  a.bytes({0x3D}).value(kTurns).branch({0x0F, 0x85}, "read").hlt();
  a.label("bad").bytes({0x0F, 0x0B});
  start(a);
  place(a.address("reader"), 1);
  run_both();
  EXPECT_FALSE(rig().caught(1).has_value());
}

TEST_P(SmpTest, CodeChangedByItselfRunsAnew) {
  constexpr u32 kTurns = 20'000;
  make_rig();
  Assembler a(code());
  // Each turn writes its number into the immediate of the next instruction, and adds that up.
  a.load(6, kTurns).bytes({0x31, 0xC0}).label("loop");
  a.branch({0x89, 0x35}, "immediate");  // mov [rip+immediate], esi
  a.bytes({0xBA}).label("immediate").value(u32{0xDEAD});
  a.bytes({0x48, 0x01, 0xD0});                                     // add rax, rdx
  a.bytes({0x48, 0xFF, 0xCE}).branch({0x0F, 0x85}, "loop").hlt();  // dec rsi
  start(a);
  EXPECT_EQ(rig().run(kLimit).reason, cpu::Exit::kHalt);
  EXPECT_EQ(reg(x86::kRax), u64{kTurns} * (kTurns + 1) / 2);
}

TEST_P(SmpTest, CodeChangedByAnotherProcessorIsSeen) {
  constexpr u32 kTurns = 300;
  make_rig(2);
  Assembler a(code());
  // vCPU 0 changes the immediate of a routine that vCPU 1 calls; they take turns by a flag (SDM 3A, 8.1.3:
  // the other processor serialises, here by CPUID, before it runs the new code).
  a.load(3, data()).load(6, kTurns).label("write");
  a.branch({0x89, 0x35}, "immediate");  // mov [rip+immediate], esi
  a.bytes({0xC7, 0x03}).value(u32{1});  // mov dword [rbx], 1
  a.label("wait").bytes({0xF3, 0x90, 0x83, 0x3B, 0x00}).branch({0x0F, 0x85}, "wait");  // until [rbx] == 0
  a.bytes({0x48, 0xFF, 0xCE}).branch({0x0F, 0x85}, "write").hlt();
  a.label("reader").load(14, data()).load(6, kTurns).bytes({0x45, 0x31, 0xFF}).label("read");  // xor r15d,
                                                                                               // r15d
  a.bytes({0xF3, 0x90, 0x41, 0x83, 0x3E, 0x01}).branch({0x0F, 0x85}, "read");  // until [r14] == 1
  a.bytes({0x31, 0xC0, 0x0F, 0xA2});                                           // xor eax, eax; cpuid
  a.branch({0xE8}, "routine").bytes({0x49, 0x01, 0xC7});                       // add r15, rax
  a.bytes({0x41, 0xC7, 0x06}).value(u32{0});                                   // mov dword [r14], 0
  a.bytes({0x48, 0xFF, 0xCE}).branch({0x0F, 0x85}, "read").hlt();
  a.label("routine").bytes({0xB8}).label("immediate").value(u32{0xDEAD}).bytes({0xC3});
  start(a);
  place(a.address("reader"), 1);
  run_both();
  EXPECT_EQ(reg(x86::kR15, 1), u64{kTurns} * (kTurns + 1) / 2);
}

INSTANTIATE_TEST_SUITE_P(Engines, SmpTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

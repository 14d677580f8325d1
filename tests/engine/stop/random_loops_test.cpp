// Random loops of every shape: a ring of pieces of code, each with a random way to the next.
#include <algorithm>
#include <cstring>

#include "engine/stop/stop_test.hpp"
#include "support/random.hpp"

namespace vert::test {
namespace {

class RandomLoops : public StopTest {
 protected:
  /// A ring of pieces in random order, at random distances. With `turns`, it ends after so many, by a HLT.
  void write_ring(Random& random, Assembler& a, u32 turns) {
    const auto count = static_cast<unsigned>(1 + random.below(12));
    std::vector<unsigned> next(count);
    for (unsigned i = 0; i < count; ++i) next[i] = i;
    // One cycle through all (Sattolo).
    for (unsigned i = count; i-- > 1;) std::swap(next[i], next[random.below(i)]);
    if (turns != 0) a.bytes({0x48, 0xC7, 0x03}).value(turns);  // mov qword [rbx], turns
    for (unsigned i = 0; i < count; ++i) {
      a.label(name(i)).bytes({0x48, 0x89, 0xEC});  // mov rsp, rbp
      if (i == 0 && turns != 0) {
        a.bytes({0x48, 0xFF, 0x0B}).branch({0x0F, 0x84}, "end");  // dec qword [rbx]; jz
      }
      for (u64 k = random.below(5); k != 0; --k) write_body(random, a);
      write_way(random, a, name(next[i]));
      a.nop(static_cast<unsigned>(random.below(4) == 0 ? random.below(1000) : random.below(40)));
    }
    a.label("leaf").bytes({0x48, 0xFF, 0xC1, 0xC3});  // inc rcx; ret
    a.label("end").hlt();
  }

 private:
  static std::string name(unsigned i) { return fmt::format("piece {}", i); }

  static void write_body(Random& random, Assembler& a) {
    switch (random.below(14)) {
      case 0: a.bytes({0x9C}); break;                                // pushfq
      case 1: a.bytes({0x50, 0x58}); break;                          // push rax; pop rax
      case 2: a.bytes({0x48, 0xFF, 0xC1}); break;                    // inc rcx
      case 3: a.bytes({0x4C, 0x01, 0xC1, 0x48, 0x11, 0xD1}); break;  // add rcx, r8; adc rcx, rdx
      case 4: a.bytes({0x49, 0x8B, 0x54, 0x24, 0x40}); break;        // mov rdx, [r12+40h]
      case 5: a.bytes({0x49, 0x8B, 0x55, 0x40}); break;              // mov rdx, [r13+40h]: its rival
      case 6: a.bytes({0x49, 0x89, 0x4D, 0x48}); break;              // mov [r13+48h], rcx
      case 7: a.bytes({0x0F, 0x58, 0xC1}); break;                    // addps xmm0, xmm1
      case 8: a.bytes({0x41, 0x0F, 0x11, 0x44, 0x24, 0x50}); break;  // movups [r12+50h], xmm0
      case 9:
        a.bytes({0x4C, 0x89, 0xE7, 0x51, 0xB9})
            .value(u32{0x40})  // mov rdi, r12; push rcx; mov ecx
            .bytes({0x48, 0x81, 0xC7})
            .value(u32{0x800})  // add rdi, 800h
            .bytes({0xF3, 0xAA, 0x59});
        break;  // rep stosb; pop rcx
      case 10: a.branch({0xE8}, "leaf"); break;
      case 11: a.bytes({0x4D, 0x89, 0xD3, 0x49, 0xFF, 0xC2}); break;        // mov r11, r10; inc r10
      case 12: a.bytes({0x49, 0x83, 0x6C, 0x24, 0x60, 0x01}); break;        // sub qword [r12+60h], 1
      default: a.bytes({0x66, 0x41, 0x0F, 0x6F, 0x4C, 0x24, 0x70}); break;  // movdqa xmm1, [r12+70h]
    }
  }

  static void write_way(Random& random, Assembler& a, const std::string& to) {
    const auto load_target = [&] { a.branch({0x48, 0x8D, 0x05}, to); };  // lea rax, [rip+to]
    switch (random.below(9)) {
      case 0: a.branch({0xE9}, to); break;
      case 1:  // jcc, or the jump behind it
        a.bytes({0x48, 0x85, 0xC9}).branch({0x0F, static_cast<u8>(0x80 | random.below(16))}, to);
        a.branch({0xE9}, to);
        break;
      case 2: a.branch({0xE8}, to); break;
      case 3: load_target(), a.bytes({0xFF, 0xE0}); break;                                // jmp rax
      case 4: load_target(), a.bytes({0xFF, 0xD0}); break;                                // call rax
      case 5: load_target(), a.bytes({0x50, 0xC3}); break;                                // push rax; ret
      case 6: load_target(), a.bytes({0x48, 0x89, 0x43, 0x18, 0xFF, 0x63, 0x18}); break;  // jmp [rbx+18h]
      case 7: load_target(), a.bytes({0x48, 0x89, 0x43, 0x18, 0xFF, 0x53, 0x18}); break;  // call [rbx+18h]
      default: a.bytes({0x9C}).branch({0xE8}, to); break;                                 // pushfq; call
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Engines, RandomLoops, testing::ValuesIn(engines_to_stop()));

TEST_P(RandomLoops, EndWhenSomebodyAsks) {
  constexpr u64 kLoops = 40;
  for (u64 seed = 0; seed < kLoops; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    make_rig(random.below(2) != 0 ? 3 : 0);
    Assembler a(kCode);
    write_ring(random, a, 0);
    load(a);
    expect_to_stop(1);
  }
  RecordProperty("later than 100 ms", static_cast<int>(late()));
  fmt::print("{} of {} stops took longer than 100 ms\n", late(), kLoops);
}

/// Wherever a loop is stopped, it goes on as if nothing had been.
TEST_P(RandomLoops, GoOnAsIfTheyHadNotBeenStopped) {
  constexpr u64 kLoops = 6;
  const bool slow = GetParam() == "interp";
  unsigned stops = 0;
  for (u64 seed = 100; seed < 100 + kLoops; ++seed) {
    SCOPED_TRACE(seed);
    std::array<cpu::CpuState, 2> ends;
    std::array<std::vector<u8>, 2> data;
    for (const bool stopped : {false, true}) {
      Random random(seed);
      make_rig(0);
      Assembler a(kCode);
      write_ring(random, a, slow ? 30'000 : 500'000);
      load(a);
      std::atomic<bool> done = !stopped;
      std::thread kicker([&] {
        while (!done) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          rig().events().request(cpu::VcpuEvents::kKick);
        }
      });
      cpu::Exit reason{};
      while ((reason = rig().run(cpu::kNoBudget).reason) == cpu::Exit::kKick) {
        ++stops;
        static_cast<void>(rig().events().take(cpu::VcpuEvents::kKick));
      }
      done = true;
      kicker.join();
      ASSERT_EQ(reason, cpu::Exit::kHalt);
      ends[stopped ? 1 : 0] = rig().state();
      data[stopped ? 1 : 0] = bytes_at(kData);
    }
    EXPECT_EQ(ends[0], ends[1]);
    EXPECT_EQ(data[0], data[1]);
  }
  EXPECT_GT(stops, 0U);
}

}  // namespace
}  // namespace vert::test

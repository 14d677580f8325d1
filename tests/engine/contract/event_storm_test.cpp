// Random guests that mask, unmask, shadow, halt and change privilege, under interrupts from several threads:
// each interrupt is served, and none waits for the next to be noticed.
#include <atomic>
#include <chrono>
#include <thread>

#include "cpu/acceptance.hpp"
#include "engine/contract/engine_test.hpp"
#include "support/random.hpp"

namespace vert::test {
namespace {

using namespace std::chrono_literals;

class EventStormTest : public EngineTest {
 protected:
  using Clock = std::chrono::steady_clock;
  static constexpr std::array<u8, 3> kVectors = {0x41, 0x62, 0x93};
  static constexpr unsigned kNmiSender = 3;
  static constexpr unsigned kSenders = 4;
  static constexpr u8 kStop = 0x40;  // behind data(); before it a counter for each sender
  static constexpr u64 kApic = 0x60'0000;
  static constexpr u64 kUser = 0x40'0000;
  static constexpr unsigned kOps = 150;
  static constexpr auto kLimit = 20s;  // for one interrupt, on the busiest of hosts

  void load_guest(u64 seed);
  void emit_op(Assembler& a, unsigned number);
  void emit_handlers(Assembler& a);
  void return_to(Assembler& a, const std::string& label, bool user, u32 flags);
  void send(unsigned sender);
  [[nodiscard]] u32 served(unsigned sender) { return counter(static_cast<u8>(sender * 4)); }
  void run_sender(unsigned sender, u32 count);
  void run_vcpu();
  void storm(u32 count);

  Random random_{0};
  std::atomic<bool> stalled_ = false;
  std::atomic<bool> over_ = false;
};

/// IRETQ to a label of this code, or with `user` to user code that comes back by SYSCALL.
void EventStormTest::return_to(Assembler& a, const std::string& label, bool user, u32 flags) {
  a.branch({0x4C, 0x8D, 0x25}, label).bytes({0x49, 0x89, 0xE5});             // lea r12, [label]; mov r13, rsp
  a.bytes({0x6A, static_cast<u8>(user ? kUserDs : kKernelDs), 0x41, 0x55});  // push ss; push r13
  a.bytes({0x68}).value(flags);                                              // push flags
  a.bytes({0x6A, static_cast<u8>(user ? kUserCs : kKernelCs)});              // push cs
  if (user)
    a.bytes({0x68}).value(static_cast<u32>(kUser + random_.below(20)));
  else
    a.bytes({0x41, 0x54});
  a.bytes({0x48, 0xCF});
}

void EventStormTest::emit_op(Assembler& a, unsigned number) {
  const std::string next = "op" + std::to_string(number);
  const u32 flags = random_.below(2) != 0 ? 0x202 : 0x002;
  switch (random_.below(12)) {
    case 0: a.bytes({0xFA}); break;  // cli
    case 1: a.bytes({0xFB}); break;  // sti
    case 2:                          // xor eax, eax; mov cr8, rax; sti; hlt
      a.bytes({0x31, 0xC0, 0x44, 0x0F, 0x22, 0xC0, 0xFB, 0xF4});
      break;
    case 3: a.bytes({0x68}).value(flags).bytes({0x9D}); break;  // push flags; popfq
    case 4:                                                     // mov eax, priority; mov cr8, rax
      a.bytes({0xB8}).value(static_cast<u32>(random_.below(12))).bytes({0x44, 0x0F, 0x22, 0xC0});
      break;
    case 5: return_to(a, next, false, flags); break;
    case 6:
    case 7: return_to(a, next, true, flags); break;
    case 8: a.bytes({0xB8}).value(u32{kKernelDs}).bytes({0x8E, 0xD0}); break;  // mov ss, eax
    case 9:                                                                    // a loop
      a.bytes({0xB9}).value(static_cast<u32>(1 + random_.below(40)));
      a.bytes({0xFF, 0xC9, 0x75, 0xFC});
      break;
    case 10:  // cli; much without a look; sti
      a.bytes({0xFA});
      for (unsigned i = 0; i < 40; ++i) a.bytes({0xF0, 0xFF, 0x43, 0x60});
      a.bytes({0xFB});
      break;
    default: a.nop(static_cast<unsigned>(random_.below(8))).bytes({0xF3, 0x90}); break;
  }
  a.label(next);
}

void EventStormTest::emit_handlers(Assembler& a) {
  for (unsigned i = 0; i < kSenders; ++i) {
    a.label("handler" + std::to_string(i)).bytes({0xF0, 0xFF, 0x43, static_cast<u8>(i * 4)});
    if (i != kNmiSender) {
      a.bytes({0x50}).load(0, kApic + 0xB0);              // push rax
      if (i == 1) a.bytes({0xFB, 0x90, 0x90});            // lets those of higher priority in
      a.bytes({0xC7, 0x00}).value(u32{0}).bytes({0x58});  // the EOI; pop rax
    }
    a.bytes({0x48, 0xCF});
  }
}

void EventStormTest::load_guest(u64 seed) {
  random_ = Random(seed);
  Assembler a(code());
  a.label("round");
  for (unsigned i = 0; i < kOps; ++i) emit_op(a, i);
  a.bytes({0x31, 0xC0, 0x44, 0x0F, 0x22, 0xC0, 0xFB, 0x90});  // everything open
  a.bytes({0x83, 0x7B, kStop, 0x00}).branch({0x0F, 0x84}, "round").bytes({0xFA}).hlt();
  a.label("system_call").bytes({0x4C, 0x89, 0xEC, 0x41, 0xFF, 0xE4});  // mov rsp, r13; jmp r12
  emit_handlers(a);
  start(a);
  std::vector<u8> user(32, 0x90);
  user.insert(user.end(), {0x0F, 0x05});
  rig().write_host(rig().map(kUser, 1, {true, false, true}), user);
  rig().map_page(kApic, Gpa(cpu::LocalApic::kDefaultBase), {false, true, false});
  for (unsigned i = 0; i < kVectors.size(); ++i)
    rig().set_gate(kVectors[i], a.address("handler" + std::to_string(i)));
  rig().set_gate(x86::kNMI, a.address("handler" + std::to_string(kNmiSender)));
  cpu::CpuState state = rig().state();
  state.gpr[x86::kRbx] = data();  // from the first instruction on: NMIs come when they like
  state.msr.star = u64{kUserCs32} << 48 | u64{kKernelCs} << 32;
  state.msr.lstar = a.address("system_call");
  state.msr.fmask = seed % 2 != 0 ? x86::rflags::IF : 0;
  rig().set_state(state);
  enable_apic();
}

void EventStormTest::send(unsigned sender) {
  if (sender == kNmiSender)
    nmi();
  else
    interrupt(kVectors[sender]);
}

void EventStormTest::run_sender(unsigned sender, u32 count) {
  for (u32 n = 1; n <= count && !stalled_; ++n) {
    send(sender);
    const auto limit = Clock::now() + kLimit;
    while (served(sender) < n && !stalled_) {
      if (Clock::now() > limit) {
        ADD_FAILURE() << "sender " << sender << " waits for its interrupt " << n
                      << (over_ ? "; the guest has ended" : "");
        stalled_ = true;
      }
      std::this_thread::sleep_for(10us);  // leaves the host's processors to the vCPU
    }
  }
}

/// As machine/ runs a vCPU.
void EventStormTest::run_vcpu() {
  const auto ready = [&] {
    return cpu::deliverable(rig().events().pending(), cpu::acceptance_of(rig().state())) != 0;
  };
  while (rig().run(cpu::kNoBudget).reason == cpu::Exit::kHalt) {
    if ((rig().state().rflags & x86::rflags::IF) == 0) break;
    while (!ready()) std::this_thread::yield();
  }
  const auto fault = rig().caught();
  EXPECT_FALSE(fault.has_value()) << "vector " << int{fault->vector} << " at " << std::hex << fault->rip;
  over_ = true;
}

void EventStormTest::storm(u32 count) {
  std::thread vcpu([&] { run_vcpu(); });
  std::vector<std::thread> senders;
  for (unsigned i = 0; i < kSenders; ++i) senders.emplace_back([&, i] { run_sender(i, count); });
  for (std::thread& sender : senders) sender.join();
  const u8 stop = 1;
  rig().write(kData + kStop, {&stop, 1});
  while (!over_) {
    if (stalled_) rig().events().request(cpu::VcpuEvents::kKick);
    send(0);
    std::this_thread::sleep_for(100us);
  }
  vcpu.join();
}

TEST_P(EventStormTest, EachInterruptIsServedWithoutWaitingForAnother) {
  for (const u64 seed : {1, 2, 3, 4}) {
    make_rig();
    over_ = false;
    load_guest(seed);
    storm(50);
    ASSERT_FALSE(stalled_) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, EventStormTest, testing::ValuesIn(engine_names()));

}  // namespace
}  // namespace vert::test

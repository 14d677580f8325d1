// A hostile guest on the translator: as random_code_fuzz.cpp, but without a budget, which rules out most of
// what makes the translator fast, and with code that mostly makes sense, so that guests get somewhere; on one
// vCPU, or on two that share all memory, code included. Nothing may crash the engine or make it deaf.
//
// Guests run in child processes, so that a crash and a hang name the guest. Guest n is always the same.
// VERT_FUZZ_SECONDS=N goes on for N seconds; VERT_FUZZ_FIRST=N begins with guest N.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "fuzz/random_code/random_guest.hpp"
#include "support/engines.hpp"

namespace vert::test {
namespace {

using namespace std::chrono_literals;
using namespace x86;
using Clock = std::chrono::steady_clock;

constexpr u64 kUserCode = 0x400000;
constexpr u64 kKernelCode = 0x410000;
constexpr Gpa kKernelFrames{0x210000};
constexpr std::size_t kCodeSize = 2 * kPageSize;
constexpr u64 kUserData = kUserCode + kCodeSize;
constexpr std::size_t kDataSize = 2 * kPageSize;

// Bytes of an instruction, and what stands for something random.
enum Hole : int {
  kPlusRegister = 0x100,   // an opcode plus a register
  kPlusCondition = 0x200,  // plus a condition
  kPlusBit = 0x300,        // or plus 1
  kModrm = 0x400,          // [register + disp8], with a register in `reg`
  kModrmOf,                // the same, with an opcode's extension in `reg`: which comes next
  kRex,                    // with W
  kByte,
  kWord32,
  kTo,      // a relative branch's target, within the code
  kTarget,  // an absolute one
};

using Piece = std::vector<int>;

const std::vector<Piece> kPieces = {
    {kRex, 0x8B, kModrm, kByte},                               // mov
    {kRex, 0x89, kModrm, kByte},                               //
    {0x0F, 0x10, kModrm, kByte},                               // movups
    {0x0F, 0x11, kModrm, kByte},                               //
    {kPlusRegister | 0x50},                                    // push
    {kPlusRegister | 0x58},                                    // pop
    {0xE8, kTo},                                               // call
    {0xC3},                                                    // ret
    {0xC2, kByte, 0},                                          //
    {0x0F, kPlusCondition | 0x80, kTo},                        // jcc
    {0xE9, kTo},                                               // jmp
    {0xFF, kPlusRegister | 0xD0},                              // call register
    {0xFF, kPlusRegister | 0xE0},                              // jmp register
    {0x9C},                                                    // pushfq
    {0x9C, 0x48, 0x8D, 0x64, 0x24, 0x10},                      // pushfq; lea rsp, [rsp+16]
    {0x9D},                                                    // popfq
    {0xC9},                                                    // leave
    {kRex, 0x8D, kModrm, kByte},                               // lea
    {0xF3, 0x48, kPlusBit | 0xA4},                             // rep movs
    {0xF3, 0x48, kPlusBit | 0xAA},                             // rep stos
    {0x48, 0x0F, 0xAE, kModrmOf, 4, kByte},                    // xsave
    {0x48, 0x0F, 0xAE, kModrmOf, 5, kByte},                    // xrstor
    {0x48, 0x0F, 0xC7, kModrmOf, 4, kByte},                    // xsavec
    {0x65, kRex, 0x8B, 0x04, 0x25, kWord32},                   // mov rax, gs:[]
    {0x64, kRex, 0x89, kModrm, kByte},                         // mov fs:[], register
    {0xF3, 0x48, 0x0F, 0xAE, kPlusRegister | 0xD0},            // wrfsbase
    {0xF3, 0x48, 0x0F, 0xAE, kPlusRegister | 0xD8},            // wrgsbase
    {kRex, 0x0F, 0xA3, kModrm, kByte},                         // bt
    {kRex, 0x0F, 0xAB, kModrm, kByte},                         // bts
    {0xF0, kRex, 0x0F, 0xB1, kModrm, kByte},                   // lock cmpxchg
    {0x48, 0xF7, kPlusRegister | 0xF0},                        // div
    {0xDD, kModrmOf, 0, kByte},                                // fld
    {0xD9, kModrmOf, 5, kByte},                                // fldcw
    {0x0F, 0xAE, kModrmOf, 2, kByte},                          // ldmxcsr
    {0x0F, 0x58, kModrm, kByte},                               // addps
    {0x67, kRex, 0x8B, kModrm, kByte},                         // mov, 32-bit address
    {0x6A, 0x23, 0x68, kTarget, 0x48, 0xCB},                   // lretq to 32-bit code
    {0x6A, 0x33, 0x68, kTarget, 0x48, 0xCB},                   // and to 64-bit code
    {kPlusRegister | 0xB8, kTarget},                           // mov register, code
    {0x89, 0x04, 0x24, 0xC3},                                  // mov [rsp], eax; ret
    {0x48, 0x81, 0x04, 0x24, kWord32, 0xC3},                   // add qword [rsp], imm; ret
    {0x88, 0x05, kTo},                                         // mov [rip+code], al
    {0x62, 0xF1, 0x7C, 0x48, kPlusBit | 0x10, kModrm, kByte},  // vmovups zmm
    {0xF3, 0x90},                                              // pause
    {0x0F, 0x05},                                              // syscall
    {0x0F, 0x0B},                                              // ud2
};
const std::vector<Piece> kKernelPieces = {
    {0x48, 0x0F, 0x07},                                               // sysretq
    {0x6A, 0x2B, 0x54, 0x9C, 0x6A, 0x33, 0x68, kTarget, 0x48, 0xCF},  // iretq to CPL 3
    {0x6A, 0x18, 0x54, 0x9C, 0x6A, 0x10, 0x68, kTarget, 0x48, 0xCF},  // iretq to CPL 0
    {0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8},                             // mov cr3, cr3
    {0x0F, 0x01, kModrmOf, 7, kByte},                                 // invlpg
    {0x0F, 0x01, kPlusBit | 0xCA},                                    // clac, stac
    {kPlusBit | 0xFA},                                                // cli, sti
    {0x0F, 0x01, 0xF8},                                               // swapgs
};

/// Writes code that mostly makes sense, to run at `base`.
class CodeWriter {
 public:
  CodeWriter(Random& random, std::span<u8> code, u64 base) : random_(random), code_(code), base_(base) {}

  void fill(bool kernel) {
    constexpr std::size_t kLongest = 24;
    std::memset(code_.data(), 0x90, code_.size());
    while (at_ + kLongest < code_.size()) {
      starts_.push_back(at_);
      write(random_.pick(kernel && random_.below(4) == 0 ? kKernelPieces : kPieces));
    }
  }

 private:
  void write(const Piece& piece) {
    for (std::size_t i = 0; i < piece.size(); ++i) {
      if (piece[i] == kModrmOf)
        put(modrm(static_cast<u64>(piece[++i])));
      else
        write(piece[i]);
    }
  }
  void write(int part) {
    switch (part) {
      case kModrm: return put(modrm(random_.below(8)));
      case kRex: return put(0x48 | random_.below(8));
      case kByte: return put(random_.next());
      case kWord32: return put32(random_.next());
      case kTo: return put32(somewhere() - (at_ + 4));
      case kTarget: return put32(base_ + somewhere());
      default: break;
    }
    const auto byte = static_cast<u64>(part & 0xFF);
    switch (part & 0xF00) {
      case kPlusRegister: return put(byte + random_.below(8));
      case kPlusCondition: return put(byte + random_.below(16));
      case kPlusBit: return put(byte + random_.below(2));
      default: return put(byte);
    }
  }
  u64 modrm(u64 reg) {
    const u64 base = random_.below(8);
    return 0x40 | reg << 3 | (base == 4 ? 3 : base);  // 4 would mean a SIB byte
  }
  u64 somewhere() { return random_.below(2) != 0 ? random_.pick(starts_) : random_.below(code_.size()); }
  void put(u64 byte) { code_[at_++] = static_cast<u8>(byte); }
  void put32(u64 value) {
    for (unsigned shift = 0; shift < 32; shift += 8) put(value >> shift);
  }

  Random& random_;
  std::span<u8> code_;
  u64 base_;
  std::size_t at_ = 0;
  std::vector<std::size_t> starts_;
};

u64 interesting_here(Random& random) {
  switch (random.below(4)) {
    case 0: return kUserData + 64 * random.below(kDataSize / 64);
    case 1: return kUserCode + random.below(kCodeSize);
    default: return interesting(random);
  }
}

cpu::CpuState random_state(Random& random, const GuestRig& rig, bool wild, unsigned vcpu) {
  const bool user = random.below(2) != 0;
  cpu::CpuState state =
      rig.initial_state(user ? kUserCode : kKernelCode, kUserData + kDataSize / 2, user ? 3 : 0, vcpu);
  if (!user && random.below(2) != 0) state.rip = GuestRig::direct(kKernelFrames);
  for (u64& value : state.gpr) value = interesting_here(random);
  if (random.below(4) != 0) state.gpr[kRsp] = kUserData + kDataSize / 2;
  const u64 rarely = random.below(8) != 0 ? rflags::TF : 0;
  state.rflags = (random.next() & rflags::kDefined & ~(rflags::VM | rflags::VIP | rflags::VIF | rarely)) |
                 rflags::kFixed1;
  for (auto& reg : state.fpu.zmm)
    for (u8& byte : reg) byte = static_cast<u8>(random.next());
  state.fpu.fcw = static_cast<u16>(random.below(2) != 0 ? 0x37F : random.next());
  state.fpu.mxcsr = static_cast<u32>(random.below(2) != 0 ? 0x1F80 : random.next() & 0xFFFF);
  state.msr.lstar = random.below(2) != 0 ? kKernelCode : GuestRig::direct(kKernelFrames);
  state.msr.star = u64{kUserCs32} << 48 | u64{kKernelCs} << 32;
  for (const SegmentRegister reg : {kEs, kDs})
    state.seg(reg) = Descriptor{0x00CF'F300'0000'FFFF}.to_segment(kUserDs);
  state.seg(kFs).base = interesting_here(random);
  state.seg(kGs).base = interesting_here(random);
  if (random.below(2) != 0) state.cr4 |= cr4::SMAP & rig.model().cr4_allowed();
  if (random.below(2) != 0) state.cr4 |= cr4::PCIDE & rig.model().cr4_allowed();
  if (random.below(6) == 0) state.cr0 |= cr0::TS;
  if (wild && random.below(4) == 0) state.dr7 = (random.next() & 0xFFFF23FF) | dr7::kFixed1;
  return state;
}

/// Shared with the child process that runs guests.
struct Progress {
  std::atomic<u64> seed = 0;
  std::atomic<u64> runs = 0;
  std::atomic<u64> instructions = 0;
};

/// One guest. Everything about it follows from its seed.
class Guest {
 public:
  Guest(u64 seed, const std::string& engine)
      : random_(seed), vcpus_(1 + static_cast<unsigned>(random_.below(2))), rig_(engine, vcpus_) {}

  /// Returns what is wrong with the state that a run left.
  Status run(Progress& progress) {
    fill();
    const Ticker ticker(4ms, [this] { disturb(); });
    for (unsigned turn = 0; turn < 6; ++turn) {
      std::vector<std::thread> threads;
      for (unsigned vcpu = 0; vcpu < vcpus_; ++vcpu) {
        const cpu::CpuState state = random_state(random_, rig_, wild_, vcpu);
        if (!cpu::check(state, rig_.model())) continue;
        rig_.set_state(state, vcpu);
        threads.emplace_back([this, vcpu, &progress] {
          progress.instructions += rig_.run(cpu::kNoBudget, vcpu).instructions;
          ++progress.runs;
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (unsigned vcpu = 0; vcpu < vcpus_; ++vcpu) {
        static_cast<void>(rig_.events(vcpu).take(~0U));
        if (!threads.empty()) VERT_TRY(cpu::check(rig_.state(vcpu), rig_.model()));
      }
    }
    return {};
  }

 private:
  void fill() {
    u8* user = rig_.map(kUserCode, (kCodeSize + kDataSize) / kPageSize,
                        {.user = true, .write = true, .execute = true});
    u8* kernel =
        rig_.map(kKernelCode, kCodeSize / kPageSize, {.user = false, .write = true, .execute = true});
    wild_ = random_.below(3) == 0;
    if (wild_) {
      fill_code(random_, {user, kCodeSize});
      fill_code(random_, {kernel, kCodeSize});
      for (u64 i = random_.below(200); i != 0; --i)  // tables
        *rig_.host(Gpa(0x100000 + random_.below(0x4000))) = static_cast<u8>(random_.next());
    } else {
      CodeWriter(random_, {user, kCodeSize}, kUserCode).fill(false);
      CodeWriter(random_, {kernel, kCodeSize}, kKernelCode).fill(true);
      for (std::size_t i = 0; i < kDataSize; i += sizeof(u64)) {
        const u64 value = random_.below(2) != 0 ? interesting_here(random_) : 0;
        std::memcpy(user + kCodeSize + i, &value, sizeof value);
      }
    }
    std::memcpy(rig_.host(kKernelFrames, kCodeSize), kernel, kCodeSize);
    if (random_.below(2) != 0) handle_faults();
    for (unsigned vcpu = 0; vcpu < vcpus_; ++vcpu) rig_.apic(vcpu).mmio_write(0xF0, 0x1FF);  // on
  }
  /// Faults and interrupts go on somewhere in the code, instead of halting.
  void handle_faults() {
    const auto handler = [&] {
      const u64 at = random_.below(kCodeSize - 16);
      return random_.below(2) != 0 ? kKernelCode + at : GuestRig::direct(kKernelFrames + at);
    };
    for (const u8 vector : std::to_array<u8>({0, 1, 3, 6, 7, 11, 12, 13, 14, 16, 17, 19, 0x40, 0x80}))
      rig_.set_gate(vector, handler(), random_.below(2) != 0 ? 3 : 0);
  }
  /// On the ticker's thread.
  void disturb() {
    for (unsigned vcpu = 0; vcpu < vcpus_; ++vcpu) {
      static_cast<void>(rig_.fabric().send({.destination = rig_.apic(vcpu).id(), .vector = 0x40}));
      rig_.events(vcpu).request(cpu::VcpuEvents::kKick);
    }
  }

  Random random_;
  unsigned vcpus_;
  GuestRig rig_;
  bool wild_ = false;
};

class TranslatedCode : public testing::Test {
 protected:
  TranslatedCode() {
    void* shared = mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    VERT_CHECK(shared != MAP_FAILED);
    progress_ = new (shared) Progress;
  }
  ~TranslatedCode() override { munmap(progress_, sizeof(Progress)); }

  static std::string engine_of(u64 seed) {
    static const std::vector<std::string> engines = {"bt", "bt_windows", "bt_no_looks",
                                                     "bt_windows_no_looks"};
    return engines[seed % engines.size()];
  }

  /// Runs some guests in a child process; false if one went wrong.
  bool run_batch(u64 first, u64 end) {
    const pid_t child = fork();
    VERT_CHECK(child >= 0);
    if (child == 0) run_child(first, end);
    const int status = wait_for(child);
    if (status == 0) return true;
    const u64 seed = progress_->seed;
    ADD_FAILURE() << "guest " << seed << " on " << engine_of(seed)
                  << (hung_ ? std::string(" hangs") : fmt::format(" ends the process: status {:x}", status));
    return false;
  }
  [[nodiscard]] const Progress& progress() const { return *progress_; }

 private:
  [[noreturn]] void run_child(u64 first, u64 end) {
    constexpr int kBadState = 3;
    for (u64 seed = first; seed < end; ++seed) {
      progress_->seed = seed;
      const Status valid = Guest(seed, engine_of(seed)).run(*progress_);
      if (valid) continue;
      fmt::print(stderr, "guest {}: {}\n", seed, valid.error().message);
      _exit(kBadState);
    }
    _exit(0);
  }
  /// Its wait status. A child without progress for long is killed.
  int wait_for(pid_t child) {
    constexpr auto kPatience = 60s;
    int status = 0;
    u64 runs = progress_->runs;
    auto deadline = Clock::now() + kPatience;
    while (waitpid(child, &status, WNOHANG) == 0) {
      std::this_thread::sleep_for(5ms);
      if (const u64 now = progress_->runs; now != runs) {
        runs = now;
        deadline = Clock::now() + kPatience;
      }
      if (Clock::now() < deadline) continue;
      hung_ = true;
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      break;
    }
    return status;
  }

  Progress* progress_;
  bool hung_ = false;
};

u64 number_from(const char* variable) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 0;
}

TEST_F(TranslatedCode, NeitherCrashesNorHangsNorBreaksTheState) {
  if (engine_names().size() < 2) GTEST_SKIP() << "no translator here";
  constexpr u64 kShortRun = 64;
  constexpr u64 kBatch = 16;
  const u64 first = number_from("VERT_FUZZ_FIRST");
  const auto end = Clock::now() + std::chrono::seconds(number_from("VERT_FUZZ_SECONDS"));
  u64 seed = first;
  for (; seed < first + kShortRun || Clock::now() < end; seed += kBatch)
    if (!run_batch(seed, seed + kBatch)) break;
  fmt::print("{} guests, {} runs\n", seed - first, progress().runs.load());
  // Guests that never get anywhere would test nothing.
  EXPECT_GT(progress().runs, (seed - first) * 4);
}

}  // namespace
}  // namespace vert::test

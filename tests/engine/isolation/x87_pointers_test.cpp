// FIP, FOP and FDP tell what the guest ran, on every engine, and nothing of where the host keeps code and
// data.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>

#include <fmt/format.h>

#include "cpu/x87_pointers.hpp"
#include "support/assembler.hpp"
#include "support/engines.hpp"
#include "support/guest_rig.hpp"
#include "x86/exception.hpp"
#include "x86/registers.hpp"

namespace vert::test {
namespace {

using namespace x86;

constexpr u64 kCode = 0x40'0000;  // user pages, below 2^32
constexpr u64 kData = 0x50'0000;
constexpr u64 kImage = kData + 0x200;  // what the guest saves
constexpr u64 kUnmapped = 0x60'0000;
constexpr Gpa kKernelCode{0x18'0000};
constexpr unsigned kTurns = 3;  // the first finds no code, the last all of it linked

/// Code that saves the x87's environment at kImage, and ends.
struct SaveForm {
  const char* name;
  std::vector<u8> load;  // from [rbx]
  std::vector<u8> save;  // to [rdi]
  bool wide = false;     // pointers of 64 bits
};
const std::vector<SaveForm>& save_forms() {
  static const std::vector<SaveForm> kForms = {
      {"fxsave64", {0x48, 0x0F, 0xAE, 0x0B}, {0x48, 0x0F, 0xAE, 0x07}, true},
      {"xsave64", {0x48, 0x0F, 0xAE, 0x2B}, {0x48, 0x0F, 0xAE, 0x27}, true},
      {"fxsave", {0x0F, 0xAE, 0x0B}, {0x0F, 0xAE, 0x07}, false},
  };
  return kForms;
}

void append(Assembler& a, const std::vector<u8>& code) {
  for (const u8 byte : code) a.bytes({byte});
}

/// A machine with user pages for code and data.
struct UserMachine {
  explicit UserMachine(const std::string& engine, const std::string& model = "host")
      : rig(engine, 1, GuestRig::kRamSize, model) {
    code = rig.map(kCode, 1, {true, false, true});
    data = rig.map(kData, 4, {true, true, false});
  }
  void start(const std::vector<u8>& bytes, bool narrow = false) {
    rig.write_host(code, bytes);
    cpu::CpuState state = rig.initial_state(kCode, kData + 0x1F00, 3);
    state.gpr[kRsi] = kData;
    state.gpr[kRdx] = kUnmapped;
    state.gpr[kRdi] = kImage;
    if (narrow) {
      state.seg(kDs) = state.seg(kEs) = state.seg(kSs);
      state.seg(kCs).selector = kUserCs32;
      state.seg(kCs).attributes =
          static_cast<u16>((state.seg(kCs).attributes & ~unsigned{Segment::kL}) | Segment::kDb);
    }
    rig.set_state(state);
  }
  [[nodiscard]] u8 run() {
    (void)rig.run(cpu::kNoBudget);
    return rig.caught().value_or(Caught{}).vector;
  }

  GuestRig rig;
  u8* code;
  u8* data;
};

/// Some code and what of it the pointers are to name at its end.
struct Piece {
  const char* name;
  std::function<void(Assembler&)> write;
  u8 vector = kBP;
  bool narrow = false;  // 32-bit code
};

void unmask_all(Assembler& a) { a.bytes({0xD9, 0x6E, 0x40}); }  // fldcw [rsi + 64], which is 0

/// All end with an unmasked exception pending, so that XSAVE shows the pointers on AMD's processors, too: but
/// those of which only FNSTENV tells.
std::vector<Piece> pieces() {
  const auto divide = [](Assembler& a) {
    unmask_all(a);
    a.bytes({0xD9, 0xEE, 0xDC, 0x3E});  // fldz; fdivr qword [rsi]
  };
  return {
      {"a run",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0xDC, 0x46, 0x08, 0xD9, 0xE8});
       }},
      {"registers change behind it",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0x31, 0xF6});
       }},
      {"registers change within it",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0x48, 0x83, 0xC6, 0x08, 0xD9, 0xE8});
       }},
      {"an exit behind it",
       [](Assembler& a) {
         a.bytes({0xDD, 0x46, 0x08, 0x31, 0xC0, 0x0F, 0xA2});
       }},
      {"a page fault within it",
       [](Assembler& a) {
         a.bytes({0xDD, 0x46, 0x08, 0xD9, 0xE8, 0xDC, 0x02});
       },
       kPF},
      {"a page fault right behind",
       [](Assembler& a) {
         a.bytes({0xD9, 0xE8, 0xDD, 0x06, 0x8B, 0x02});
       },
       kPF},
      {"an operand over a page's end",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0xDD, 0x86}).value(u32{0xFFC}).bytes({0xD9, 0xE8});
       }},
      {"registers that have no home",
       [](Assembler& a) {
         a.bytes({0x49, 0x89, 0xF2, 0x4D, 0x31, 0xF6});        // mov r10, rsi; xor r14, r14
         a.bytes({0x43, 0xDD, 0x44, 0xF2, 0x08, 0xD9, 0xE8});  // fld qword [r10 + r14 * 8 + 8]; fld1
       }},
      {"addresses of 32 bits",
       [](Assembler& a) {
         a.bytes({0x67, 0xDD, 0x46, 0x10, 0xD9, 0xE8});
       }},
      {"the stack",
       [](Assembler& a) {
         a.bytes({0xDD, 0x44, 0x24, 0xF8, 0x54, 0x5C});
       }},
      {"FNINIT behind it",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0xDB, 0xE3});
       }},
      {"FNINIT before it",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0xDB, 0xE3, 0xD9, 0xE8});
       }},
      {"a branch behind it",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0xEB, 0x00, 0x90});
       }},
      {"an exception", divide},
      {"an exception that is then seen", [=](Assembler& a) { divide(a), a.bytes({0x9B}); }, kMF},
      {"an exception and FNCLEX",
       [=](Assembler& a) {
         divide(a), a.bytes({0xDB, 0xE2});
       }},
      {"an exception that FLDCW unmasks",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0xD9, 0xEE, 0xDC, 0x3E, 0xD9, 0xE8});  // fld [rsi]; fldz; fdivr [rsi]; fld1
         unmask_all(a);
       }},
      {"MMX behind it",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0x0F, 0x6F, 0x06, 0x0F, 0x77});
       }},
      {"32-bit code",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0xDC, 0x46, 0x08, 0xD9, 0xE8});
       },
       kBP, true},
      {"an exception in 32-bit code", divide, kBP, true},
      {"a page fault in 32-bit code",
       [](Assembler& a) {
         a.bytes({0xDD, 0x06, 0xDC, 0x02});
       },
       kPF, true},
  };
}

class X87Pointers : public testing::TestWithParam<std::string> {};

/// By the rules of this host's vendor, and of others.
class X87PointerRules : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(X87PointerRules, AreTheInterpreters) {
  const auto& [engine, model] = GetParam();
  if (!CpuModel::make(model)) GTEST_SKIP() << "SKIP: no " << model << " on this host";
  UserMachine tested(engine, model);
  UserMachine reference("interp", model);
  for (UserMachine* machine : {&tested, &reference}) {
    const std::array<double, 4> numbers = {1.5, 2.5, 3.5, 4.5};
    std::memcpy(machine->data, numbers.data(), sizeof numbers);
  }
  constexpr std::size_t kSaved = 512;
  for (const Piece& piece : pieces()) {
    for (unsigned form = 0; form <= save_forms().size(); ++form) {
      const bool environment = form == save_forms().size();
      if (piece.narrow && !environment && save_forms()[form].wide) continue;
      SCOPED_TRACE(fmt::format("{}, {}", piece.name, environment ? "fnstenv" : save_forms()[form].name));
      Assembler a(kCode);
      piece.write(a);
      a.bytes({0xB8}).value(u32{1}).bytes({0x31, 0xD2});  // mov eax, 1; xor edx, edx
      environment ? append(a, {0xD9, 0x37}) : append(a, save_forms()[form].save);
      a.bytes({0xCC});
      const std::vector<u8> code = a.finish();
      for (unsigned turn = 0; turn < kTurns; ++turn) {
        for (UserMachine* machine : {&tested, &reference}) {
          machine->start(code, piece.narrow);
          ASSERT_EQ(machine->run(), piece.vector);
        }
        const cpu::FpuState& mine = tested.rig.state().fpu;
        const cpu::FpuState& wanted = reference.rig.state().fpu;
        EXPECT_EQ(mine.fip, wanted.fip);
        EXPECT_EQ(mine.fdp, wanted.fdp);
        EXPECT_EQ(mine.fop, wanted.fop);
        EXPECT_EQ(mine.fcs, wanted.fcs);
        EXPECT_EQ(mine.fds, wanted.fds);
        EXPECT_LT(wanted.fip, kCode + kPageSize);
        EXPECT_LT(wanted.fdp, kData + 4 * kPageSize);
        const std::size_t image = kImage - kData;
        EXPECT_EQ(std::memcmp(tested.data + image, reference.data + image, kSaved), 0) << "what it saved";
        if (HasFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, X87PointerRules,
                         testing::Combine(testing::ValuesIn(engine_names()),
                                          testing::Values("host", "x86-64-v3",
                                                          "x86-64-v3,+FDP_EXCPTN_ONLY,+ZERO_FCS_FDS")),
                         [](const auto& parameter) {
                           const std::string& model = std::get<1>(parameter.param);
                           return std::get<0>(parameter.param) + (model == "host" ? "_host"
                                                                  : model.find('+') == std::string::npos
                                                                      ? "_all_data"
                                                                      : "_raised_data");
                         });

/// Where this process has something mapped: what a guest would like to find out.
std::vector<u64> host_addresses() {
  std::vector<u64> addresses;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::size_t dash = line.find('-');
    const u64 begin = std::stoull(line, nullptr, 16);
    const u64 end = std::stoull(line.substr(dash + 1), nullptr, 16);
    if (end > u64{1} << 47) continue;
    for (const u64 offset : {u64{0}, u64{0x123}, (end - begin) / 2}) addresses.push_back(begin + offset);
  }
  return addresses;
}

/// With XRSTOR and its kin a guest can ask whether some number is an address of the host's: if what comes
/// back depends on it, it has an answer.
TEST_P(X87Pointers, ComeBackAsTheyWereLoaded) {
  UserMachine machine(GetParam());
  constexpr u64 kLoaded = kData + 0x1000;
  constexpr std::size_t kFcw = 0, kFip = 8, kFdp = 16, kMxcsr = 24, kHeader = 512;
  const bool selectors = cpu::x87_pointer_rules(machine.rig.model()).selectors;
  for (const SaveForm& form : save_forms()) {
    SCOPED_TRACE(form.name);
    Assembler a(kCode);
    a.bytes({0xBB}).value(static_cast<u32>(kLoaded));   // mov ebx, kLoaded
    a.bytes({0xB8}).value(u32{1}).bytes({0x31, 0xD2});  // mov eax, 1; xor edx, edx
    append(a, form.load);
    a.bytes({0x0F, 0x57, 0xC0});  // xorps xmm0, xmm0
    append(a, form.save);
    a.bytes({0xCC});
    const std::vector<u8> code = a.finish();
    for (const u64 address : host_addresses()) {
      u8* loaded = machine.data + (kLoaded - kData);
      std::memset(loaded, 0, 1024);
      const u32 controls = 0x8081'037E;  // an unmasked exception is pending
      const u32 mxcsr = 0x1F80;
      const u64 present = 1;
      std::memcpy(loaded + kFcw, &controls, sizeof controls);
      std::memcpy(loaded + kFip, &address, sizeof address);
      std::memcpy(loaded + kFdp, &address, sizeof address);
      std::memcpy(loaded + kMxcsr, &mxcsr, sizeof mxcsr);
      std::memcpy(loaded + kHeader, &present, sizeof present);
      machine.start(code);
      ASSERT_EQ(machine.run(), kBP);
      const u64 wanted = form.wide ? address : address & (selectors ? 0xFFFF'FFFF'FFFF : 0xFFFF'FFFF);
      u64 fip = 0, fdp = 0;
      std::memcpy(&fip, machine.data + (kImage - kData) + kFip, sizeof fip);
      std::memcpy(&fdp, machine.data + (kImage - kData) + kFdp, sizeof fdp);
      ASSERT_EQ(fip, wanted);
      ASSERT_EQ(fdp, wanted);
    }
  }
}

/// Signals of the translator's own come each 10 ms, and take the host's pointers along on AMD's processors.
TEST_P(X87Pointers, SurviveSignals) {
  UserMachine machine(GetParam());
  Assembler a(kCode);
  const u32 turns = GetParam() == "interp" ? 1 : 40;  // which has no such signals, and is slow
  a.bytes({0x41, 0xB8}).value(turns);                 // mov r8d, turns
  a.label("again").bytes({0xDB, 0xE3});               // fninit
  const auto loads = static_cast<u32>(a.here());
  a.bytes({0xDD, 0x06});                                             // fld qword [rsi]
  a.bytes({0xB9}).value(u32{3'000'000});                             // mov ecx, 3000000
  a.label("wait").bytes({0xFF, 0xC9}).branch({0x0F, 0x85}, "wait");  // dec ecx; jnz
  a.bytes({0xD9, 0x37, 0x81, 0x7F, 0x0C}).value(loads);  // fnstenv [rdi]; cmp dword [rdi + 12], loads
  a.branch({0x0F, 0x85}, "lost");
  a.bytes({0x41, 0xFF, 0xC8}).branch({0x0F, 0x85}, "again");  // dec r8d; jnz
  a.bytes({0xCC});
  a.label("lost").bytes({0x0F, 0x0B});  // ud2
  machine.start(a.finish());
  EXPECT_EQ(machine.run(), kBP);
}

/// FCS and FDS are the selectors of the instruction, not of whoever asks.
TEST_P(X87Pointers, NameTheSegmentsOfTheInstruction) {
  UserMachine machine(GetParam());
  GuestRig& rig = machine.rig;
  if (!cpu::x87_pointer_rules(rig.model()).selectors) GTEST_SKIP() << "FCS and FDS read as zero here";
  Assembler kernel(GuestRig::direct(kKernelCode));
  kernel.bytes({0xDB, 0xE3, 0xDD, 0x04, 0x24});                         // fninit; fld qword [rsp]
  kernel.bytes({0x6A, kUserDs, 0x68}).value(u32{kData + 0x1F00});       // push SS, RSP,
  kernel.bytes({0x68}).value(u32{0x202}).bytes({0x6A, kUserCs, 0x68});  // RFLAGS, CS,
  kernel.value(u32{kCode}).bytes({0x48, 0xCF});                         // and RIP; iretq
  rig.write(kKernelCode, kernel.finish());
  Assembler user(kCode);
  user.bytes({0xD9, 0x37, 0xCC});  // fnstenv [rdi]
  rig.write_host(machine.code, user.finish());
  for (unsigned turn = 0; turn < kTurns; ++turn) {
    cpu::CpuState state =
        rig.initial_state(GuestRig::direct(kKernelCode), GuestRig::kernel_stack_top() - 0x1000, 0);
    state.gpr[kRdi] = kImage;
    rig.set_state(state);
    ASSERT_EQ(machine.run(), kBP);
    u16 fcs = 0, fds = 0;
    std::memcpy(&fcs, machine.data + (kImage - kData) + 16, sizeof fcs);
    std::memcpy(&fds, machine.data + (kImage - kData) + 24, sizeof fds);
    EXPECT_EQ(fcs, kKernelCs);
    EXPECT_EQ(fds, state.seg(kSs).selector);
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, X87Pointers, testing::ValuesIn(engine_names()),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace vert::test

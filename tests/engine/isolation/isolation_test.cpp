// Guest code that reads and writes wherever it likes, at every privilege level and in every way there is: it
// sees and changes nothing but its own memory, and gets the fault that the architecture has for it.
//
// Each piece of code (forms.hpp) runs in a loop that takes addresses from a table, on the engine under test
// and on the reference, in machines that are the same to the byte. First ten thousand good addresses, so that
// the code is translated, linked and has its pages at hand; then, in mid-loop, a wild one. After each, all
// registers and what the fault left are compared, and after each piece of code all of RAM. Among the wild
// addresses are those of this process's own memory, plain and as a translator would have to be led to them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "engine/isolation/forms.hpp"
#include "support/assembler.hpp"
#include "support/engines.hpp"
#include "support/guest_rig.hpp"
#include "support/random.hpp"
#include "x86/exception.hpp"

namespace vert::test {
namespace {

using namespace x86;

enum class Level { kKernel, kKernelSmap, kUser, kUser32 };

constexpr u64 kUserCode = 0x40'0000;
constexpr Gpa kKernelCode{0x18'0000};
constexpr u64 kTable = 0x5000'0000;
constexpr u64 kTablePages = 24;
constexpr u64 kReadOnlyPage = 0x2000'4000;
constexpr u64 kOtherLevelPage = 0x2000'6000;  // the kernel's for user code, and the other way round
constexpr u64 kSentinel = 0x5A5A'5A5A'5A5A'5A5A;
constexpr u32 kSentinel32 = 0x5A5A'5A5A;
constexpr unsigned kWarmTurns = 10'000;
constexpr u64 kGoodSize = 2 * kPageSize;

/// What no guest may ever change or see.
alignas(kPageSize) std::array<u8, 3 * kPageSize> canary;

u8 canary_byte(std::size_t i) { return static_cast<u8>(i * 37 + 11); }

bool is_32_bit(Level level) { return level == Level::kUser32; }
bool is_user(Level level) { return level == Level::kUser || level == Level::kUser32; }

/// One of the two machines, with code, table and pages for a level.
class Machine {
 public:
  Machine(const std::string& engine, Level level);

  void load(std::span<const u8> code) {
    rig_.write_host(code_, code);
    fill_good_pages(next_);
  }
  /// `next` is where pieces that branch go on.
  std::vector<u8> assemble(const AccessForm& form);
  /// Runs through these addresses; `cold`: with nothing at hand but the translation.
  void run(std::span<const u64> addresses, bool cold);

  [[nodiscard]] GuestRig& rig() { return rig_; }
  [[nodiscard]] u64 good_host() const { return reinterpret_cast<u64>(good_); }

 private:
  [[nodiscard]] cpu::CpuState state_for() const;
  void fill_good_pages(u64 next);

  GuestRig rig_;
  Level level_;
  u64 code_address_;
  u8* code_ = nullptr;
  u8* good_ = nullptr;
  u8* table_ = nullptr;
  u64 next_ = 0;
};

Machine::Machine(const std::string& engine, Level level) : rig_(engine), level_(level) {
  const bool user = is_user(level);
  if (user) {
    code_address_ = kUserCode;
    code_ = rig_.map(kUserCode, 1, {true, false, true});
  } else {
    code_address_ = GuestRig::direct(kKernelCode);
    code_ = rig_.host(kKernelCode, kPageSize);
  }
  good_ = rig_.map(kGoodPages, kGoodSize / kPageSize, {user, true, false});
  table_ = rig_.map(kTable, kTablePages, {user, false, false});
  rig_.map(kReadOnlyPage, 1, {user, false, false});
  rig_.map(kOtherLevelPage, 1, {!user, true, false});
  // Faults in the kernel come on a stack of their own, for its stack pointer may be wild.
  constexpr u64 kIst1 = 0x24;
  const u64 top = GuestRig::kernel_stack_top();
  std::memcpy(rig_.host(GuestRig::tss() + kIst1, sizeof top), &top, sizeof top);
  for (const u8 vector : {kDE, kDB, kBP, kUD, kNM, kDF, kNP, kSS, kGP, kPF, kMF, kAC, kXM})
    rig_.set_gate(vector, GuestRig::stub(vector), vector == kBP ? 3 : 0, 1);
}

std::vector<u8> Machine::assemble(const AccessForm& form) {
  const auto piece = [&](Assembler& a) {
    for (const u8 byte : form.code) a.bytes({byte});
    a.label("next");
  };
  Assembler a(code_address_);
  a.label("loop");
  if (is_32_bit(level_)) {
    a.bytes({0x8B, 0x1A, 0x81, 0xFB})
        .value(kSentinel32)
        .branch({0x0F, 0x84}, "done");  // mov ebx, [edx]; cmp; je
    piece(a);
    a.bytes({0x8D, 0x52, 0x08});  // lea edx, [edx+8]
  } else {
    a.bytes({0x49, 0x8B, 0x18, 0x4C, 0x39, 0xCB}).branch({0x0F, 0x84}, "done");  // mov rbx, [r8]; cmp rbx, r9
    piece(a);
    a.bytes({0x4D, 0x8D, 0x40, 0x08});  // lea r8, [r8+8]
  }
  a.branch({0xE9}, "loop").label("done").bytes({0xCC});
  next_ = a.address("next");
  return a.finish();
}

void Machine::fill_good_pages(u64 next) {
  std::vector<u8> bytes(kGoodSize);
  for (std::size_t at = 0; at < bytes.size(); at += sizeof next) std::memcpy(&bytes[at], &next, sizeof next);
  rig_.write_host(good_, bytes);
}

cpu::CpuState Machine::state_for() const {
  constexpr u64 kCode32User = 0x00CF'FB00'0000'FFFF;
  constexpr u64 kDataUser = 0x00CF'F300'0000'FFFF;
  cpu::CpuState state = rig_.initial_state(code_address_, kGoodPages + 0x800, is_user(level_) ? 3 : 0);
  for (unsigned i = 0; i < state.gpr.size(); ++i)
    if (i != kRsp) state.gpr[i] = u64{0x1111'1111'1111'1111} * i;
  state.gpr[kRax] = 0x0123'4567'89AB'CDE7;
  state.gpr[kR8] = state.gpr[kRdx] = kTable;
  state.gpr[kR9] = kSentinel;
  for (std::size_t i = 0; i < state.fpu.zmm.size(); ++i)
    for (std::size_t k = 0; k < state.fpu.zmm[i].size(); ++k)
      state.fpu.zmm[i][k] = static_cast<u8>(i * 64 + k);
  if (level_ == Level::kKernelSmap) state.cr4 |= cr4::SMAP;
  if (!is_32_bit(level_)) {
    state.seg(kFs).base = kFsBase;
    state.seg(kGs).base = kGsBase;
    return state;
  }
  state.seg(kCs) = Descriptor{kCode32User}.to_segment(kUserCs32);
  for (const SegmentRegister data : {kDs, kEs, kSs, kFs, kGs})
    state.seg(data) = Descriptor{kDataUser}.to_segment(kUserDs);
  state.seg(kFs).base = state.seg(kGs).base = kFsBase32;
  for (u64& value : state.gpr) value &= 0xFFFF'FFFF;
  return state;
}

void Machine::run(std::span<const u64> addresses, bool cold) {
  std::vector<u64> table(addresses.begin(), addresses.end());
  table.push_back(kSentinel);
  ASSERT_LE(table.size() * sizeof(u64), kTablePages * kPageSize);
  rig_.write_host(table_, {reinterpret_cast<const u8*>(table.data()), table.size() * sizeof(u64)});
  if (cold)
    rig_.set_state(state_for());
  else
    rig_.state() = state_for();
  ASSERT_EQ(rig_.run(cpu::kNoBudget).reason, cpu::Exit::kHalt);
}

/// Addresses that are not the guest's, or only in part.
class Targets {
 public:
  Targets(Machine& tested, Level level);
  struct Target {
    u64 address;
    bool wild;  // nothing that the level may access begins here
  };
  [[nodiscard]] const std::vector<Target>& all() const { return targets_; }

 private:
  void wild(u64 address) { targets_.push_back({address, true}); }
  void mixed(u64 address) { targets_.push_back({address, false}); }
  void add_neighbours();
  void add_canonical_ends();
  void add_host(Machine& tested);

  Level level_;
  std::vector<Target> targets_;
};

Targets::Targets(Machine& tested, Level level) : level_(level) {
  add_neighbours();
  add_canonical_ends();
  add_host(tested);
  Random random(static_cast<u64>(level) + 1);
  for (unsigned i = 0; i < 24; ++i) mixed(random.next() >> random.below(48));
  if (!is_32_bit(level)) return;
  // Sign- and zero-extension make no difference to 32-bit code: it loads the low half.
  for (Target& target : targets_) {
    target.wild = target.wild && target.address <= 0xFFFF'FFFF;
    target.address &= 0xFFFF'FFFF;
  }
  std::erase_if(targets_, [](const Target& target) { return target.address == kSentinel32; });
}

/// Pages' ends, and addresses that differ from good ones in one bit: they have the same place in caches.
void Targets::add_neighbours() {
  const u64 end = kGoodPages + kGoodSize;
  for (const u64 below : {1U, 2U, 4U, 7U, 8U, 15U, 16U, 31U, 63U}) {
    mixed(end - below);
    mixed(kGoodPages - below);
    mixed(kGoodPages + kPageSize - below);  // crosses into a page that is there
  }
  wild(end);
  wild(kGoodPages - 64);
  mixed(kReadOnlyPage);
  mixed(kReadOnlyPage + kPageSize - 4);
  mixed(kOtherLevelPage);
  mixed(kOtherLevelPage + 8);
  for (const u64 good : {kGoodPages, kGoodPages + kPageSize, kTable})
    for (unsigned bit = kPageShift; bit < 64; ++bit)
      for (const u64 offset : {u64{0x18}, kPageSize - 4}) mixed((good ^ u64{1} << bit) + offset);
}

void Targets::add_canonical_ends() {
  for (const u64 size : {1U, 2U, 4U, 8U, 16U, 32U, 64U}) {
    wild((u64{1} << 47) - size);  // the last bytes of the lower half, and over its end
    wild((u64{1} << 47) - size + 1);
    wild(0 - size);  // the last bytes of all, and over their end to 0
    wild(0 - size + 1);
    wild(0xFFFF'8000'0000'0000 - size);  // up to where the upper half begins, and into it
    mixed(0xFFFF'8000'0000'0000 - size + 1);
    mixed(GuestRig::kDirectMap + GuestRig::kRamSize - size + 1);
    mixed(0xFFFF'FFFF - size + 1);
    mixed(0xFFFF'FFFF - size + 2);
  }
  wild(u64{1} << 47);
  wild(0x1234'5678'9ABC'DEF0);
  wild(0x8000'0000'0000'0000);
  wild(0x7FFF'FFFF'FFFF'FFFF);
  wild(GuestRig::kDirectMap + GuestRig::kRamSize);
  for (const u64 low : {u64{0}, u64{8}, kPageSize - 1, kPageSize}) wild(low);
  // Ends of the stretches that one top-level entry maps.
  for (u64 entry = 1; entry < 256; entry += 36) {
    wild((entry << 39) - 4);
    wild((0xFFFF'8000'0000'0000 | entry << 39) - 4);
  }
}

/// This process's memory: as it lies, and where a translator's sum of a guest address and the distance to the
/// host's would reach it.
void Targets::add_host(Machine& tested) {
  GuestRig& rig = tested.rig();
  const auto ram = reinterpret_cast<u64>(rig.host(Gpa(0)));
  static const u64 kLocal = reinterpret_cast<u64>(&kLocal);
  const u64 places[] = {reinterpret_cast<u64>(canary.data()) + kPageSize,
                        ram,
                        ram - 8,
                        ram - 4,
                        ram + rig.memory().size(),
                        ram + rig.memory().size() - 4,
                        reinterpret_cast<u64>(&rig.state()),
                        reinterpret_cast<u64>(&rig.engine()),
                        reinterpret_cast<u64>(&kLocal),
                        reinterpret_cast<u64>(&ram),
                        reinterpret_cast<u64>(&std::memcpy)};
  for (const u64 place : places) {
    wild(place);
    mixed(place - (tested.good_host() - kGoodPages));
    mixed(place - (ram - GuestRig::kDirectMap));
    mixed(place - ram);
  }
}

/// What both must agree in. Arithmetic flags at a fault that the code would overwrite are left to the
/// differential test.
std::string difference(GuestRig& tested, GuestRig& reference) {
  std::string text;
  const auto number = [&](std::string_view name, u64 mine, u64 wanted) {
    if (mine != wanted) text += fmt::format("  {} is {:x}, must be {:x}\n", name, mine, wanted);
  };
  const auto mine_caught = tested.caught();
  const auto wanted_caught = reference.caught();
  if (!mine_caught || !wanted_caught) return "  no exception\n";
  const Caught& mine = *mine_caught;
  const Caught& wanted = *wanted_caught;
  number("vector", mine.vector, wanted.vector);
  number("error code", mine.error_code.value_or(0), wanted.error_code.value_or(0));
  number("pushed rip", mine.rip, wanted.rip);
  number("pushed cs", mine.cs, wanted.cs);
  number("pushed rsp", mine.rsp, wanted.rsp);
  number("pushed ss", mine.ss, wanted.ss);
  number("pushed rflags", mine.rflags & ~u64{rflags::kArithmetic}, wanted.rflags & ~u64{rflags::kArithmetic});
  cpu::CpuState left = tested.state();
  cpu::CpuState right = reference.state();
  for (unsigned i = 0; i < kGprCount; ++i) number(fmt::format("gpr {}", i), left.gpr[i], right.gpr[i]);
  number("cr2", left.cr2, right.cr2);
  for (cpu::CpuState* state : {&left, &right}) {
    state->rflags &= ~u64{rflags::kArithmetic};
    state->tsc_offset = 0;
  }
  if (text.empty() && left != right) text = "  some other part of the state differs\n";
  return text;
}

/// The page of RAM that differs, if any does. The frame of a fault holds flags, which may.
std::optional<u64> differing_page(GuestRig& tested, GuestRig& reference) {
  const u64 stack = GuestRig::kernel_stack_top() - GuestRig::kDirectMap - kPageSize;
  for (u64 page = 0; page < tested.memory().size(); page += kPageSize) {
    if (page == stack) continue;
    if (std::memcmp(tested.host(Gpa(page), kPageSize), reference.host(Gpa(page), kPageSize), kPageSize) != 0)
      return page;
  }
  return std::nullopt;
}

class IsolationTest : public testing::TestWithParam<std::tuple<std::string, Level>> {
 protected:
  void SetUp() override {
    for (std::size_t i = 0; i < canary.size(); ++i) canary[i] = canary_byte(i);
  }
  void TearDown() override {
    for (std::size_t i = 0; i < canary.size(); ++i) ASSERT_EQ(canary[i], canary_byte(i)) << "canary at " << i;
  }
  void check(const AccessForm& form);
  void check_target(const AccessForm& form, const Targets::Target& target, bool cold);

  const std::string engine_ = std::get<0>(GetParam());
  const Level level_ = std::get<1>(GetParam());
  Machine tested_{engine_, level_};
  Machine reference_{"interp", level_};
  Targets targets_{tested_, level_};
};

void IsolationTest::check(const AccessForm& form) {
  SCOPED_TRACE(std::string(form.name));
  for (Machine* machine : {&tested_, &reference_}) machine->load(machine->assemble(form));
  // Good addresses first, of both pages, apart from where pieces keep their stack.
  std::vector<u64> good;
  Random random(1);
  for (unsigned i = 0; i < kWarmTurns; ++i) good.push_back(kGoodPages + 0x100 + random.below(0x60) * 16);
  for (Machine* machine : {&tested_, &reference_}) machine->run(good, true);
  ASSERT_EQ(difference(tested_.rig(), reference_.rig()), "") << "with good addresses";
  unsigned turn = 0;
  for (const Targets::Target& target : targets_.all()) {
    check_target(form, target, ++turn % 4 == 0);
    if (HasFailure()) return;
  }
  const auto page = differing_page(tested_.rig(), reference_.rig());
  EXPECT_FALSE(page.has_value()) << fmt::format("guest memory at {:x} differs", *page);
}

void IsolationTest::check_target(const AccessForm& form, const Targets::Target& target, bool cold) {
  const u64 addresses[] = {kGoodPages + 0x200, kGoodPages + 0x240, target.address, kGoodPages + 0x280};
  for (Machine* machine : {&tested_, &reference_}) machine->run(addresses, cold);
  const std::string text = difference(tested_.rig(), reference_.rig());
  EXPECT_EQ(text, "") << fmt::format("at address {:x}, {}", target.address, cold ? "cold" : "hot");
  if (!form.direct || !target.wild) return;
  const u8 vector = tested_.rig().caught().value_or(Caught{}).vector;
  EXPECT_TRUE(vector == kGP || vector == kSS || vector == kPF)
      << fmt::format("vector {} at address {:x}", vector, target.address);
}

TEST_P(IsolationTest, WildAccessesFaultAndChangeNothing) {
  if (is_32_bit(level_)) {
    for (const AccessForm& form : forms32()) check(form);
    return;
  }
  const CpuModel& model = tested_.rig().model();
  for (const AccessForm& form : forms64()) check(form);
  if (model.has(Feature::AVX2) && model.has(Feature::BMI2))
    for (const AccessForm& form : forms_avx()) check(form);
  if (model.has(Feature::AVX512F) && model.has(Feature::AVX512BW))
    for (const AccessForm& form : forms_avx512()) check(form);
}

/// Addresses that the instruction itself names: absolute ones of 32 and 64 bits, and relative ones.
TEST_P(IsolationTest, ConstantAddressesAreNoBetter) {
  const bool narrow = is_32_bit(level_);
  for (const Targets::Target& target : targets_.all()) {
    std::vector<AccessForm> forms;
    const auto add = [&](std::string_view name, std::initializer_list<u8> opcode, unsigned size, u64 value) {
      AccessForm form{name, opcode, false};
      for (unsigned i = 0; i < size; ++i) form.code.push_back(static_cast<u8>(value >> 8 * i));
      forms.push_back(std::move(form));
    };
    const u64 address = target.address;
    if (narrow) {
      add("mov eax, [disp32]", {0x8B, 0x05}, 4, address);
      add("mov [moffs32], eax", {0xA3}, 4, address);
      add("mov fs:[disp32], eax", {0x64, 0x89, 0x05}, 4, address - kFsBase32);
    } else {
      add("mov rax, [moffs64]", {0x48, 0xA1}, 8, address);
      add("mov [moffs64], al", {0xA2}, 8, address);
      add("mov rax, fs:[moffs64]", {0x64, 0x48, 0xA1}, 8, address - kFsBase);
      add("mov rax, [disp32]", {0x48, 0x8B, 0x04, 0x25}, 4, address);
      add("mov [disp32], rax with 32-bit address", {0x67, 0x48, 0x89, 0x04, 0x25}, 4, address);
      add("movups xmm0, [rip+disp32]", {0x0F, 0x10, 0x05}, 4, address);
      add("lock inc dword [eip+disp32]", {0xF0, 0x67, 0xFF, 0x05}, 4, address);
    }
    for (const AccessForm& form : forms) {
      SCOPED_TRACE(std::string(form.name));
      for (Machine* machine : {&tested_, &reference_}) machine->load(machine->assemble(form));
      check_target(form, target, false);
      if (HasFailure()) return;
    }
  }
  const auto page = differing_page(tested_.rig(), reference_.rig());
  EXPECT_FALSE(page.has_value()) << fmt::format("guest memory at {:x} differs", *page);
}

std::string level_name(Level level) {
  switch (level) {
    case Level::kKernel: return "kernel";
    case Level::kKernelSmap: return "kernel_smap";
    case Level::kUser: return "user";
    case Level::kUser32: return "user32";
  }
  return "unknown";
}

INSTANTIATE_TEST_SUITE_P(Engines, IsolationTest,
                         testing::Combine(testing::ValuesIn(engine_names()),
                                          testing::Values(Level::kKernel, Level::kKernelSmap, Level::kUser,
                                                          Level::kUser32)),
                         [](const auto& instance) {
                           return std::get<0>(instance.param) + "_" + level_name(std::get<1>(instance.param));
                         });

}  // namespace
}  // namespace vert::test

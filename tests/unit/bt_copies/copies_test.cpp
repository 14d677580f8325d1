// Every instruction that the translator copies, on the host: it touches only what the check in front of it
// covers, and where it faults, that was expected.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/bt/copy_list.hpp"
#include "engine/bt/guest_insn.hpp"
#include "engine/bt/host_registers.hpp"
#include "engine/bt/rewrite.hpp"
#include "unit/bt_copies/host.hpp"
#include "x86/registers.hpp"

namespace vert::test {
namespace {

using Bytes = std::vector<u8>;

constexpr u8 kFill = 0x3F;
constexpr std::size_t kMaxLength = 15;

bt::Mode every_instruction(bool code32) {
  bt::Mode mode;
  mode.code32 = code32;
  mode.fpu = bt::fpu::kX87 | bt::fpu::kSse | bt::fpu::kAvx | bt::fpu::kAvx512;
  mode.fs_gs_base = true;
  return mode;
}

/// Calls `run` with the bytes of instructions: all legacy opcodes with prefixes, VEX and EVEX, on registers
/// and on [rbx] (modrm: 3).
class Encodings {
 public:
  template <typename Function>
  static void all(bool code32, Function&& run) {
    legacy(code32, run);
    vex(run);
    evex(run);
  }

 private:
  /// What may follow an opcode: enough for any immediate.
  static void finish(Bytes& bytes) {
    bytes.insert(bytes.end(), {0x01, 0, 0, 0, 0, 0, 0, 0, 0x90, 0x90});
    if (bytes.size() > kMaxLength) bytes.resize(kMaxLength);
  }

  template <typename Function>
  static void with_operands(const Bytes& opcode, std::span<const u8> registers, Function&& run) {
    for (unsigned reg = 0; reg < 8; ++reg) {
      const auto one = [&](u8 rm) {
        Bytes bytes = opcode;
        bytes.push_back(static_cast<u8>(reg << 3 | rm));
        finish(bytes);
        run(bytes);
      };
      one(x86::kRbx);
      for (const u8 rm : registers) one(0xC0 | rm);
    }
  }

  template <typename Function>
  static void legacy(bool code32, Function&& run) {
    static const std::array<Bytes, 14> kPrefixes = {
        Bytes{},      {0x66},       {0xF2},       {0xF3}, {0x66, 0xF2}, {0x66, 0xF3}, {0xF2, 0x66},
        {0xF3, 0x66}, {0xF2, 0xF3}, {0xF3, 0xF2}, {0xF0}, {0xF2, 0xF0}, {0xF3, 0xF0}, {0x66, 0xF0}};
    static const std::array<Bytes, 4> kEscapes = {Bytes{}, {0x0F}, {0x0F, 0x38}, {0x0F, 0x3A}};
    constexpr std::array<u8, 8> kAll = {0, 1, 2, 3, 4, 5, 6, 7};
    for (const Bytes& prefixes : kPrefixes)
      for (const u8 rex : std::to_array<u8>({0x00, 0x40, 0x48})) {
        if (code32 && rex != 0) continue;
        for (const Bytes& escape : kEscapes)
          for (unsigned opcode = 0; opcode < 256; ++opcode) {
            Bytes bytes = prefixes;
            if (rex != 0) bytes.push_back(rex);
            bytes.insert(bytes.end(), escape.begin(), escape.end());
            bytes.push_back(static_cast<u8>(opcode));
            with_operands(bytes, kAll, run);
          }
      }
  }

  template <typename Function>
  static void vex(Function&& run) {
    constexpr std::array<u8, 3> kSome = {0, 2, 7};
    for (const u8 map : std::to_array<u8>({1, 2, 3}))
      for (unsigned last = 0; last < 256; ++last) {  // W, vvvv, L, pp
        const unsigned vvvv = last >> 3 & 15;
        if (vvvv != 15 && vvvv != 1) continue;
        for (unsigned opcode = 0; opcode < 256; ++opcode)
          with_operands({0xC4, static_cast<u8>(0xE0 | map), static_cast<u8>(last), static_cast<u8>(opcode)},
                        kSome, run);
      }
  }

  template <typename Function>
  static void evex(Function&& run) {
    constexpr std::array<u8, 1> kOne = {2};
    for (const u8 map : std::to_array<u8>({1, 2, 3, 5, 6}))
      for (const u8 last :
           std::to_array<u8>({0x7C, 0x7D, 0x7E, 0x7F, 0xFC, 0xFD, 0xFE, 0xFF, 0x0C, 0x0D, 0x8C, 0x8D}))
        for (const u8 third :
             std::to_array<u8>({0x08, 0x09, 0x89, 0x18, 0x28, 0x29, 0xA9, 0x38, 0x48, 0x49, 0xC9, 0x58}))
          for (unsigned opcode = 0; opcode < 256; ++opcode)
            with_operands({0x62, static_cast<u8>(0xF0 | map), last, third, static_cast<u8>(opcode)}, kOne,
                          run);
  }
};

/// What was found, by kind, with an example of each.
class Findings {
 public:
  void add(const std::string& what, const std::string& example) { findings_.try_emplace(what, example); }
  [[nodiscard]] std::string text() const {
    std::string all;
    for (const auto& [what, example] : findings_) all += fmt::format("{}: {}\n", what, example);
    return all;
  }

 private:
  std::map<std::string, std::string> findings_;
};

class CopyTest : public testing::TestWithParam<bool> {
 protected:
  /// Runs the copy of the instruction that `bytes` begin with, if there is one.
  void check(const Bytes& bytes) {
    bt::decode_guest(bytes, 0x40'0000, every_instruction(GetParam()), *model_, guest_);
    if (guest_.insn.length == 0 || guest_.form != bt::Form::kCopy) return;
    bt::HostOperands operands;
    operands.gpr = bt::kHostRegister;
    if (guest_.has_memory()) {
      operands.memory = bt::HostOperands::Memory::kHost;
      operands.base = x86::kRbx;
    }
    std::array<u8, 16> copy{};
    const unsigned length = bt::rewrite(guest_.details.instruction, guest_.details.operands(),
                                        guest_.insn.encoding(), operands, copy);
    if (length == 0) return;
    copied_.insert(guest_.insn.mnemonic);
    const auto code = std::span(copy).first(length);
    if (guest_.has_memory()) return check_memory(code);
    const Outcome outcome = host_.run(code, kPageSize / 2);
    const bt::CopyRule* rule = bt::copy_rule(guest_.insn.mnemonic);
    if (outcome.signal != 0 && (rule == nullptr || rule->steady)) found("faults, though steady", code);
    if (outcome.signal == SIGSEGV && outcome.address != 0) found("has memory, though none is named", code);
  }

  void check_memory(std::span<const u8> code) {
    const std::size_t size = guest_.memory_size();
    for (const std::size_t offset : {std::size_t{0}, kPageSize - size}) {
      host_.fill_page(kFill);
      const Outcome outcome = host_.run(code, offset);
      const u64 at = outcome.address - reinterpret_cast<u64>(host_.page().data());
      // Accesses that must be aligned report no address.
      if (outcome.signal == SIGSEGV && outcome.address != 0 && at >= kPageSize)
        found(fmt::format("goes beyond its {} bytes", size), code);
      const auto page = host_.page();
      bool wrote = false;
      for (std::size_t i = 0; i < kPageSize; ++i) {
        if (page[i] == kFill) continue;
        wrote = true;
        if (i - offset >= size) found(fmt::format("writes outside its {} bytes", size), code);
      }
      if (wrote && !guest_.writes_memory) found("writes what it was said to read", code);
    }
  }

  void found(const std::string& what, std::span<const u8> code) {
    const auto& insn = guest_.insn;
    findings_.add(
        fmt::format("{} {}", ZydisMnemonicGetString(insn.mnemonic), what),
        fmt::format("guest {:02x}, host {:02x}", fmt::join(insn.encoding(), " "), fmt::join(code, " ")));
  }

  Result<x86::CpuModel> model_ = x86::CpuModel::make("host");
  Host host_;
  bt::GuestInsn guest_;
  std::set<u16> copied_;
  Findings findings_;
};

TEST_P(CopyTest, TouchesNothingButItsOperands) {
  ASSERT_TRUE(model_);
  Encodings::all(GetParam(), [&](const Bytes& bytes) { check(bytes); });
  EXPECT_EQ(findings_.text(), "");
  EXPECT_GT(copied_.size(), 500U);
}

INSTANTIATE_TEST_SUITE_P(Modes, CopyTest, testing::Values(false, true),
                         [](const auto& mode) { return mode.param ? "Code32" : "Code64"; });

TEST(CopyList, NamesEachInstructionOnce) {
  std::map<std::string_view, u16> known;
  for (u16 i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; ++i)
    known[ZydisMnemonicGetString(static_cast<ZydisMnemonic>(i))] = i;
  std::set<std::string_view> names;
  for (const bt::CopyGroup& group : bt::copy_groups())
    bt::for_each_name(group, [&](std::string_view name) {
      EXPECT_TRUE(known.contains(name)) << name;
      EXPECT_TRUE(names.insert(name).second) << name;
    });
}

/// Whatever the model and the host have.
TEST(CopyList, HasNoInstructionOfOneVendorOnly) {
  for (const ZydisMnemonic mnemonic :
       {ZYDIS_MNEMONIC_CLZERO, ZYDIS_MNEMONIC_EXTRQ, ZYDIS_MNEMONIC_INSERTQ, ZYDIS_MNEMONIC_MOVNTSS,
        ZYDIS_MNEMONIC_MOVNTSD, ZYDIS_MNEMONIC_MONITORX, ZYDIS_MNEMONIC_MWAITX, ZYDIS_MNEMONIC_RDPRU,
        ZYDIS_MNEMONIC_VMMCALL, ZYDIS_MNEMONIC_VMCALL, ZYDIS_MNEMONIC_VPERMIL2PD, ZYDIS_MNEMONIC_PFADD,
        ZYDIS_MNEMONIC_UMWAIT, ZYDIS_MNEMONIC_TPAUSE, ZYDIS_MNEMONIC_XBEGIN, ZYDIS_MNEMONIC_PCONFIG,
        ZYDIS_MNEMONIC_INCSSPQ, ZYDIS_MNEMONIC_RDSSPQ})
    EXPECT_EQ(bt::copy_rule(mnemonic), nullptr) << ZydisMnemonicGetString(mnemonic);
}

}  // namespace
}  // namespace vert::test

#include "diff/harness/recorded.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "diff/harness/decoder.hpp"
#include "diff/harness/native.hpp"
#include "x86/exception.hpp"

// recorded_cases.S
extern "C" const vert::diff::RecordedCase vert_diff_recorded[];
extern "C" const vert::diff::RecordedCase vert_diff_recorded_end[];

namespace vert::diff {

namespace {

// GuestExecutor runs code twice that begins here, and without a budget: as most code runs.
constexpr u64 kStart = kCodeBase + 2;
constexpr u64 kNumbers = kDataBase;
constexpr u64 kResults = kDataBase + 0x400;
constexpr u64 kUnmapped = kIslandBase + kPageSize;
constexpr u64 kStackTop = kStackBase + kPageSize / 2;

constexpr std::string_view kHead =
    "# What processors of this vendor leave behind recorded_cases.S, by `diff_runner --record FILE` on one.\n"
    "#\n"
    "# Under each case: the exception that ends it (3 is the INT3 behind it) with RIP's offset and RFLAGS, "
    "then\n"
    "# each register and each stretch of memory that changed, lowest byte first. Left out is what the "
    "engines\n"
    "# take from the host's own units: flags that the manual leaves undefined, and results of arithmetic "
    "that\n"
    "# the vendors may round otherwise.\n";

constexpr std::string_view kAmd = "amd", kIntel = "intel";
/// What decides about x87 pointers, and every host can do.
constexpr std::array<std::pair<std::string_view, x86::Feature>, 2> kX87Features = {
    {{"FDP_EXCPTN_ONLY", x86::Feature::FDP_EXCPTN_ONLY}, {"ZERO_FCS_FDS", x86::Feature::ZERO_FCS_FDS}}};

template <typename T>
void put(Page& page, std::size_t at, const T& value) {
  std::memcpy(page.data() + at, &value, sizeof value);
}

/// Flags that are undefined where the code, which has no branches, stands at `end`.
u64 undefined_flags(const RecordedCase& recorded, u64 end) {
  u64 undefined = 0;
  std::span<const u8> rest(recorded.begin, recorded.end);
  rest = rest.first(std::min<std::size_t>(rest.size(), end - kStart));
  while (!rest.empty()) {
    const auto decoded = decode(rest);
    if (!decoded) break;
    if (const ZydisAccessedFlags* flags = decoded->insn.cpu_flags)
      undefined = (undefined & ~u64{flags->modified | flags->set_0 | flags->set_1}) | flags->undefined;
    rest = rest.subspan(decoded->insn.length);
  }
  return undefined & x86::rflags::kArithmetic;
}

class Changes {
 public:
  explicit Changes(std::string& text) : text_(text) {}
  void number(std::string_view name, u64 before, u64 after) {
    if (before != after) text_ += fmt::format("  {} {:x}\n", name, after);
  }
  /// Stretches that changed, of eight bytes each.
  void bytes(std::string_view name, u64 address, std::span<const u8> before, std::span<const u8> after) {
    constexpr std::size_t kStep = 8;
    std::size_t last = before.size();
    for (std::size_t at = 0; at < before.size(); at += kStep) {
      const std::size_t size = std::min(kStep, before.size() - at);
      if (std::ranges::equal(before.subspan(at, size), after.subspan(at, size))) continue;
      if (at != last)
        text_ += fmt::format("{}  {}{:x}", last == before.size() ? "" : "\n", name, address + at);
      text_ += ' ';
      for (const u8 byte : after.subspan(at, size)) text_ += fmt::format("{:02x}", byte);
      last = at + size;
    }
    if (last != before.size() || text_.back() != '\n') text_ += '\n';
  }

 private:
  std::string& text_;
};

}  // namespace

std::span<const RecordedCase> recorded_cases() { return {vert_diff_recorded, vert_diff_recorded_end}; }

Input input_of(const RecordedCase& recorded) {
  Input input;
  input.code.fill(0xCC);
  std::copy(recorded.begin, recorded.end, input.code.begin() + (kStart - kCodeBase));
  Registers& registers = input.registers;
  registers.rip = kStart;
  registers.rflags = recorded.rflags;
  registers.gpr[x86::kRsi] = kNumbers;
  registers.gpr[x86::kRdi] = kResults;
  registers.gpr[x86::kRbp] = kUnmapped;
  registers.gpr[x86::kRsp] = kStackTop;
  Page& page = input.data[0];
  put(page, 0, 1.5);
  put(page, 8, -3.25);
  put(page, 16, u64{0x8877'6655'4433'2211});
  put(page, 24, u64{0x8123'4567'89AB'CDEF});  // not canonical, either
  put(page, 32, u16{0});                      // FCW with nothing masked
  put(page, 36, u16{0x37F});
  put(page, 48, u64{0xFFFF'FFFF'FFFF'FFFF});  // a number of 80 bits that no other format holds
  put(page, 56, u16{0x5000});
  const std::array<float, 4> inexact = {1.0000001F, 1e30F, -2.5F, 1e-30F};
  put(page, 64, inexact);
  // Offsets of elements that lie on both sides of where the unmapped page begins.
  for (u32 i = 0; i < 16; ++i) put(page, 128 + i * sizeof i, i * 4);
  for (u64 i = 0; i < 4; ++i) put(page, 192 + i * sizeof i, i * 8);
  return input;
}

bool has_needs(const RecordedCase& recorded, const x86::CpuModel& model) {
  using x86::Feature;
  const auto lacks = [&](u32 need, Feature feature) {
    return (recorded.needs & need) != 0 && !model.has(feature);
  };
  return !lacks(needs::kAvx2, Feature::AVX2) && !lacks(needs::kAvx512, Feature::AVX512F) &&
         !lacks(needs::kAvx512, Feature::AVX512BW) && !lacks(needs::kF16c, Feature::F16C) &&
         !lacks(needs::kSha, Feature::SHA);
}

std::string result_of(const RecordedCase& recorded, const Output& output) {
  if (output.ending != Ending::kException) return "  no end\n";
  const Input before = input_of(recorded);
  const Registers& after = output.registers;
  std::string text = fmt::format("  vector {} rip +{:x} rflags {:x}\n", output.vector, after.rip - kStart,
                                 after.rflags & ~undefined_flags(recorded, after.rip));
  if (output.vector == x86::kPF)
    text += fmt::format("  cr2 {:x} error {:x}\n", output.cr2, output.error_code);
  Changes changes(text);
  for (unsigned i = 0; i < x86::kGprCount; ++i) {
    static constexpr std::array kNames = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    changes.number(kNames[i], before.registers.gpr[i], after.gpr[i]);
  }
  const cpu::FpuState& fpu = after.fpu;
  changes.number("fcw", before.registers.fpu.fcw, fpu.fcw);
  changes.number("fsw", before.registers.fpu.fsw, fpu.fsw);
  changes.number("ftw", before.registers.fpu.ftw, fpu.ftw);
  changes.number("mxcsr", before.registers.fpu.mxcsr, fpu.mxcsr);
  for (unsigned i = 0; i < fpu.k.size(); ++i)
    changes.number(fmt::format("k{}", i), before.registers.fpu.k[i], fpu.k[i]);
  for (unsigned i = 0; i < fpu.zmm.size(); ++i)
    changes.bytes(fmt::format("zmm{} +", i), 0, before.registers.fpu.zmm[i], fpu.zmm[i]);
  for (std::size_t i = 0; i < kWritablePages.size(); ++i)
    changes.bytes("", kWritablePages[i], before.data[i], output.data[i]);
  return text;
}

std::string layout_text(const x86::CpuModel& model) {
  std::string text;
  for (unsigned i = 2; i < x86::XsaveLayout::kComponents; ++i)
    if ((model.xcr0_allowed() >> i & 1) != 0)
      text += fmt::format("{}{}:{}", text.empty() ? "" : ",", i, model.xsave_layout()[i].offset);
  return text;
}

Result<Recording> record() {
  VERT_ASSIGN(const x86::CpuModel model, x86::CpuModel::make("host"));
  VERT_ASSIGN(const std::unique_ptr<NativeExecutor> host, NativeExecutor::create());
  Recording recording;
  recording.vendor = model.vendor();
  recording.mxcsr_mask = model.mxcsr_mask();
  recording.layout = layout_text(model);
  for (const auto& [name, feature] : kX87Features)
    recording.features += fmt::format(",{}{}", model.has(feature) ? '+' : '-', name);
  for (const RecordedCase& recorded : recorded_cases()) {
    if (!has_needs(recorded, model)) continue;
    // A switch to another process may take x87 pointers along: what counts is what comes twice.
    std::string result, before;
    do {
      before = std::exchange(result, result_of(recorded, host->run_one(input_of(recorded))));
    } while (result != before);
    recording.results[recorded.name] = result;
  }
  return recording;
}

std::string write(const Recording& recording) {
  std::string text(kHead);
  text += fmt::format("vendor {}\nfeatures {}\nmxcsr_mask {:x}\nlayout {}\n",
                      recording.vendor == x86::Vendor::kAmd ? kAmd : kIntel, recording.features,
                      recording.mxcsr_mask, recording.layout);
  for (const RecordedCase& recorded : recorded_cases()) {
    const auto result = recording.results.find(recorded.name);
    if (result != recording.results.end()) text += fmt::format("{}\n{}", recorded.name, result->second);
  }
  return text;
}

Result<Recording> read(const std::string& text) {
  Recording recording;
  std::string* result = nullptr;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::string value = line.substr(std::min(line.find(' ') + 1, line.size()));
    if (line.starts_with('#')) continue;
    if (line.starts_with("  ")) {
      if (result == nullptr) return make_error("a result before the first case: {}", line);
      *result += line + '\n';
    } else if (line.starts_with("vendor ")) {
      if (value != kAmd && value != kIntel) return make_error("no vendor: {}", value);
      recording.vendor = value == kAmd ? x86::Vendor::kAmd : x86::Vendor::kIntel;
    } else if (line.starts_with("features ")) {
      recording.features = value;
    } else if (line.starts_with("mxcsr_mask ")) {
      recording.mxcsr_mask = static_cast<u32>(std::stoul(value, nullptr, 16));
    } else if (line.starts_with("layout ")) {
      recording.layout = value;
    } else {
      result = &recording.results[line];
    }
  }
  return recording;
}

}  // namespace vert::diff

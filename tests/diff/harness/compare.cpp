#include "diff/harness/compare.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "x86/exception.hpp"

namespace vert::diff {

namespace {

constexpr std::array<std::string_view, x86::kGprCount> kGprNames = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                                                    "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                                                    "r12", "r13", "r14", "r15"};

/// Above this, Linux reports page faults with P set, to tell nothing about its own pages
/// (arch/x86/mm/fault.c, sanitize_error_code).
constexpr u64 kLinuxUserEnd = 0x7FFF'FFFF'F000;

/// The processor sign-extends x87 pointers from the width of its linear addresses, 48 or 57 bits.
constexpr u64 kPointerMask = 0xFFFF'FFFF'FFFF;

template <std::size_t N>
std::string hex(const std::array<u8, N>& bytes) {
  std::string text;
  for (std::size_t i = N; i-- > 0;) {
    text += fmt::format("{:02x}", bytes[i]);
    if (i != 0 && i % 8 == 0) text += '_';
  }
  return text;
}

class Differences {
 public:
  void number(std::string_view name, u64 native, u64 guest) {
    if (native != guest)
      lines_.push_back(fmt::format("{:8} native {:016x}  guest {:016x}", name, native, guest));
  }
  template <std::size_t N>
  void bytes(std::string_view name, const std::array<u8, N>& native, const std::array<u8, N>& guest) {
    if (native == guest) return;
    lines_.push_back(fmt::format("{:8} native {}", name, hex(native)));
    lines_.push_back(fmt::format("{:8} guest  {}", "", hex(guest)));
  }
  void page(u64 address, const Page& native, const Page& guest) {
    const auto at = std::ranges::mismatch(native, guest);
    if (at.in1 == native.end()) return;
    const auto offset = static_cast<std::size_t>(at.in1 - native.begin());
    const std::size_t end = std::min(offset + 16, native.size());
    std::string left;
    std::string right;
    for (std::size_t i = offset; i < end; ++i) {
      left += fmt::format("{:02x} ", native[i]);
      right += fmt::format("{:02x} ", guest[i]);
    }
    lines_.push_back(fmt::format("[{:x}] native {} guest {}", address + offset, left, right));
  }
  std::vector<std::string> take() { return std::move(lines_); }

 private:
  std::vector<std::string> lines_;
};

void compare_fpu(const cpu::FpuState& native, const cpu::FpuState& guest, Differences& out) {
  for (unsigned i = 0; i < native.zmm.size(); ++i)
    out.bytes(fmt::format("zmm{}", i), native.zmm[i], guest.zmm[i]);
  for (unsigned i = 0; i < native.k.size(); ++i) out.number(fmt::format("k{}", i), native.k[i], guest.k[i]);
  for (unsigned i = 0; i < native.st.size(); ++i)
    out.bytes(fmt::format("st{}", i), native.st[i], guest.st[i]);
  out.number("fcw", native.fcw, guest.fcw);
  out.number("fsw", native.fsw, guest.fsw);
  out.number("ftw", native.ftw, guest.ftw);
  out.number("fop", native.fop, guest.fop);
  out.number("fip", native.fip & kPointerMask, guest.fip & kPointerMask);
  out.number("fdp", native.fdp & kPointerMask, guest.fdp & kPointerMask);
  out.number("mxcsr", native.mxcsr, guest.mxcsr);
}

u64 comparable_error(const Output& output) {
  const bool sanitized = output.vector == x86::kPF && output.cr2 >= kLinuxUserEnd;
  return sanitized ? output.error_code & ~u64{x86::pf::P} : output.error_code;
}

}  // namespace

std::vector<std::string> differences(const Output& native, const Output& guest, u64 undefined_flags) {
  Differences out;
  out.number("ending", static_cast<u64>(native.ending), static_cast<u64>(guest.ending));
  if (native.ending != Ending::kException || guest.ending != Ending::kException) return out.take();
  out.number("vector", native.vector, guest.vector);
  out.number("error", comparable_error(native), comparable_error(guest));
  out.number("cr2", native.cr2, guest.cr2);
  out.number("cs", native.cs, guest.cs);
  out.number("rip", native.registers.rip, guest.registers.rip);
  for (unsigned i = 0; i < x86::kGprCount; ++i)
    out.number(kGprNames[i], native.registers.gpr[i], guest.registers.gpr[i]);
  out.number("rflags", native.registers.rflags & ~undefined_flags, guest.registers.rflags & ~undefined_flags);
  out.number("fs_base", native.registers.fs_base, guest.registers.fs_base);
  out.number("gs_base", native.registers.gs_base, guest.registers.gs_base);
  compare_fpu(native.registers.fpu, guest.registers.fpu, out);
  for (std::size_t i = 0; i < kWritablePages.size(); ++i)
    out.page(kWritablePages[i], native.data[i], guest.data[i]);
  return out.take();
}

std::string describe(const Registers& registers, bool with_vectors) {
  std::string text;
  for (unsigned i = 0; i < x86::kGprCount; ++i)
    text += fmt::format("  {:3} {:016x}{}", kGprNames[i], registers.gpr[i], i % 4 == 3 ? "\n" : "");
  text += fmt::format("  rip {:016x}  rflags {:06x}  fs_base {:x}  gs_base {:x}\n", registers.rip,
                      registers.rflags, registers.fs_base, registers.gs_base);
  if (!with_vectors) return text;
  const cpu::FpuState& fpu = registers.fpu;
  text += fmt::format("  fcw {:04x}  fsw {:04x}  ftw {:02x}  mxcsr {:08x}\n", fpu.fcw, fpu.fsw, fpu.ftw,
                      fpu.mxcsr);
  for (unsigned i = 0; i < fpu.st.size(); ++i) text += fmt::format("  st{} {}\n", i, hex(fpu.st[i]));
  for (unsigned i = 0; i < fpu.k.size(); ++i) text += fmt::format("  k{} {:016x}\n", i, fpu.k[i]);
  for (unsigned i = 0; i < fpu.zmm.size(); ++i) text += fmt::format("  zmm{:<2} {}\n", i, hex(fpu.zmm[i]));
  return text;
}

}  // namespace vert::diff

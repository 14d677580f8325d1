#include "machine/state_dump.hpp"

#include <fmt/format.h>

#include <iterator>
#include <memory>

#include "cpu/mmu.hpp"

namespace vert::machine {

namespace {

constexpr const char* kRegisterNames[x86::kGprCount] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP",
                                                        "RSI", "RDI", "R8 ", "R9 ", "R10", "R11",
                                                        "R12", "R13", "R14", "R15"};
constexpr const char* kSegmentNames[x86::kSegmentCount] = {"ES", "CS", "SS", "DS", "FS", "GS"};

const char* mode_name(const cpu::CpuState& state) {
  if (state.code64()) return "64-bit";
  if (state.v86()) return "virtual-8086";
  if (!state.protected_mode()) return "real";
  return state.seg(x86::kCs).is_big() ? "32-bit" : "16-bit protected";
}

void add_segment(std::string& out, const char* name, const x86::Segment& segment) {
  fmt::format_to(std::back_inserter(out), "{:<4} {:04x} base {:016x} limit {:08x} attributes {:04x}{}\n",
                 name, segment.selector, segment.base, segment.limit, segment.attributes,
                 segment.unusable ? " unusable" : "");
}

/// Up to 16 bytes from RIP on, as far as they are mapped.
void add_code(std::string& out, const cpu::VcpuContext& context, const cpu::CpuState& state) {
  constexpr unsigned kBytes = 16;
  out += "code";
  cpu::CpuState copy = state;
  const auto mmu = std::make_unique<cpu::Mmu>(context);
  mmu->attach(copy);
  const u64 start = state.rip + (state.code64() ? 0 : state.seg(x86::kCs).base);
  for (unsigned i = 0; i < kBytes; ++i) {
    const auto gpa = mmu->translate_for_debug(Gla(start + i));
    const auto byte = gpa ? context.memory->load<u8>(*gpa) : std::nullopt;
    if (!byte) {
      if (i == 0) out += " (not mapped)";
      break;
    }
    fmt::format_to(std::back_inserter(out), " {:02x}", *byte);
  }
}

}  // namespace

std::string dump_state(const cpu::VcpuContext& context, const cpu::CpuState& state) {
  std::string out;
  const auto to = std::back_inserter(out);
  fmt::format_to(to, "vCPU {} in {} mode, CPL {}\n", context.index, mode_name(state), state.cpl);
  fmt::format_to(to, "RIP {:016x} RFLAGS {:08x}\n", state.rip, state.rflags);
  for (unsigned i = 0; i < x86::kGprCount; ++i)
    fmt::format_to(to, "{} {:016x}{}", kRegisterNames[i], state.gpr[i], i % 4 == 3 ? "\n" : " ");
  for (unsigned i = 0; i < x86::kSegmentCount; ++i) add_segment(out, kSegmentNames[i], state.segment[i]);
  add_segment(out, "LDTR", state.ldtr);
  add_segment(out, "TR", state.tr);
  fmt::format_to(to, "GDTR {:016x} limit {:04x} IDTR {:016x} limit {:04x}\n", state.gdtr.base,
                 state.gdtr.limit, state.idtr.base, state.idtr.limit);
  fmt::format_to(to, "CR0 {:08x} CR2 {:016x} CR3 {:016x} CR4 {:08x} EFER {:04x}\n", state.cr0, state.cr2,
                 state.cr3, state.cr4, state.efer);
  add_code(out, context, state);
  return out;
}

}  // namespace vert::machine

#include "support/user_program.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace vert::test {

namespace {

constexpr u64 kStackTop = 0x7FFF'0000'0000;
constexpr u64 kStackPages = 16;
constexpr u64 kSysExit = 60;
// A vector that no program of ours raises: its HLT serves as the kernel's entry.
constexpr u8 kSyscallStub = 0xFF;

template <typename T>
Result<T> read_at(std::span<const u8> file, u64 offset) {
  T value;
  if (offset > file.size() || file.size() - offset < sizeof value)
    return make_error("the program is cut off");
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

Status load_segment(GuestRig& rig, std::span<const u8> file, const Elf64_Phdr& header) {
  if (header.p_offset > file.size() || file.size() - header.p_offset < header.p_filesz)
    return make_error("a segment of the program is cut off");
  const u64 first = header.p_vaddr & ~kPageOffsetMask;
  const u64 pages = (header.p_vaddr + header.p_memsz - first + kPageSize - 1) / kPageSize;
  u8* to = rig.map(first, pages, {true, (header.p_flags & PF_W) != 0, (header.p_flags & PF_X) != 0});
  rig.write_host(to + (header.p_vaddr - first), file.subspan(header.p_offset, header.p_filesz));
  return {};
}

}  // namespace

Status load_program(GuestRig& rig, std::span<const u8> file) {
  VERT_ASSIGN(const auto header, read_at<Elf64_Ehdr>(file, 0));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_type != ET_EXEC)
    return make_error("not a static program");
  for (u64 i = 0; i < header.e_phnum; ++i) {
    VERT_ASSIGN(const auto segment, read_at<Elf64_Phdr>(file, header.e_phoff + i * sizeof(Elf64_Phdr)));
    if (segment.p_type == PT_LOAD && segment.p_memsz != 0) VERT_TRY(load_segment(rig, file, segment));
  }
  rig.map(kStackTop - kStackPages * kPageSize, kStackPages, {true, true, false});
  cpu::CpuState state = rig.initial_state(header.e_entry, kStackTop - 64, 3);
  state.msr.star = u64{kUserCs32} << 48 | u64{kKernelCs} << 32;
  state.msr.lstar = GuestRig::stub(kSyscallStub);
  state.msr.fmask = x86::rflags::IF | x86::rflags::TF | x86::rflags::DF | x86::rflags::AC;
  rig.set_state(state);
  return {};
}

ProgramEnd run_program(GuestRig& rig, u64 budget) {
  const cpu::ExitInfo exit = rig.run(budget);
  const cpu::CpuState& state = rig.state();
  if (exit.reason == cpu::Exit::kHalt && state.rip == GuestRig::stub(kSyscallStub) + 1 &&
      state.gpr[x86::kRax] == kSysExit)
    return {true, state.gpr[x86::kRdi], {}};
  if (const auto caught = rig.caught())
    return {false, 0,
            fmt::format("exception {} with error code {:x} at {:x}, CR2 {:x}", caught->vector,
                        caught->error_code.value_or(0), caught->rip, caught->cr2)};
  return {false, 0,
          fmt::format("exit reason {} at {:x} {}", static_cast<unsigned>(exit.reason), state.rip,
                      exit.description)};
}

}  // namespace vert::test

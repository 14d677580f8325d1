// Runs a static Linux program that only computes and calls exit(): the smallest kernel there is.
#pragma once

#include <span>
#include <string>

#include "base/error.hpp"
#include "support/guest_rig.hpp"

namespace vert::test {

/// Maps a static ELF64 program and a stack, and sets the vCPU at its entry, in user mode. SYSCALL leads to a
/// HLT. Error: the file is no such program.
[[nodiscard]] Status load_program(GuestRig& rig, std::span<const u8> file);

/// How a program ended.
struct ProgramEnd {
  bool exited = false;
  u64 status = 0;           // with exited
  std::string description;  // without
};

/// Runs until the program exits, faults, or has used up its budget of instructions.
[[nodiscard]] ProgramEnd run_program(GuestRig& rig, u64 budget);

}  // namespace vert::test

// One run of a machine: its console, its place among the user's machines, and its end.
//
// Main thread.
#pragma once

#include <functional>
#include <string>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "cli/debug_options.hpp"
#include "machine/machine.hpp"

namespace vert::cli {

struct RunPlan {
  machine::MachineConfig config;
  DebugOptions debug;
  std::string serial;      // as --serial has it
  std::string name;        // empty: one that is free
  std::string log;         // in the background: where messages go; empty: into the state folder
  std::string api_socket;  // empty: only in the state folder
};

/// A machine that is about to run.
struct RunStart {
  std::string name;
  std::string notice;  // one line for the user, or empty
  base::Fd log;        // of the state folder; not valid if there is none
};

/// Runs the machine until it ends; returns vert's exit status. `background`, if given, is called once all is
/// set up; an error of it ends the run.
[[nodiscard]] Result<int> run_machine(const RunPlan& plan,
                                      const std::function<Status(RunStart)>& background = {});

}  // namespace vert::cli

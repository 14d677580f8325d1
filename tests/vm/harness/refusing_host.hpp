// The program `vert` on a host that refuses something: a system call, or resources beyond a limit.
//
// vert runs under ptrace; a seccomp filter stops it at the calls that are of interest. So nothing in vert has
// to know of tests, and a call that is new there is refused like all others.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/types.hpp"
#include "vm/harness/vert_process.hpp"

namespace vert::vm_test {

/// The calls that fail, from main() on.
struct Refusal {
  std::vector<long> numbers;  // none: no call fails, all are counted
  int error_number = 0;
  std::string path_prefix;       // not empty: only calls whose path begins so
  std::optional<unsigned> only;  // only this one of them, the first is 0; else all
};

struct Limit {
  __rlimit_resource resource;
  rlim_t value;
};

/// What happens while vert runs: called once, on another thread, when `seen` has been in its output, or after
/// some seconds.
struct Act {
  std::string seen;
  std::function<void(pid_t vert)> act;
};

struct RefusedRun {
  End end;  // neither status nor signal: it did not end in time
  std::string output;
  std::string errors;
  std::map<long, unsigned> calls;  // by number, of those that were of interest
};

/// Whether this process may trace others.
[[nodiscard]] bool can_trace();

/// Runs `vert ARGUMENTS...` with its console on pipes, of which the input has ended, until it and all that it
/// started have ended.
[[nodiscard]] RefusedRun run_refused(const std::vector<std::string>& arguments, const Refusal& refusal,
                                     const Act& act = {},
                                     std::chrono::seconds patience = std::chrono::seconds(60));
/// The same with a limit, and without tracing.
[[nodiscard]] RefusedRun run_limited(const std::vector<std::string>& arguments, Limit limit,
                                     std::chrono::seconds patience = std::chrono::seconds(60));

/// For messages: "openat", or the number.
[[nodiscard]] std::string call_name(long number);

}  // namespace vert::vm_test

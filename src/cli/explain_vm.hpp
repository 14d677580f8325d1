// `vert explain --vm`: code of a running machine beside its translation. Main thread.
#pragma once

#include <string>

#include "base/error.hpp"

namespace vert::cli {

/// As typed; an empty string is the default.
struct ExplainVmRequest {
  std::string name;
  std::string range;    // A..B, or A for the block there; empty: the hottest blocks
  std::string hottest;  // how many
  std::string seconds;  // how long samples are taken
  std::string vcpu;     // whose page tables, for a range
  std::string mode;
};

[[nodiscard]] Result<std::string> explain_vm(const ExplainVmRequest& request);

}  // namespace vert::cli

// `vert run --detach`: the machine in a process of its own, in the background.
//
// Main thread, before any other is started.
#pragma once

#include "cli/run_session.hpp"

namespace vert::cli {

/// Forks. The caller's process returns once the machine runs, having printed its name, or with the status of
/// the other process if it does not come to that. That other process returns when the machine has ended.
[[nodiscard]] Result<int> run_detached(const RunPlan& plan);

}  // namespace vert::cli

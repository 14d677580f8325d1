// The host's time-stamp counter. Any thread.
#pragma once

#include "base/types.hpp"

namespace vert::base {

/// Ticks a second of the host's TSC: what the processor or the hypervisor below says, if CLOCK_MONOTONIC
/// agrees, else measured against it. Found once a process, which takes some milliseconds.
[[nodiscard]] u64 host_tsc_frequency();

}  // namespace vert::base

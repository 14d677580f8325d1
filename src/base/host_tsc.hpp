// The host's time-stamp counter. Any thread.
#pragma once

#include "base/types.hpp"

namespace vert::base {

/// One moment on two of the host's clocks.
struct HostMoment {
  u64 tsc = 0;
  u64 ns = 0;  // CLOCK_MONOTONIC
};

/// Now, on both: as closely together as one of several attempts was, so that it matters little if the thread
/// is interrupted meanwhile.
[[nodiscard]] HostMoment host_moment();

/// Ticks a second of the host's TSC: what the processor or the hypervisor below says, if CLOCK_MONOTONIC
/// agrees, else measured against it. Found once a process, which takes some milliseconds.
[[nodiscard]] u64 host_tsc_frequency();

}  // namespace vert::base

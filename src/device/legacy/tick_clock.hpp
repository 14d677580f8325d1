// Nanoseconds to ticks of a crystal and back, exactly: no rounding ever adds up, however long a machine runs.
#pragma once

#include "base/time.hpp"

namespace vert::device {

/// Whole ticks of a clock of `hertz` that have passed at `nanoseconds`.
[[nodiscard]] constexpr u64 ticks_at(u64 nanoseconds, u64 hertz) {
  return static_cast<u64>(static_cast<u128>(nanoseconds) * hertz / base::kNanosecondsPerSecond);
}

/// The first nanosecond at which `ticks` have passed; the end of time if that is beyond 64 bits.
[[nodiscard]] constexpr u64 time_of_tick(u64 ticks, u64 hertz) {
  const u128 nanoseconds = (static_cast<u128>(ticks) * base::kNanosecondsPerSecond + hertz - 1) / hertz;
  return nanoseconds > ~u64{0} ? ~u64{0} : static_cast<u64>(nanoseconds);
}

}  // namespace vert::device

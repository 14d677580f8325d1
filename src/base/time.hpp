// Time as components see it: a clock, and one-shot timers against that clock.
//
// Devices take these interfaces, so that tests can turn the clock by hand (base/fake_time.hpp) and the
// machine can stop time while it is paused. The real ones are in base/event_loop.hpp.
#pragma once

#include <functional>
#include <memory>

#include "base/types.hpp"

namespace vert::base {

inline constexpr u64 kNanosecondsPerSecond = 1'000'000'000;

/// Monotonic guest-visible time in nanoseconds since the machine was made. Safe from any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual u64 now_ns() const = 0;
};

/// A one-shot timer. arm() and cancel() are safe from any thread, also from its own callback.
///
/// The callback runs on the timer thread with no lock held by the timer. A callback that was already
/// under way may still run after cancel() or a new arm(): it must look at its owner's state under the
/// owner's lock before it acts. The destructor waits until no callback runs; it must not be called with
/// a lock held that the callback takes.
class Timer {
 public:
  virtual ~Timer() = default;
  /// Fires once when the clock reaches `deadline_ns` (at once if it has passed); replaces what was armed.
  virtual void arm(u64 deadline_ns) = 0;
  virtual void cancel() = 0;
};

/// Makes timers that run against one clock.
class TimeService : public Clock {
 public:
  [[nodiscard]] virtual std::unique_ptr<Timer> make_timer(std::function<void()> callback) = 0;
};

}  // namespace vert::base

// A signal to one thread at a given moment: what runs there is interrupted at once, without another thread's
// help.
#pragma once

#include <memory>

#include "base/types.hpp"

namespace vert::base {

class ThreadAlarm {
 public:
  /// Called in the signal handler on the alarm's thread, on its alternate stack if it has one:
  /// async-signal-safe. It may come late.
  using Ring = void (*)(void* context);

  /// For the calling thread, which has to destroy it, too. Null if the host has no timers for threads.
  [[nodiscard]] static std::unique_ptr<ThreadAlarm> create(Ring ring, void* context);
  /// The thread gets no alarm's signal any more.
  ~ThreadAlarm();
  ThreadAlarm(const ThreadAlarm&) = delete;
  ThreadAlarm& operator=(const ThreadAlarm&) = delete;

  /// Rings once at that time of CLOCK_MONOTONIC (at once if it has passed); replaces what was set. False if
  /// the host refuses. Any thread.
  [[nodiscard]] bool set(u64 host_ns);

 private:
  struct Impl;
  explicit ThreadAlarm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vert::base

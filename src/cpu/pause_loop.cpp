#include "cpu/pause_loop.hpp"

#include <sched.h>

#include <x86intrin.h>

namespace vert::cpu {

void PauseLoop::end_window() {
  // PAUSEs further apart than this on average are not of one loop. The slowest engine's are closer.
  constexpr u64 kLongestWindow = u64{kWindow} * 4096;
  const u64 now = __rdtsc();
  if (now - began_ < kLongestWindow) ::sched_yield();
  began_ = __rdtsc();
}

}  // namespace vert::cpu

// Notices when no vCPU can ever run again: all are halted, and nothing that could come would wake one.
//
// Owned by Machine. Each vCPU reports on its own thread before it sleeps and after it woke.
#pragma once

#include <atomic>
#include <deque>
#include <mutex>

#include "cpu/engine.hpp"

namespace vert::machine {

class HaltWatch {
 public:
  /// `events` of all vCPUs outlive this.
  explicit HaltWatch(const std::deque<cpu::VcpuEvents>& events);

  /// The vCPU will sleep until one of these events. True if all sleep now, none of them has its event, and
  /// none waits for interrupts of devices.
  [[nodiscard]] bool sleeps(unsigned vcpu, u32 wakers);
  void wakes(unsigned vcpu);

 private:
  static constexpr u32 kAwake = 0;  // a sleeper waits for kKick at least

  const std::deque<cpu::VcpuEvents>& events_;
  std::mutex falling_asleep_;
  std::deque<std::atomic<u32>> wakers_;
};

}  // namespace vert::machine

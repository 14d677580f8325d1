#include "machine/halt_watch.hpp"

namespace vert::machine {

using cpu::VcpuEvents;

HaltWatch::HaltWatch(const std::deque<VcpuEvents>& events) : events_(events), wakers_(events.size()) {}

bool HaltWatch::sleeps(unsigned vcpu, u32 wakers) {
  // While one looks, none falls asleep: an event that a vCPU sent before it did is pending, or has been taken
  // by one that is awake.
  const std::scoped_lock lock(falling_asleep_);
  wakers_[vcpu].store(wakers, std::memory_order_seq_cst);
  for (std::size_t i = 0; i < wakers_.size(); ++i) {
    // In this order: a vCPU reports that it is awake, then takes its events.
    const u32 pending = events_[i].pending();
    const u32 waits_for = wakers_[i].load(std::memory_order_seq_cst);
    if (waits_for == kAwake || (waits_for & VcpuEvents::kInterrupt) != 0 || (waits_for & pending) != 0)
      return false;
  }
  return true;
}

void HaltWatch::wakes(unsigned vcpu) { wakers_[vcpu].store(kAwake, std::memory_order_seq_cst); }

}  // namespace vert::machine

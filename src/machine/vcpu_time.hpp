// The time of one vCPU: its local APIC's timer fires on the vCPU's own thread.
//
// While the guest runs, a signal interrupts the thread when the timer is due; while the vCPU is halted, the
// thread sleeps until then. No other thread has to run first: on a host whose processors are all busy with
// vCPUs, that would wait for the end of a time slice. Where the host has no such signals, the event loop's
// thread fires the timer, as it does for devices.
//
// Owned by Machine, one for each vCPU; outlives the local APIC and the Vcpu.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>

#include "base/event_loop.hpp"
#include "base/thread_alarm.hpp"
#include "base/time.hpp"
#include "cpu/engine.hpp"

namespace vert::machine {

class VcpuTime final : public base::TimeService {
 public:
  VcpuTime(base::EventLoop& loop, cpu::VcpuEvents& events) : loop_(loop), events_(events) {}

  [[nodiscard]] u64 now_ns() const override { return loop_.now_ns(); }
  /// One at a time. Armed on the vCPU's thread, or while the vCPU is Paused. The callback may be called once
  /// more than it should be, as base::Timer says, also by two threads at once.
  [[nodiscard]] std::unique_ptr<base::Timer> make_timer(std::function<void()> callback) override;

  // The vCPU's thread, with no lock held.

  /// It begins to run or goes on: the clock may have stood still.
  void thread_goes_on();
  void thread_ends();
  /// Calls the timer's callback if it is due.
  void run_due();
  /// When run_due() has something to do; a time that never comes if nothing is armed.
  [[nodiscard]] std::chrono::steady_clock::time_point next() const;

 private:
  class ThreadTimer;
  static constexpr u64 kNever = ~u64{0};

  [[nodiscard]] bool set_alarm(u64 deadline_ns);

  base::EventLoop& loop_;
  cpu::VcpuEvents& events_;
  ThreadTimer* timer_ = nullptr;
  std::atomic<u64> deadline_ns_ = kNever;
  std::mutex mutex_;  // of alarm_; nothing is called with it held but the alarm
  std::unique_ptr<base::ThreadAlarm> alarm_;
};

}  // namespace vert::machine

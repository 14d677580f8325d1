// One virtual processor: its host thread, its architectural state and its engine.
//
// States, and who moves between them:
//
//            resume()             pause(), triple fault, reset of the boot processor
//   Paused ------------> Running ----------------------------------------------------> Paused
//     |                     |
//     +------ finish() -----+----> Finished (the thread ends)
//
// A new vCPU is Paused. While it is Running, the thread runs the engine, waits where the guest halted, and
// settles INIT and SIPI. While it is Paused, the thread sleeps and state() belongs to the caller.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/error.hpp"
#include "cpu/engine.hpp"
#include "cpu/local_apic.hpp"
#include "machine/vcpu_time.hpp"

namespace vert::machine {

class Vcpu;

/// Told of what a vCPU cannot settle itself. Called on the vCPU's thread with no lock held; the vCPU is
/// Paused afterwards, unless it says otherwise.
class VcpuOwner {
 public:
  virtual ~VcpuOwner() = default;
  /// A triple fault; `faults` tells what led to it.
  virtual void vcpu_shut_down(const Vcpu& vcpu, const std::string& faults) = 0;
  /// INIT of the boot processor: it would start at the firmware that vert does not have.
  virtual void vcpu_reset(const Vcpu& vcpu) = 0;
  /// It sleeps until one of these events is pending (VcpuEvents), and goes on. Here the vCPU stays Running.
  virtual void vcpu_sleeps(const Vcpu& vcpu, u32 wakers) = 0;
  virtual void vcpu_wakes(const Vcpu& vcpu) = 0;
};

class Vcpu {
 public:
  /// All of `context`, the time and the owner outlive the vCPU. Takes context.events' waker.
  Vcpu(const cpu::VcpuContext& context, std::unique_ptr<cpu::Engine> engine, VcpuTime& time,
       VcpuOwner& owner);
  /// finish(), and waits for the thread.
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  /// Starts the thread, Paused.
  [[nodiscard]] Status start();

  // Requests: any thread, also this vCPU's; they return at once.

  void resume();
  void pause();
  void finish();

  /// Until the thread is Paused or Finished after the last request; false if it is not by then. Not from the
  /// vCPU's thread.
  [[nodiscard]] bool wait_until_idle(std::chrono::steady_clock::time_point limit);
  /// RIP, about, for a message. Any thread.
  [[nodiscard]] u64 seen_at() const;

  [[nodiscard]] unsigned index() const { return context_.index; }
  /// Guest instructions completed, counted whenever the engine returns.
  [[nodiscard]] u64 instructions() const { return instructions_.load(std::memory_order_relaxed); }

  /// Only while Paused, or on the vCPU's own thread.
  [[nodiscard]] cpu::CpuState& state() { return state_; }
  [[nodiscard]] const cpu::CpuState& state() const { return state_; }
  [[nodiscard]] const cpu::VcpuContext& context() const { return context_; }
  /// Only while Paused: what the engine has counted and seen since it was made.
  [[nodiscard]] std::vector<cpu::CounterGroup> engine_counters() const { return engine_->counters(); }
  [[nodiscard]] bool start_sampling() { return engine_->start_sampling(); }
  void stop_sampling() { engine_->stop_sampling(); }
  [[nodiscard]] cpu::SampleReport engine_samples(std::size_t hottest) const {
    return engine_->samples(hottest);
  }
  /// Only while Paused: goes on with another engine.
  void replace_engine(std::unique_ptr<cpu::Engine> engine);

 private:
  enum class RunState : u8 { kPaused, kRunning, kFinished };

  void thread_main();
  /// One turn of the Running state: something is settled, run or waited for.
  void turn();
  void settle_init();
  void settle_start_up();
  void run_engine();
  /// Sleeps until the guest can go on, or something is asked of the thread.
  void wait_for_event();
  /// The events that end the wait.
  [[nodiscard]] u32 wakers() const;
  void request(RunState wanted);
  void wake();

  const cpu::VcpuContext context_;
  VcpuTime& time_;
  VcpuOwner& owner_;
  std::unique_ptr<cpu::Engine> engine_;
  cpu::CpuState state_;
  std::atomic<u64> instructions_ = 0;

  // Innermost of all locks: VcpuEvents::request() is called with an APIC's lock held.
  std::mutex mutex_;
  std::condition_variable changed_;
  RunState run_state_ = RunState::kPaused;
  RunState wanted_ = RunState::kPaused;
  bool woken_ = false;  // since wait_for_event() last looked
  std::thread thread_;
};

}  // namespace vert::machine

// The thread of a virtio device: it works on the queues, so that no vCPU has to.
//
// Owned by the device. kick(), pause() and resume() come on any thread but its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/error.hpp"

namespace vert::device::virtio {

class Worker {
 public:
  /// Calls `work` on a thread of its own each time after kick(). It returns when there is nothing to do, and
  /// soon once must_return() is true. Error: the host has no more threads to give.
  [[nodiscard]] static Result<std::unique_ptr<Worker>> start(const std::string& name,
                                                             std::function<void()> work);
  /// Waits until `work` has returned.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void kick();
  /// Once this returns, `work` is not running, nor will it until resume(). Kicks are kept.
  void pause();
  void resume();
  [[nodiscard]] bool must_return() const { return must_return_.load(std::memory_order_relaxed); }

 private:
  explicit Worker(std::function<void()> work) : work_(std::move(work)) {}
  void run();

  const std::function<void()> work_;
  std::atomic<bool> must_return_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool kicked_ = false;
  bool paused_ = false;
  bool working_ = false;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace vert::device::virtio

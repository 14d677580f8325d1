// The event loop: one thread that runs timers, watches file descriptors and runs what is posted to it.
//
// Its clock is the host's CLOCK_MONOTONIC from 0 at creation, and stands still while paused. Owned by
// machine/; outlives every timer and watch made from it. Public functions are safe from any thread.
#pragma once

#include <functional>
#include <memory>

#include "base/error.hpp"
#include "base/time.hpp"

namespace vert::base {

class EventLoop final : public TimeService {
 public:
  /// A file descriptor that is watched. One-shot: after arm() the callback runs once, on the loop's thread,
  /// when there is something to read (or an end or error to be read). arm() is safe from any thread, also
  /// from the callback. The destructor waits until no callback runs; it must not be called from the callback,
  /// nor with a lock held that the callback takes.
  class Watch {
   public:
    virtual ~Watch() = default;
    virtual void arm() = 0;
  };

  /// Starts the thread.
  [[nodiscard]] static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop() override;
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  [[nodiscard]] u64 now_ns() const override;
  [[nodiscard]] std::unique_ptr<Timer> make_timer(std::function<void()> callback) override;

  /// Stops the clock; on return no timer's callback runs, nor will before resume(). Not from a callback.
  void pause();
  void resume();
  /// As if it had been called at that moment of the host's CLOCK_MONOTONIC, which has just passed.
  void resume_at(u64 host_ns);
  /// When, on the host's CLOCK_MONOTONIC, the clock showed that time, since it last went on.
  [[nodiscard]] u64 host_ns(u64 clock_ns) const;
  [[nodiscard]] bool paused() const;

  /// Runs `work` on the loop's thread, also while paused.
  void post(std::function<void()> work);
  /// `fd` stays the caller's and must outlive the watch; one watch at a time for each.
  [[nodiscard]] Result<std::unique_ptr<Watch>> watch(int fd, std::function<void()> callback);

 private:
  struct Impl;
  explicit EventLoop(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vert::base

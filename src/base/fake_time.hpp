// A clock that tests turn by hand. Single-threaded: callbacks run inside advance_to().
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "base/time.hpp"

namespace vert::base {

class FakeTime final : public TimeService {
 public:
  [[nodiscard]] u64 now_ns() const override { return now_ns_; }

  [[nodiscard]] std::unique_ptr<Timer> make_timer(std::function<void()> callback) override {
    return std::make_unique<FakeTimer>(*this, std::move(callback));
  }

  void advance(u64 nanoseconds) { advance_to(now_ns_ + nanoseconds); }

  /// Fires every timer due up to then, in order of deadline, with the clock at each deadline.
  void advance_to(u64 target_ns) {
    while (FakeTimer* next = next_due(target_ns)) {
      now_ns_ = std::max(now_ns_, *next->deadline_ns);
      next->deadline_ns.reset();
      next->callback();
    }
    now_ns_ = std::max(now_ns_, target_ns);
  }

 private:
  struct FakeTimer final : Timer {
    FakeTimer(FakeTime& time, std::function<void()> on_expiry) : owner(time), callback(std::move(on_expiry)) {
      owner.timers_.push_back(this);
    }
    ~FakeTimer() override { std::erase(owner.timers_, this); }
    FakeTimer(const FakeTimer&) = delete;
    FakeTimer& operator=(const FakeTimer&) = delete;
    void arm(u64 deadline) override { deadline_ns = deadline; }
    void cancel() override { deadline_ns.reset(); }

    FakeTime& owner;
    std::function<void()> callback;
    std::optional<u64> deadline_ns;
  };

  FakeTimer* next_due(u64 target_ns) {
    FakeTimer* next = nullptr;
    for (FakeTimer* timer : timers_) {
      if (!timer->deadline_ns || *timer->deadline_ns > target_ns) continue;
      if (next == nullptr || *timer->deadline_ns < *next->deadline_ns) next = timer;
    }
    return next;
  }

  u64 now_ns_ = 0;
  std::vector<FakeTimer*> timers_;
};

}  // namespace vert::base

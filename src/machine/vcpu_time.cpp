#include "machine/vcpu_time.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace vert::machine {

class VcpuTime::ThreadTimer final : public base::Timer {
 public:
  ThreadTimer(VcpuTime& time, std::function<void()> callback)
      : time_(time), callback_(std::move(callback)), on_loop_(time.loop_.make_timer(callback_)) {
    VERT_CHECK(std::exchange(time_.timer_, this) == nullptr);
  }
  ThreadTimer(const ThreadTimer&) = delete;
  ThreadTimer& operator=(const ThreadTimer&) = delete;
  ~ThreadTimer() override {
    cancel();
    time_.timer_ = nullptr;
  }
  void arm(u64 deadline_ns) override {
    time_.deadline_ns_.store(deadline_ns);
    if (time_.set_alarm(deadline_ns))
      on_loop_->cancel();
    else
      on_loop_->arm(deadline_ns);
  }
  void cancel() override {
    // The alarm stays set: to be interrupted for nothing costs less than a system call at each change.
    time_.deadline_ns_.store(kNever);
    on_loop_->cancel();
  }
  void call() const { callback_(); }

 private:
  VcpuTime& time_;
  const std::function<void()> callback_;
  const std::unique_ptr<base::Timer> on_loop_;
};

std::unique_ptr<base::Timer> VcpuTime::make_timer(std::function<void()> callback) {
  return std::make_unique<ThreadTimer>(*this, std::move(callback));
}

void VcpuTime::thread_goes_on() {
  {
    const std::scoped_lock lock(mutex_);
    // SAFETY: async-signal-safe: request_own() changes atomics only.
    const auto ring = [](void* events) {
      static_cast<cpu::VcpuEvents*>(events)->request_own(cpu::VcpuEvents::kKick);
    };
    if (!alarm_) alarm_ = base::ThreadAlarm::create(ring, &events_);
  }
  const u64 deadline = deadline_ns_.load();
  if (deadline != kNever) timer_->arm(deadline);
}

void VcpuTime::thread_ends() {
  const std::scoped_lock lock(mutex_);
  alarm_.reset();
}

void VcpuTime::run_due() {
  u64 deadline = deadline_ns_.load();
  if (deadline == kNever || now_ns() < deadline) return;
  if (deadline_ns_.compare_exchange_strong(deadline, kNever)) timer_->call();
}

std::chrono::steady_clock::time_point VcpuTime::next() const {
  using std::chrono::steady_clock;
  // Waiting until the end of time overflows in some C++ libraries: a day from now is as good.
  constexpr std::chrono::hours kLong{24};
  const u64 deadline = deadline_ns_.load();
  const auto latest = steady_clock::now() + kLong;
  if (deadline == kNever) return latest;
  const std::chrono::nanoseconds host{static_cast<i64>(loop_.host_ns(deadline))};
  return std::min(steady_clock::time_point{host}, latest);
}

bool VcpuTime::set_alarm(u64 deadline_ns) {
  const std::scoped_lock lock(mutex_);
  return alarm_ && alarm_->set(loop_.host_ns(deadline_ns));
}

}  // namespace vert::machine

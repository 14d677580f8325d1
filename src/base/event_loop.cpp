#include "base/event_loop.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <future>
#include <limits>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "base/fd.hpp"
#include "base/post_proof.hpp"
#include "base/thread.hpp"

namespace vert::base {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr u64 kNever = std::numeric_limits<u64>::max();

u64 monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * kNanosecondsPerSecond + static_cast<u64>(now.tv_nsec);
}

/// The machine's clock over the host's: epoch is what lies between them, paused_at the time it stands at.
class PausableClock {
 public:
  [[nodiscard]] u64 now_ns() const {
    for (;;) {
      const u64 epoch = epoch_.load();
      const u64 paused_at = paused_at_.load();
      const u64 now = paused_at != kNever ? paused_at : monotonic_ns() - epoch;
      // A pause in between would let time jump back.
      if (epoch == epoch_.load() && paused_at == paused_at_.load()) return now;
    }
  }
  [[nodiscard]] bool paused() const { return paused_at_.load() != kNever; }
  void pause() { paused_at_.store(now_ns()); }
  void resume_at(u64 host_ns) {
    epoch_.store(host_ns - paused_at_.load());
    paused_at_.store(kNever);
  }
  /// On the host's clock; saturated to what a timespec can hold.
  [[nodiscard]] u64 host_ns(u64 deadline_ns) const {
    constexpr u64 kLatest = static_cast<u64>(std::numeric_limits<i64>::max());
    const u64 epoch = epoch_.load();
    return deadline_ns > kLatest - epoch ? kLatest : deadline_ns + epoch;
  }

 private:
  std::atomic<u64> epoch_ = monotonic_ns();
  std::atomic<u64> paused_at_ = kNever;
};

}  // namespace

/// Timers wait in a set ordered by deadline. A timerfd is set to the first of them, or sooner; any thread
/// may set it, so that arming a timer does not wake the loop. `mutex` is held over no callback.
struct EventLoop::Impl {
  class LoopTimer;
  class LoopWatch;
  struct Waiting {
    u64 deadline_ns;
    LoopTimer* timer;
    // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 misreads a defaulted comparison.
    auto operator<=>(const Waiting&) const = default;
  };

  explicit Impl(int timer_fd) : timer(context, timer_fd), work(context.get_executor()) {}

  [[nodiscard]] Status start();
  /// Error: timers never fire here.
  [[nodiscard]] Status prove();
  void stop();
  [[nodiscard]] bool on_loop_thread() const { return std::this_thread::get_id() == thread.get_id(); }

  void wait_for_timer();
  void fire_due();
  /// Sets the timerfd, if the first deadline is before what it is set to. With `mutex` held.
  void program();
  [[nodiscard]] bool set_timer(u64 deadline_ns);
  /// Until no timer's callback (or not that of `which`) runs.
  void wait_until_idle(std::unique_lock<std::mutex>& lock, const LoopTimer* which);

  PausableClock clock;
  asio::io_context context{1};
  asio::posix::stream_descriptor timer;
  asio::executor_work_guard<asio::io_context::executor_type> work;
  std::thread thread;

  std::mutex mutex;
  std::condition_variable idle;
  std::set<Waiting> waiting;
  const LoopTimer* running = nullptr;
  u64 programmed_ns = kNever;  // the clock's time that the timerfd is set to
};

class EventLoop::Impl::LoopTimer final : public Timer {
 public:
  LoopTimer(Impl& loop, std::function<void()> callback) : loop_(loop), callback_(std::move(callback)) {}
  LoopTimer(const LoopTimer&) = delete;
  LoopTimer& operator=(const LoopTimer&) = delete;
  ~LoopTimer() override {
    std::unique_lock lock(loop_.mutex);
    remove();
    loop_.wait_until_idle(lock, this);
  }
  void arm(u64 deadline_ns) override {
    const std::scoped_lock lock(loop_.mutex);
    remove();
    armed_ns_ = deadline_ns;
    armed_ = true;
    loop_.waiting.insert({deadline_ns, this});
    loop_.program();
  }
  void cancel() override {
    const std::scoped_lock lock(loop_.mutex);
    remove();
  }
  /// It fires: with `mutex` held.
  void remove() {
    if (std::exchange(armed_, false)) loop_.waiting.erase({armed_ns_, this});
  }
  void run() const { callback_(); }

 private:
  Impl& loop_;
  const std::function<void()> callback_;
  u64 armed_ns_ = 0;
  bool armed_ = false;
};

class EventLoop::Impl::LoopWatch final : public Watch {
 public:
  LoopWatch(Impl& loop, int fd, std::function<void()> callback)
      : loop_(loop), state_(std::make_shared<State>(loop, fd, std::move(callback))) {}
  /// To be called once, before anything else.
  [[nodiscard]] error_code open() { return state_->open(); }
  LoopWatch(const LoopWatch&) = delete;
  LoopWatch& operator=(const LoopWatch&) = delete;
  ~LoopWatch() override {
    VERT_CHECK(!loop_.on_loop_thread());
    std::promise<void> done;
    asio::post(loop_.context, [&] {
      state_->close();
      done.set_value();
    });
    done.get_future().wait();
  }
  void arm() override {
    asio::post(loop_.context, [state = state_] { state->wait(state); });
  }

 private:
  /// Touched on the loop's thread only; handlers on their way keep it alive.
  struct State {
    State(Impl& loop, int file, std::function<void()> on_readable)
        : fd(file), callback(std::move(on_readable)), descriptor(loop.context) {}
    ~State() { close(); }

    [[nodiscard]] error_code open() {
      error_code error;
      return descriptor.assign(fd, error);
    }

    void wait(const std::shared_ptr<State>& self) {
      if (!descriptor.is_open() || waiting) return;
      waiting = true;
      descriptor.async_wait(asio::posix::stream_descriptor::wait_read, [self](const error_code&) {
        self->waiting = false;
        // Errors count as readable: a regular file cannot be polled, and always is.
        if (self->descriptor.is_open()) self->callback();
      });
      // asio makes the descriptor non-blocking, and with it a terminal that we share with a shell.
      int off = 0;
      if (!was_non_blocking) ::ioctl(fd, FIONBIO, &off);
    }
    void close() {
      if (descriptor.is_open()) descriptor.release();
    }

    const int fd;
    const std::function<void()> callback;
    const bool was_non_blocking = (::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
    asio::posix::stream_descriptor descriptor;
    bool waiting = false;
  };

  Impl& loop_;
  std::shared_ptr<State> state_;
};

Status EventLoop::Impl::start() {
  wait_for_timer();
  VERT_ASSIGN(thread, start_thread("events", [this] { context.run(); }));
  return {};
}

/// A loop whose calls the host forbids would spin or sleep for ever, and the guest's clocks would stand
/// still.
Status EventLoop::Impl::prove() {
  constexpr std::chrono::seconds kPatience{5};
  std::promise<void> fired;
  LoopTimer probe(*this, [&fired] { fired.set_value(); });
  {
    const std::scoped_lock lock(mutex);
    if (!set_timer(clock.now_ns())) return make_system_error(errno, "cannot set a timer");
  }
  probe.arm(clock.now_ns());
  if (fired.get_future().wait_for(kPatience) != std::future_status::ready)
    return make_error("timers do not fire on this host: epoll is forbidden or out of watches");
  if (!posts_wake(context)) return make_error("epoll is forbidden on this host, or out of watches");
  return {};
}

void EventLoop::Impl::stop() {
  context.stop();
  if (thread.joinable()) thread.join();
}

void EventLoop::Impl::wait_for_timer() {
  timer.async_wait(asio::posix::stream_descriptor::wait_read, [this](const error_code& error) {
    if (error) return;
    fire_due();
    wait_for_timer();
  });
}

void EventLoop::Impl::fire_due() {
  constexpr int kAtMost = 64;  // then descriptors and posted work get their turn
  u64 expirations = 0;
  [[maybe_unused]] const auto read = ::read(timer.native_handle(), &expirations, sizeof expirations);
  std::unique_lock lock(mutex);
  programmed_ns = kNever;
  for (int i = 0; i < kAtMost && !clock.paused() && !waiting.empty(); ++i) {
    if (waiting.begin()->deadline_ns > clock.now_ns()) break;
    LoopTimer* due = waiting.begin()->timer;
    due->remove();
    running = due;
    lock.unlock();
    due->run();
    lock.lock();
    running = nullptr;
    idle.notify_all();
  }
  program();
}

void EventLoop::Impl::program() {
  if (clock.paused() || waiting.empty() || waiting.begin()->deadline_ns >= programmed_ns) return;
  programmed_ns = waiting.begin()->deadline_ns;
  VERT_CHECK(set_timer(programmed_ns));  // prove() has
}

bool EventLoop::Impl::set_timer(u64 deadline_ns) {
  const u64 host = clock.host_ns(deadline_ns);
  const itimerspec when = {
      {0, 0},
      {static_cast<time_t>(host / kNanosecondsPerSecond), static_cast<long>(host % kNanosecondsPerSecond)}};
  return ::timerfd_settime(timer.native_handle(), TFD_TIMER_ABSTIME, &when, nullptr) == 0;
}

void EventLoop::Impl::wait_until_idle(std::unique_lock<std::mutex>& lock, const LoopTimer* which) {
  if (on_loop_thread()) {
    VERT_CHECK(running == nullptr || running != which);
    return;
  }
  idle.wait(lock, [&] { return running == nullptr || (which != nullptr && running != which); });
}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  Fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.valid()) return make_system_error(errno, "cannot make a timer");
  try {
    auto impl = std::make_unique<Impl>(timer.get());
    static_cast<void>(timer.release());
    VERT_TRY(impl->start());
    if (Status proved = impl->prove(); !proved) {
      // The thread may never wake: it stays behind, with what it uses, until vert exits.
      impl->thread.detach();
      static_cast<void>(impl.release());
      return std::unexpected(std::move(proved).error());
    }
    return std::unique_ptr<EventLoop>(new EventLoop(std::move(impl)));
  } catch (const boost::system::system_error& error) {
    return make_system_error(error.code().value(), "cannot start the event loop");
  }
}

EventLoop::EventLoop(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

EventLoop::~EventLoop() { impl_->stop(); }

u64 EventLoop::now_ns() const { return impl_->clock.now_ns(); }

std::unique_ptr<Timer> EventLoop::make_timer(std::function<void()> callback) {
  return std::make_unique<Impl::LoopTimer>(*impl_, std::move(callback));
}

void EventLoop::pause() {
  std::unique_lock lock(impl_->mutex);
  if (!impl_->clock.paused()) impl_->clock.pause();
  impl_->wait_until_idle(lock, nullptr);
}

void EventLoop::resume() { resume_at(monotonic_ns()); }

void EventLoop::resume_at(u64 host_ns) {
  const std::scoped_lock lock(impl_->mutex);
  if (!impl_->clock.paused()) return;
  impl_->clock.resume_at(host_ns);
  impl_->programmed_ns = kNever;  // what it was set to is another time now
  impl_->program();
}

u64 EventLoop::host_ns(u64 clock_ns) const { return impl_->clock.host_ns(clock_ns); }

bool EventLoop::paused() const { return impl_->clock.paused(); }

void EventLoop::post(std::function<void()> work) { asio::post(impl_->context, std::move(work)); }

Result<std::unique_ptr<EventLoop::Watch>> EventLoop::watch(int fd, std::function<void()> callback) {
  auto watch = std::make_unique<Impl::LoopWatch>(*impl_, fd, std::move(callback));
  if (const auto error = watch->open(); error) return make_system_error(error.value(), "cannot watch a file");
  return watch;
}

}  // namespace vert::base

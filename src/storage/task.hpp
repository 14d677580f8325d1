// Task: a coroutine that runs on its IoContext's thread, for code that waits for the disk.
//
// A task runs at once until it first has to wait; whoever co_awaits it goes on when it ends. It is on one
// thread all its life and is finished before it is destroyed. Failures are values, as everywhere in vert:
// an exception ends the program.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

#include "base/error.hpp"

namespace vert::storage {

template <typename T>
class [[nodiscard]] Task {
 public:
  class promise_type {
   public:
    Task get_return_object() { return Task(Handle::from_promise(*this)); }
    std::suspend_never initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept { return ResumeAwaiter{}; }
    void unhandled_exception() noexcept { std::terminate(); }
    template <typename U>
    void return_value(U&& value) {
      value_.emplace(std::forward<U>(value));
    }

   private:
    friend class Task;
    struct ResumeAwaiter {
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> ended) noexcept {
        return ended.promise().awaiting_ ? ended.promise().awaiting_ : std::noop_coroutine();
      }
      void await_resume() noexcept {}
    };
    std::optional<T> value_;
    std::coroutine_handle<> awaiting_;
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  ~Task() {
    if (!handle_) return;
    VERT_CHECK(handle_.done());
    handle_.destroy();
  }

  [[nodiscard]] bool done() const { return handle_.done(); }
  /// Of a task that is done; once.
  [[nodiscard]] T take() { return std::move(*handle_.promise().value_); }

  // What co_await calls; one coroutine awaits a task.
  [[nodiscard]] bool await_ready() const { return done(); }
  void await_suspend(std::coroutine_handle<> awaiting) { handle_.promise().awaiting_ = awaiting; }
  [[nodiscard]] T await_resume() { return take(); }

 private:
  using Handle = std::coroutine_handle<promise_type>;
  explicit Task(Handle handle) : handle_(handle) {}
  Handle handle_;
};

/// A coroutine that nobody waits for: it runs at once and goes when it ends.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void unhandled_exception() noexcept { std::terminate(); }
    void return_void() {}
  };
};

}  // namespace vert::storage

/// VERT_TRY and VERT_ASSIGN for coroutines.
#define VERT_CO_TRY(expression)                                            \
  do {                                                                     \
    if (auto vert_try_result = (expression); !vert_try_result.has_value()) \
      co_return std::unexpected(std::move(vert_try_result).error());       \
  } while (false)
#define VERT_CO_ASSIGN(target, expression) \
  VERT_CO_ASSIGN_(target, expression, VERT_CONCAT_(vert_tmp_, __LINE__))
#define VERT_CO_ASSIGN_(target, expression, tmp)                           \
  auto tmp = (expression);                                                 \
  if (!tmp.has_value()) co_return std::unexpected(std::move(tmp).error()); \
  target = std::move(tmp).value()

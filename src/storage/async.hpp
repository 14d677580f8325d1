// What coroutines of one thread wait for each other with. Not for threads.
#pragma once

#include <coroutine>
#include <deque>
#include <utility>

#include "base/types.hpp"

namespace vert::storage {

/// Coroutines that wait for something to change, and then look again.
class WaitList {
 public:
  struct Awaiter {
    WaitList& list;
    [[nodiscard]] bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> waiting) { list.waiting_.push_back(waiting); }
    void await_resume() const {}
  };
  [[nodiscard]] Awaiter wait() { return {*this}; }
  void wake_one();
  void wake_all();
  [[nodiscard]] bool empty() const { return waiting_.empty(); }

 private:
  std::deque<std::coroutine_handle<>> waiting_;
};

/// `const auto guard = co_await mutex.lock();` First come, first served.
class Mutex {
 public:
  class Guard {
   public:
    explicit Guard(Mutex& mutex) : mutex_(&mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() { unlock(); }
    void unlock() {
      if (mutex_ != nullptr) std::exchange(mutex_, nullptr)->unlock();
    }

   private:
    Mutex* mutex_;
  };
  struct Awaiter {
    Mutex& mutex;
    [[nodiscard]] bool await_ready() const { return !std::exchange(mutex.locked_, true); }
    void await_suspend(std::coroutine_handle<> waiting) { mutex.waiting_.wait().await_suspend(waiting); }
    [[nodiscard]] Guard await_resume() const { return Guard(mutex); }
  };
  [[nodiscard]] Awaiter lock() { return {*this}; }

 private:
  void unlock() {
    if (waiting_.empty())
      locked_ = false;
    else
      waiting_.wake_one();  // it has the lock now
  }
  bool locked_ = false;
  WaitList waiting_;
};

}  // namespace vert::storage

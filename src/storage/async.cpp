#include "storage/async.hpp"

namespace vert::storage {
namespace {

/// Coroutines to go on with. The outermost call resumes all of them, so the stack stays flat however many
/// wait for each other.
void resume(std::coroutine_handle<> next) {
  thread_local std::deque<std::coroutine_handle<>> ready;
  thread_local bool running = false;
  ready.push_back(next);
  if (std::exchange(running, true)) return;
  while (!ready.empty()) {
    const auto handle = ready.front();
    ready.pop_front();
    handle.resume();
  }
  running = false;
}

}  // namespace

void WaitList::wake_one() {
  if (waiting_.empty()) return;
  const auto handle = waiting_.front();
  waiting_.pop_front();
  resume(handle);
}

void WaitList::wake_all() {
  // The list may go, or get new waiters, while they run.
  std::deque<std::coroutine_handle<>> all;
  all.swap(waiting_);
  for (const auto handle : all) resume(handle);
}

}  // namespace vert::storage

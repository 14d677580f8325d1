// Whether posting to an io_context wakes the thread that runs it.
//
// asio does not report when the host refuses to watch the descriptor that it wakes with (a limit on epoll's
// watches, a sandbox); the thread would then sleep for ever, and could not be stopped.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <chrono>
#include <future>
#include <memory>
#include <thread>

namespace vert::base {

/// To be called on another thread than the one that runs `context`. If false, that thread cannot be joined.
[[nodiscard]] inline bool posts_wake(boost::asio::io_context& context) {
  constexpr std::chrono::seconds kPatience{5};
  constexpr int kRounds = 3;  // the first ones may find the thread awake
  constexpr std::chrono::milliseconds kUntilItSleeps{1};
  for (int round = 0; round < kRounds; ++round) {
    const auto done = std::make_shared<std::promise<void>>();
    boost::asio::post(context, [done] { done->set_value(); });
    if (done->get_future().wait_for(kPatience) != std::future_status::ready) return false;
    std::this_thread::sleep_for(kUntilItSleeps);
  }
  return true;
}

}  // namespace vert::base

// Threads as vert starts them: named, and deaf to signals that are meant for the process.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "base/error.hpp"

namespace vert::base {

/// Starts a thread with all signals blocked but those that its own instructions raise. `name` has at most 15
/// characters. Error: the host has no more threads to give.
[[nodiscard]] Result<std::thread> start_thread(const std::string& name, std::function<void()> body);

}  // namespace vert::base

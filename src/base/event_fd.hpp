// How a thread wakes another one that polls.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vert::base {

/// An eventfd that does not block.
[[nodiscard]] Result<Fd> make_event_fd();

}  // namespace vert::base

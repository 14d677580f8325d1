#include "base/event_fd.hpp"

#include <sys/eventfd.h>

#include <cerrno>

namespace vert::base {

Result<Fd> make_event_fd() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return make_system_error(errno, "cannot make an eventfd");
  return fd;
}

}  // namespace vert::base

// A stack of host return addresses, which the host's RSP points into while generated code runs.
//
// Below it lies a page without access, and its last word leads to the thunk for returns without a call:
// running over or empty costs predictions, nothing else.
#pragma once

#include <sys/mman.h>

#include <cstring>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/types.hpp"

namespace vert::bt {

class ReturnStack {
 public:
  [[nodiscard]] static Result<ReturnStack> create() {
    VERT_ASSIGN(auto mapping,
                base::Mapping::map(kGuard + kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
    if (mprotect(mapping.data(), kGuard, PROT_NONE) != 0) return make_error("cannot protect a return stack");
    return ReturnStack(std::move(mapping));
  }
  /// The stack pointer of the empty stack. To be called again once the code cache was emptied.
  [[nodiscard]] u64 empty(const u8* return_empty) {
    u8* top = mapping_.data() + mapping_.size() - sizeof return_empty;
    std::memcpy(top, &return_empty, sizeof return_empty);
    return reinterpret_cast<u64>(top);
  }
  [[nodiscard]] bool overran(u64 address) const {
    return address - reinterpret_cast<u64>(mapping_.data()) < kGuard;
  }

 private:
  static constexpr std::size_t kGuard = 4096;
  static constexpr std::size_t kSize = 64 * 1024;
  explicit ReturnStack(base::Mapping mapping) : mapping_(std::move(mapping)) {}
  base::Mapping mapping_;
};

}  // namespace vert::bt

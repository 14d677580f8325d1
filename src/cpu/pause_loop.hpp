// Notices a vCPU that spins, and leaves the host's processor to others meanwhile: perhaps to the vCPU that it
// waits for.
//
// As processors do it for hypervisors (SDM 3C, 25.1.3, PAUSE-loop exiting): PAUSEs that follow each other
// closely belong to a loop, and a loop that lasts is given up. Owned by an engine, on its vCPU's thread.
#pragma once

#include "base/types.hpp"

namespace vert::cpu {

class PauseLoop {
 public:
  /// So many PAUSEs make a window: about as long as KVM lets a guest spin.
  static constexpr u32 kWindow = 64;

  /// A PAUSE was executed.
  void count() {
    if (--left_ != 0) return;
    left_ = kWindow;
    end_window();
  }
  /// kWindow of them were, since the last call.
  void end_window();

 private:
  u32 left_ = kWindow;
  u64 began_ = 0;  // by the host's TSC
};

}  // namespace vert::cpu

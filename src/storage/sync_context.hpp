// IoContext that makes each system call at once and waits for it: for a process that may have no threads.
#pragma once

#include <deque>

#include "storage/io_context.hpp"

namespace vert::storage {

class SyncContext final : public IoContext {
 public:
  void run_once(Wait wait) override;
  /// Nothing waits here.
  void wake() override {}

 private:
  void submit(IoOperation& operation) override { submitted_.push_back(&operation); }

  std::deque<IoOperation*> submitted_;
};

}  // namespace vert::storage

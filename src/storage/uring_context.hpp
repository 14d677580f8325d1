// IoContext on io_uring(7).
#pragma once

#include <liburing.h>

#include "base/fd.hpp"
#include "storage/io_context.hpp"

namespace vert::storage {

class UringContext final : public IoContext {
 public:
  [[nodiscard]] static Result<std::unique_ptr<IoContext>> create();
  ~UringContext() override;

  void run_once(Wait wait) override;
  void wake() override;

 private:
  static constexpr unsigned kEntries = 256;

  UringContext() = default;
  void submit(IoOperation& operation) override;
  [[nodiscard]] io_uring_sqe& next_entry();
  void watch_wake_up();

  io_uring ring_{};
  base::Fd wake_up_;  // an eventfd that a read of the ring's waits on
  u64 wake_ups_ = 0;  // what it read
};

}  // namespace vert::storage

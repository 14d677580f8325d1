// IoContext on a few threads that make blocking system calls.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "storage/io_context.hpp"

namespace vert::storage {

class PoolContext final : public IoContext {
 public:
  [[nodiscard]] static Result<std::unique_ptr<IoContext>> create();
  ~PoolContext() override;

  void run_once(Wait wait) override;
  void wake() override;

 private:
  static constexpr unsigned kThreads = 8;
  struct Ended {
    IoOperation* operation;
    i64 result;
  };

  PoolContext() = default;
  void submit(IoOperation& operation) override;
  void work();

  std::mutex mutex_;
  std::condition_variable submitted_;
  std::condition_variable changed_;
  std::deque<IoOperation*> waiting_;
  std::vector<Ended> ended_;
  bool woken_ = false;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace vert::storage

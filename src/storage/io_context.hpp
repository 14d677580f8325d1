// Asynchronous file I/O of one thread: by io_uring, or by a pool of threads where the host forbids that
// (many containers do).
//
// All calls but wake() come from one thread, on which coroutines that wait for an operation go on, too.
#pragma once

#include <coroutine>
#include <functional>
#include <memory>

#include "base/error.hpp"
#include "storage/buffers.hpp"
#include "storage/task.hpp"

namespace vert::storage {

class IoContext;

/// One operation on a file; `co_await` gives what its system call returns, or -errno.
class [[nodiscard]] IoOperation {
 public:
  enum class Kind : u8 { kRead, kWrite, kDataSync, kAllocate };

  IoOperation(IoContext& context, Kind what, int file) : kind(what), fd(file), context_(context) {}

  [[nodiscard]] bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> waiting);
  [[nodiscard]] i64 await_resume() const { return result_; }

  /// For the context: the operation has ended.
  void finish(i64 result) {
    result_ = result;
    waiting_.resume();
  }

  // Arguments of the system call.
  const Kind kind;
  const int fd;
  Buffers buffers;
  u64 offset = 0;
  u64 length = 0;
  int mode = 0;

 private:
  IoContext& context_;
  i64 result_ = 0;
  std::coroutine_handle<> waiting_;
};

class IoContext {
 public:
  /// Of which kind. kAny is the better of the others that the host allows.
  enum class Kind : u8 { kAny, kUring, kPool };
  /// Error: the host has no more memory or threads to give, or forbids what was asked for.
  [[nodiscard]] static Result<std::unique_ptr<IoContext>> create(Kind kind = Kind::kAny);
  virtual ~IoContext() = default;
  IoContext(const IoContext&) = delete;
  IoContext& operator=(const IoContext&) = delete;

  /// At most IOV_MAX pieces; may be short. `buffers` stays valid until the operation ends.
  [[nodiscard]] IoOperation read(int fd, Buffers buffers, u64 offset);
  [[nodiscard]] IoOperation write(int fd, Buffers buffers, u64 offset);
  /// As fdatasync(2).
  [[nodiscard]] IoOperation data_sync(int fd);
  /// As fallocate(2).
  [[nodiscard]] IoOperation allocate(int fd, int mode, u64 offset, u64 length);

  /// Goes on with whatever an operation has ended for. With kWait, waits until that is one at least, or
  /// until wake().
  enum class Wait : u8 { kWait, kLook };
  virtual void run_once(Wait wait) = 0;
  /// Makes run_once() return, now or the next time. Any thread.
  virtual void wake() = 0;

  /// Runs until the task is done; for callers that have nothing else to do.
  template <typename T>
  [[nodiscard]] T complete(Task<T> task) {
    while (!task.done()) run_once(Wait::kWait);
    return task.take();
  }

 protected:
  IoContext() = default;

 private:
  friend class IoOperation;
  virtual void submit(IoOperation& operation) = 0;
};

}  // namespace vert::storage

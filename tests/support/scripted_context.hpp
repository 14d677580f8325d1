// An IoContext whose operations end in a random order that is the same each time, and fail when they are told
// to: for tests.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <vector>

#include "storage/io_context.hpp"
#include "support/random.hpp"

namespace vert::test {

class ScriptedContext final : public storage::IoContext {
 public:
  explicit ScriptedContext(u64 seed) : random_(seed) {}

  /// Asked before each operation: an errno value instead of doing it, or 0.
  std::function<int(const storage::IoOperation&)> fault;
  /// As on a full disk: a file does not grow beyond that.
  u64 room = ~u64{0};
  u64 operations = 0;

  void run_once(Wait) override {
    if (waiting_.empty()) return;
    const auto chosen = waiting_.begin() + static_cast<std::ptrdiff_t>(random_.below(waiting_.size()));
    storage::IoOperation* const operation = *chosen;
    waiting_.erase(chosen);
    ++operations;
    operation->finish(run(*operation));
  }
  void wake() override {}
  [[nodiscard]] bool is_idle() const { return waiting_.empty(); }

 private:
  using Kind = storage::IoOperation::Kind;

  void submit(storage::IoOperation& operation) override { waiting_.push_back(&operation); }

  i64 run(const storage::IoOperation& operation) {
    if (const int error = fault ? fault(operation) : 0; error != 0) return -error;
    const u64 end = operation.offset + storage::total_size(operation.buffers);
    if (operation.kind == Kind::kWrite && end > room &&
        ::lseek(operation.fd, 0, SEEK_END) < static_cast<off_t>(end))
      return -ENOSPC;
    const i64 result = call(operation);
    return result < 0 ? -errno : result;
  }

  static i64 call(const storage::IoOperation& operation) {
    const auto pieces = static_cast<int>(operation.buffers.size());
    const auto offset = static_cast<off_t>(operation.offset);
    switch (operation.kind) {
      case Kind::kRead: return ::preadv(operation.fd, operation.buffers.data(), pieces, offset);
      case Kind::kWrite: return ::pwritev(operation.fd, operation.buffers.data(), pieces, offset);
      case Kind::kDataSync: return 0;  // the tests do not cut the power
      case Kind::kAllocate: break;
    }
    return ::fallocate(operation.fd, operation.mode, offset, static_cast<off_t>(operation.length));
  }

  Random random_;
  std::vector<storage::IoOperation*> waiting_;
};

}  // namespace vert::test

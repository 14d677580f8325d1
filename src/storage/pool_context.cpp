#include "storage/pool_context.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include <utility>

#include "base/thread.hpp"

namespace vert::storage {
namespace {

i64 call(const IoOperation& operation) {
  const auto pieces = static_cast<int>(operation.buffers.size());
  const auto offset = static_cast<off_t>(operation.offset);
  switch (operation.kind) {
    case IoOperation::Kind::kRead: return ::preadv(operation.fd, operation.buffers.data(), pieces, offset);
    case IoOperation::Kind::kWrite: return ::pwritev(operation.fd, operation.buffers.data(), pieces, offset);
    case IoOperation::Kind::kDataSync: return ::fdatasync(operation.fd);
    case IoOperation::Kind::kAllocate: break;
  }
  return ::fallocate(operation.fd, operation.mode, offset, static_cast<off_t>(operation.length));
}

}  // namespace

Result<std::unique_ptr<IoContext>> PoolContext::create() {
  std::unique_ptr<PoolContext> context(new PoolContext());
  for (unsigned i = 0; i < kThreads; ++i) {
    auto thread = base::start_thread("disk-io", [&self = *context] { self.work(); });
    if (!thread) return std::unexpected(std::move(thread).error());
    context->threads_.push_back(std::move(*thread));
  }
  return context;
}

PoolContext::~PoolContext() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  submitted_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void PoolContext::submit(IoOperation& operation) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(&operation);
  }
  submitted_.notify_one();
}

void PoolContext::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    submitted_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    IoOperation* const operation = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    i64 result = call(*operation);
    if (result < 0) result = -errno;
    lock.lock();
    ended_.push_back({operation, result});
    changed_.notify_one();
  }
}

void PoolContext::run_once(Wait wait) {
  std::vector<Ended> ended;
  {
    std::unique_lock lock(mutex_);
    if (wait == Wait::kWait) changed_.wait(lock, [this] { return woken_ || !ended_.empty(); });
    woken_ = false;
    ended.swap(ended_);
  }
  for (const Ended& one : ended) one.operation->finish(one.result);
}

void PoolContext::wake() {
  {
    const std::lock_guard lock(mutex_);
    woken_ = true;
  }
  changed_.notify_one();
}

}  // namespace vert::storage

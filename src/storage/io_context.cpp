#include "storage/io_context.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "storage/pool_context.hpp"
#include "storage/sync_context.hpp"
#include "storage/uring_context.hpp"

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

i64 blocking_call(const IoOperation& operation) {
  const i64 result = call(operation);
  return result < 0 ? -errno : result;
}

void IoOperation::await_suspend(std::coroutine_handle<> waiting) {
  waiting_ = waiting;
  context_.submit(*this);
}

Result<std::unique_ptr<IoContext>> IoContext::create(Kind kind) {
  if (kind == Kind::kSync) return std::make_unique<SyncContext>();
  if (kind != Kind::kPool) {
    auto uring = UringContext::create();
    if (uring || kind == Kind::kUring) return uring;
  }
  return PoolContext::create();
}

IoOperation IoContext::read(int fd, Buffers buffers, u64 offset) {
  IoOperation operation(*this, IoOperation::Kind::kRead, fd);
  operation.buffers = buffers;
  operation.offset = offset;
  return operation;
}

IoOperation IoContext::write(int fd, Buffers buffers, u64 offset) {
  IoOperation operation(*this, IoOperation::Kind::kWrite, fd);
  operation.buffers = buffers;
  operation.offset = offset;
  return operation;
}

IoOperation IoContext::data_sync(int fd) { return {*this, IoOperation::Kind::kDataSync, fd}; }

IoOperation IoContext::allocate(int fd, int mode, u64 offset, u64 length) {
  IoOperation operation(*this, IoOperation::Kind::kAllocate, fd);
  operation.mode = mode;
  operation.offset = offset;
  operation.length = length;
  return operation;
}

}  // namespace vert::storage

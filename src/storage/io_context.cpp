#include "storage/io_context.hpp"

#include "storage/pool_context.hpp"
#include "storage/uring_context.hpp"

namespace vert::storage {
void IoOperation::await_suspend(std::coroutine_handle<> waiting) {
  waiting_ = waiting;
  context_.submit(*this);
}

Result<std::unique_ptr<IoContext>> IoContext::create(Kind kind) {
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

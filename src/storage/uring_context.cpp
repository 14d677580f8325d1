#include "storage/uring_context.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <array>

namespace vert::storage {

Result<std::unique_ptr<IoContext>> UringContext::create() {
  std::unique_ptr<UringContext> context(new UringContext());
  context->wake_up_ = base::Fd(::eventfd(0, EFD_CLOEXEC));
  if (!context->wake_up_.valid()) return make_system_error(errno, "cannot make an eventfd");
  if (const int status = ::io_uring_queue_init(kEntries, &context->ring_, 0); status < 0) {
    context->ring_.ring_fd = -1;
    return make_system_error(-status, "cannot use io_uring");
  }
  context->watch_wake_up();
  // A sandbox may allow a ring, and then not let it be used.
  if (const int status = ::io_uring_submit(&context->ring_); status < 0)
    return make_system_error(-status, "cannot use io_uring");
  return context;
}

UringContext::~UringContext() {
  if (ring_.ring_fd >= 0) ::io_uring_queue_exit(&ring_);
}

io_uring_sqe& UringContext::next_entry() {
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  while (entry == nullptr) {  // the submission queue is full: the kernel takes all of it
    ::io_uring_submit(&ring_);
    entry = ::io_uring_get_sqe(&ring_);
  }
  return *entry;
}

void UringContext::watch_wake_up() {
  io_uring_sqe& entry = next_entry();
  ::io_uring_prep_read(&entry, wake_up_.get(), &wake_ups_, sizeof wake_ups_, 0);
  ::io_uring_sqe_set_data(&entry, nullptr);
}

void UringContext::submit(IoOperation& operation) {
  io_uring_sqe& entry = next_entry();
  const auto pieces = static_cast<unsigned>(operation.buffers.size());
  switch (operation.kind) {
    case IoOperation::Kind::kRead:
      ::io_uring_prep_readv(&entry, operation.fd, operation.buffers.data(), pieces, operation.offset);
      break;
    case IoOperation::Kind::kWrite:
      ::io_uring_prep_writev(&entry, operation.fd, operation.buffers.data(), pieces, operation.offset);
      break;
    case IoOperation::Kind::kDataSync:
      ::io_uring_prep_fsync(&entry, operation.fd, IORING_FSYNC_DATASYNC);
      break;
    case IoOperation::Kind::kAllocate:
      ::io_uring_prep_fallocate(&entry, operation.fd, operation.mode, static_cast<off_t>(operation.offset),
                                static_cast<off_t>(operation.length));
      break;
  }
  ::io_uring_sqe_set_data(&entry, &operation);
}

void UringContext::run_once(Wait wait) {
  // An interrupted wait shows as one that brought nothing.
  ::io_uring_submit_and_wait(&ring_, wait == Wait::kWait ? 1 : 0);
  std::array<io_uring_cqe*, 64> ended{};
  const unsigned count = ::io_uring_peek_batch_cqe(&ring_, ended.data(), ended.size());
  for (unsigned i = 0; i < count; ++i) {
    auto* const operation = static_cast<IoOperation*>(::io_uring_cqe_get_data(ended[i]));
    const i64 result = ended[i]->res;
    // Seen before it is acted on: what goes on now may submit more.
    ::io_uring_cqe_seen(&ring_, ended[i]);
    if (operation != nullptr)
      operation->finish(result);
    else
      watch_wake_up();
  }
}

void UringContext::wake() {
  const u64 one = 1;
  // It can only fail with 2^64 - 1 wake-ups pending.
  static_cast<void>(!::write(wake_up_.get(), &one, sizeof one));
}

}  // namespace vert::storage

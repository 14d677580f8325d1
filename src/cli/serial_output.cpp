// The buffer and the writing thread; see serial_output.hpp.
#include "cli/serial_output.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/event_fd.hpp"
#include "base/log.hpp"
#include "base/thread.hpp"

namespace vert::cli {
namespace {

/// A queue of bytes in a fixed ring.
class ByteRing {
 public:
  explicit ByteRing(std::size_t capacity) : bytes_(capacity) {}

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t room() const { return bytes_.size() - size_; }

  /// Takes as many as fit; returns how many.
  std::size_t push(std::span<const u8> bytes) {
    const std::size_t count = std::min(bytes.size(), room());
    for (std::size_t i = 0; i < count; ++i) bytes_[(head_ + size_ + i) % bytes_.size()] = bytes[i];
    size_ += count;
    return count;
  }
  /// Copies from the front without taking.
  std::size_t peek(std::span<u8> out) const {
    const std::size_t count = std::min(out.size(), size_);
    for (std::size_t i = 0; i < count; ++i) out[i] = bytes_[(head_ + i) % bytes_.size()];
    return count;
  }
  void pop(std::size_t count) {
    head_ = (head_ + count) % bytes_.size();
    size_ -= count;
  }

 private:
  std::vector<u8> bytes_;
  std::size_t head_ = 0;
  std::size_t size_ = 0;
};

/// The most that is written at once: on a descriptor that blocks, this much always fits after POLLOUT.
constexpr std::size_t kChunk = 512;
constexpr std::size_t kNonblockingChunk = 16384;
constexpr std::size_t kNoteBytes = 96;

bool is_gone(int error_number, bool regular_file) {
  return !regular_file && (error_number == EPIPE || error_number == EIO || error_number == ENXIO ||
                           error_number == ECONNRESET || error_number == EBADF);
}

}  // namespace

struct SerialOutput::Shared {
  Shared(base::Fd output, base::Fd wake_up, Limits limit, std::function<void(int)> lost)
      : fd(std::move(output)),
        wake(std::move(wake_up)),
        limits(limit),
        on_lost(std::move(lost)),
        queue(limit.buffer_bytes) {}

  void note_dropped_bytes();
  void give_up(int error_number);
  bool wait_writable();
  bool write_some(std::span<const u8> bytes);

  const base::Fd fd;
  const base::Fd wake;
  const Limits limits;
  const std::function<void(int)> on_lost;

  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  ByteRing queue;
  bool regular_file = false;
  bool nonblocking = false;
  bool stalled = false;    // the consumer took nothing for `patience`: drop without waiting
  bool abandoned = false;  // drop everything
  bool finished = false;   // the thread is through
  bool warned = false;
  u64 dropped = 0;
  u64 progress = 0;  // bytes that have left the queue
};

/// Called with the mutex held, once the consumer takes bytes again.
void SerialOutput::Shared::note_dropped_bytes() {
  stalled = false;
  if (dropped == 0 || queue.room() < kNoteBytes) return;
  const std::string note =
      fmt::format("\r\n[vert: {} bytes of the guest's output were lost here]\r\n", dropped);
  queue.push({reinterpret_cast<const u8*>(note.data()), note.size()});
  dropped = 0;
}

/// Nothing can be written from now on.
void SerialOutput::Shared::give_up(int error_number) {
  std::unique_lock lock(mutex);
  const bool tell = !std::exchange(abandoned, true);
  changed.notify_all();
  lock.unlock();
  if (tell && on_lost) on_lost(error_number);
}

/// True when the output can be written to, false when there is no point in going on.
bool SerialOutput::Shared::wait_writable() {
  std::array<pollfd, 2> fds = {pollfd{fd.get(), POLLOUT, 0}, pollfd{wake.get(), POLLIN, 0}};
  while (poll(fds.data(), fds.size(), -1) < 0) {
    if (errno == EINTR) continue;
    give_up(errno);
    return false;
  }
  return fds[1].revents == 0;
}

/// Writes once and takes what was written from the queue. False when there is no point in going on.
bool SerialOutput::Shared::write_some(std::span<const u8> bytes) {
  const ssize_t written = ::write(fd.get(), bytes.data(), bytes.size());
  const int error_number = errno;
  if (written < 0 && (error_number == EINTR || error_number == EAGAIN)) return true;

  if (written < 0 && is_gone(error_number, regular_file)) {
    give_up(error_number);
    return false;
  }
  const std::scoped_lock lock(mutex);
  if (written < 0 && !warned) {
    warned = true;
    base::log(base::LogLevel::kWarning, "cannot write the serial console's output: {}; it is lost",
              std::strerror(error_number));
  }
  const std::size_t gone = written < 0 ? bytes.size() : static_cast<std::size_t>(written);
  queue.pop(gone);
  progress += gone;
  note_dropped_bytes();
  changed.notify_all();
  return true;
}

Result<std::unique_ptr<SerialOutput>> SerialOutput::start(base::Fd fd, Limits limits,
                                                          std::function<void(int)> on_lost) {
  VERT_ASSIGN(base::Fd wake, base::make_event_fd());
  auto shared = std::make_shared<Shared>(std::move(fd), std::move(wake), limits, std::move(on_lost));
  struct stat info = {};
  shared->regular_file = fstat(shared->fd.get(), &info) == 0 && S_ISREG(info.st_mode);
  shared->nonblocking = shared->regular_file || (fcntl(shared->fd.get(), F_GETFL) & O_NONBLOCK) != 0;
  std::unique_ptr<SerialOutput> output(new SerialOutput(shared));
  VERT_ASSIGN(output->thread_, base::start_thread("serial-output", [shared] { write_out(shared); }));
  return output;
}

SerialOutput::~SerialOutput() {
  if (!thread_.joinable()) return;
  abandon();
  std::unique_lock lock(shared_->mutex);
  const bool ended =
      shared_->changed.wait_for(lock, std::chrono::milliseconds(500), [&] { return shared_->finished; });
  lock.unlock();
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

Result<base::Fd> SerialOutput::duplicate_for_output(int fd) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) return make_system_error(errno, "the serial console's output");
  // Opening anew makes a file description of our own, so O_NONBLOCK does not reach the shell's. A regular
  // file would lose its offset that way, and needs it not.
  if (!S_ISREG(info.st_mode) && !S_ISSOCK(info.st_mode)) {
    base::Fd own(
        open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (own.valid()) return own;
  }
  base::Fd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.valid()) return make_system_error(errno, "the serial console's output");
  return copy;
}

void SerialOutput::write(std::span<const u8> bytes) {
  std::unique_lock lock(shared_->mutex);
  while (!bytes.empty() && !shared_->abandoned) {
    if (shared_->queue.room() == 0 && !shared_->stalled) {
      const bool moved = shared_->changed.wait_for(
          lock, shared_->limits.patience, [&] { return shared_->queue.room() > 0 || shared_->abandoned; });
      shared_->stalled = !moved;
      continue;
    }
    if (shared_->stalled) {
      shared_->dropped += bytes.size();
      return;
    }
    const bool was_empty = shared_->queue.size() == 0;
    bytes = bytes.subspan(shared_->queue.push(bytes));
    if (was_empty) shared_->changed.notify_all();
  }
}

void SerialOutput::abandon() {
  const std::lock_guard lock(shared_->mutex);
  shared_->abandoned = true;
  shared_->changed.notify_all();
  eventfd_write(shared_->wake.get(), 1);
}

bool SerialOutput::drain(std::chrono::milliseconds patience) {
  std::unique_lock lock(shared_->mutex);
  const auto empty = [&] { return shared_->queue.size() == 0 || shared_->abandoned; };
  while (!empty()) {
    const u64 before = shared_->progress;
    shared_->changed.wait_for(lock, patience, [&] { return empty() || shared_->progress != before; });
    if (shared_->progress == before && !empty()) return false;
  }
  return shared_->queue.size() == 0;
}

void SerialOutput::write_out(const std::shared_ptr<Shared>& shared) {
  std::vector<u8> chunk(shared->nonblocking ? kNonblockingChunk : kChunk);
  for (;;) {
    std::size_t count = 0;
    {
      std::unique_lock lock(shared->mutex);
      shared->changed.wait(lock, [&] { return shared->queue.size() > 0 || shared->abandoned; });
      if (shared->abandoned) break;
      count = shared->queue.peek(chunk);
    }
    if (!shared->regular_file && !shared->wait_writable()) break;
    if (!shared->write_some(std::span(chunk).first(count))) break;
  }
  const std::lock_guard lock(shared->mutex);
  shared->finished = true;
  shared->changed.notify_all();
}

}  // namespace vert::cli

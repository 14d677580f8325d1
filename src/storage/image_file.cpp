#include "storage/image_file.hpp"

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>

namespace vert::storage {
namespace {

// The bytes that QEMU locks, too, so that each sees the other (block/file-posix.c): a shared lock for each
// right that is used, and one for each that others may not use.
constexpr off_t kUsedBase = 100;
constexpr off_t kRefusedBase = 200;
enum Right : unsigned { kConsistentRead = 0, kWrite = 1, kResize = 3 };

Status shared_lock(int fd, off_t at) {
  struct flock lock = {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
  return make_system_error(errno, "lock");
}

void unlock(int fd) {
  struct flock lock = {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = kUsedBase;
  lock.l_len = 2 * (kRefusedBase - kUsedBase);
  static_cast<void>(::fcntl(fd, F_OFD_SETLK, &lock));
}

/// Whether another user has a lock there.
bool is_locked(int fd, off_t at) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool is_aligned(u64 offset, Buffers buffers, u64 alignment) {
  const auto fits = [&](u64 value) { return value % alignment == 0; };
  return fits(offset) && std::ranges::all_of(buffers, [&](const iovec& piece) {
           return fits(std::bit_cast<u64>(piece.iov_base)) && fits(piece.iov_len);
         });
}

}  // namespace

Result<std::unique_ptr<ImageFile>> ImageFile::open(IoContext& context, const std::string& path,
                                                   const FileOptions& options) {
  std::unique_ptr<ImageFile> file(new ImageFile(context, path, options));
  const int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
  file->fd_ = base::Fd(::open(path.c_str(), flags | O_NONBLOCK));  // a FIFO does not hold us up
  if (!file->fd_.valid()) {
    const int error = errno;
    const bool denied = error == EACCES || error == EPERM || error == EROFS;
    return make_system_error(error, denied && !options.read_only
                                        ? fmt::format("cannot open '{}' for writing", path)
                                        : fmt::format("cannot open '{}'", path));
  }
  struct stat info = {};
  if (::fstat(file->fd_.get(), &info) != 0) return make_system_error(errno, fmt::format("'{}'", path));
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode))
    return make_error("'{}' is neither a file nor a block device", path);
  // With it, io_uring would answer EAGAIN where it has to wait.
  if (::fcntl(file->fd_.get(), F_SETFL, 0) != 0) return make_system_error(errno, fmt::format("'{}'", path));
  if (options.lock) VERT_TRY(file->lock());
  if (options.cache == CacheMode::kNone) {
    const std::string again = fmt::format("/proc/self/fd/{}", file->fd_.get());
    file->direct_ = base::Fd(::open(again.c_str(), flags | O_DIRECT));
    if (!file->direct_.valid())
      return make_system_error(errno, fmt::format("the file system of '{}' has no cache=none", path));
    file->direct_alignment_ = std::max<u64>(static_cast<u64>(info.st_blksize), 4096);
  }
  return file;
}

Result<std::unique_ptr<ImageFile>> ImageFile::create(IoContext& context, const std::string& path) {
  // What another process uses is not emptied: it is locked first.
  base::Fd made(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666));
  if (!made.valid()) return make_system_error(errno, fmt::format("cannot create '{}'", path));
  VERT_ASSIGN(auto file, open(context, path, {}));
  struct stat info = {};
  if (::fstat(file->fd_.get(), &info) == 0 && S_ISREG(info.st_mode)) VERT_TRY(file->set_size(0));
  return file;
}

/// A process that was killed is gone a moment before its requests to io_uring, which keep its locks.
Status ImageFile::lock() {
  constexpr auto kPatience = std::chrono::seconds(1);
  constexpr auto kPause = std::chrono::milliseconds(10);
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    Status locked = try_lock();
    if (locked || std::chrono::steady_clock::now() >= end) return locked;
    unlock(fd_.get());
    std::this_thread::sleep_for(kPause);
  }
}

/// Readers share an image; a writer has it alone. File systems without such locks do without.
Status ImageFile::try_lock() {
  const int fd = fd_.get();
  const auto busy = [&]() -> Status {
    return std::unexpected(
        Error{fmt::format("'{}' is in use by another process; stop that, or open it with readonly{}", path_,
                          options_.read_only ? " there, too" : " in both"),
              EBUSY});
  };
  const auto take = [&](off_t at) {
    const auto taken = shared_lock(fd, at);
    return taken || (taken.error().system_error != EAGAIN && taken.error().system_error != EACCES);
  };
  bool taken = take(kUsedBase + kConsistentRead);
  if (!options_.read_only) taken = taken && take(kUsedBase + kWrite) && take(kUsedBase + kResize);
  taken = taken && take(kRefusedBase + kWrite) && take(kRefusedBase + kResize);
  if (!taken || is_locked(fd, kUsedBase + kWrite) || is_locked(fd, kUsedBase + kResize)) return busy();
  if (is_locked(fd, kRefusedBase + kConsistentRead)) return busy();
  if (options_.read_only) return {};
  return is_locked(fd, kRefusedBase + kWrite) || is_locked(fd, kRefusedBase + kResize) ? busy() : Status{};
}

Result<u64> ImageFile::size() const {
  struct stat info = {};
  if (::fstat(fd_.get(), &info) != 0) return make_system_error(errno, fmt::format("'{}'", path_));
  u64 size = static_cast<u64>(info.st_size);
  if (S_ISBLK(info.st_mode) && ::ioctl(fd_.get(), BLKGETSIZE64, &size) != 0)
    return make_system_error(errno, fmt::format("the size of '{}'", path_));
  return size;
}

ImageFile::Identity ImageFile::identity() const {
  struct stat info = {};
  if (::fstat(fd_.get(), &info) != 0) return {};
  return {info.st_dev, info.st_ino};
}

u64 ImageFile::allocated_size() const {
  struct stat info = {};
  return ::fstat(fd_.get(), &info) == 0 ? static_cast<u64>(info.st_blocks) * 512 : 0;
}

Status ImageFile::set_size(u64 size) {
  VERT_ASSIGN(const u64 now, this->size());
  if (now == size) return {};
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) == 0) return {};
  return make_system_error(errno, fmt::format("cannot give '{}' {} bytes", path_, size));
}

/// What is not aligned as O_DIRECT wants it goes through the page cache, which Linux keeps coherent.
int ImageFile::fd_for(u64 offset, Buffers buffers) const {
  const bool direct = direct_.valid() && is_aligned(offset, buffers, direct_alignment_);
  return direct ? direct_.get() : fd_.get();
}

Error ImageFile::failure(i64 result, const char* what) const {
  return make_system_error(static_cast<int>(-result), fmt::format("cannot {} '{}'", what, path_)).error();
}

Status ImageFile::check_end(u64 end) const {
  if (unit_ == 0) return {};
  VERT_ASSIGN(const u64 size, this->size());
  if (end <= (size + unit_ - 1) / unit_ * unit_) return {};
  return std::unexpected(Error{
      fmt::format("'{}' is cut short: it ends at byte {}, and {} are to be read", path_, size, end), EIO});
}

Task<Status> ImageFile::read(u64 offset, Buffers buffers) {
  u64 done = 0;
  std::vector<iovec> rest;
  for (const u64 size = total_size(buffers); done < size;) {
    const i64 got =
        co_await context_.read(fd_for(offset + done, buffers),
                               buffers.first(std::min<std::size_t>(buffers.size(), IOV_MAX)), offset + done);
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got < 0) co_return std::unexpected(failure(got, "read"));
    if (got == 0) {  // the end of the file
      VERT_CO_TRY(check_end(offset + size));
      fill_zero(buffers);
      co_return Status{};
    }
    done += static_cast<u64>(got);
    if (done == size) break;
    rest = slice(buffers, static_cast<u64>(got), size - done);
    buffers = rest;
  }
  co_return Status{};
}

Task<Status> ImageFile::write(u64 offset, Buffers buffers) {
  const u64 size = total_size(buffers);
  u64 done = 0;
  std::vector<iovec> rest;
  while (done < size) {
    const i64 got =
        co_await context_.write(fd_for(offset + done, buffers),
                                buffers.first(std::min<std::size_t>(buffers.size(), IOV_MAX)), offset + done);
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got <= 0) co_return std::unexpected(failure(got == 0 ? -ENOSPC : got, "write"));
    done += static_cast<u64>(got);
    if (done == size) break;
    rest = slice(buffers, static_cast<u64>(got), size - done);
    buffers = rest;
  }
  if (options_.cache == CacheMode::kWritethrough) co_return co_await flush();
  co_return Status{};
}

Task<Status> ImageFile::flush() {
  if (options_.cache == CacheMode::kUnsafe) co_return Status{};
  const i64 result = co_await context_.data_sync(fd_.get());
  if (result < 0) co_return std::unexpected(failure(result, "flush"));
  co_return Status{};
}

Task<Status> ImageFile::punch_hole(u64 offset, u64 length) {
  const i64 result =
      co_await context_.allocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
  if (result < 0) co_return std::unexpected(failure(result, "punch a hole into"));
  co_return Status{};
}

Task<Status> ImageFile::zero_range(u64 offset, u64 length) {
  const i64 result =
      co_await context_.allocate(fd_.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
  if (result < 0) co_return std::unexpected(failure(result, "write zeroes to"));
  co_return Status{};
}

ImageFile::Extent ImageFile::extent(u64 offset, u64 length) const {
  const auto at = static_cast<off_t>(offset);
  const off_t data = ::lseek(fd_.get(), at, SEEK_DATA);
  if (data < 0) return {length, errno != ENXIO};  // ENXIO: nothing but a hole up to the end
  if (data > at) return {std::min(length, static_cast<u64>(data - at)), false};
  const off_t hole = ::lseek(fd_.get(), at, SEEK_HOLE);
  return {hole > at ? std::min(length, static_cast<u64>(hole - at)) : length, true};
}

}  // namespace vert::storage

#include "base/fd.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>

namespace vert::base {

namespace {
/// Kernels and initrds are far smaller; a sparse file may claim anything.
constexpr off_t kMaxFileSize = off_t{4} << 30;
}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Result<Mapping> Mapping::map(std::size_t size, int protection, int flags, int fd, u64 offset) {
  void* address = ::mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) return make_system_error(errno, fmt::format("cannot map {} bytes", size));
  return Mapping(static_cast<u8*>(address), size);
}

Result<Mapping> Mapping::map_again(int protection) const {
  // An old size of 0 leaves the old mapping in place (mremap(2)).
  void* address = ::mremap(data_, 0, size_, MREMAP_MAYMOVE);
  if (address == MAP_FAILED) return make_system_error(errno, fmt::format("cannot map {} bytes again", size_));
  Mapping again(static_cast<u8*>(address), size_);
  if (::mprotect(again.data_, size_, protection) != 0)
    return make_system_error(errno, fmt::format("cannot protect {} bytes", size_));
  return again;
}

void Mapping::reset() {
  if (data_ != nullptr) ::munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

Result<std::vector<u8>> read_file(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must fail below, not wait for a writer.
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return make_system_error(errno, fmt::format("cannot open {}", path));
  struct stat info = {};
  if (::fstat(fd.get(), &info) != 0) return make_system_error(errno, fmt::format("cannot read {}", path));
  if (!S_ISREG(info.st_mode)) return make_error("cannot read {}: not a regular file", path);
  if (info.st_size > kMaxFileSize)
    return make_error("cannot read {}: it has more than {} MiB", path, kMaxFileSize >> 20);
  std::vector<u8> bytes(static_cast<std::size_t>(info.st_size));
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return make_system_error(errno, fmt::format("cannot read {}", path));
    if (n == 0) break;  // the file shrank while we read
    done += static_cast<std::size_t>(n);
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace vert::base

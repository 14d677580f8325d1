// RAII for what the kernel hands out: file descriptors and memory mappings.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::base {

/// Owns a file descriptor; closes it when it goes. Movable, not copyable.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  void reset();
  /// The descriptor, which is the caller's from now on.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

/// Owns a mapping; unmaps it when it goes.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { reset(); }

  /// Maps `size` bytes (a multiple of the page size, not 0); arguments as for mmap(2).
  [[nodiscard]] static Result<Mapping> map(std::size_t size, int protection, int flags, int fd = -1,
                                           u64 offset = 0);

  /// The same memory, mapped with MAP_SHARED, at a second address, with another protection.
  [[nodiscard]] Result<Mapping> map_again(int protection) const;

  [[nodiscard]] u8* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  void reset();

 private:
  Mapping(u8* data, std::size_t size) : data_(data), size_(size) {}

  u8* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The whole of a regular file of at most 4 GiB. The error names the file.
[[nodiscard]] Result<std::vector<u8>> read_file(const std::string& path);

}  // namespace vert::base

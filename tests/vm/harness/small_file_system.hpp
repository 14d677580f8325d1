// A folder on a file system of its own with little room.
#pragma once

#include <string>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::vm_test {

/// Moves this process into a mount namespace of its own, for good. It must have one thread only.
class SmallFileSystem {
 public:
  /// Error: this host forbids that.
  [[nodiscard]] static Result<SmallFileSystem> mount(u64 bytes);
  ~SmallFileSystem();
  SmallFileSystem(SmallFileSystem&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  SmallFileSystem(const SmallFileSystem&) = delete;
  SmallFileSystem& operator=(const SmallFileSystem&) = delete;
  SmallFileSystem& operator=(SmallFileSystem&&) = delete;

  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] Status resize(u64 bytes) const;

 private:
  explicit SmallFileSystem(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace vert::vm_test

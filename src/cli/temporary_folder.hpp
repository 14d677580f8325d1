// A folder that is gone, with all that is in it, when this goes.
#pragma once

#include <memory>
#include <string>

#include "base/error.hpp"

namespace vert::cli {

class TemporaryFolder {
 public:
  /// A new one in `parent`, this user's alone, whose name begins with `prefix`.
  [[nodiscard]] static Result<TemporaryFolder> create(const std::string& parent, const std::string& prefix);
  TemporaryFolder(TemporaryFolder&& other) noexcept;
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder();

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace vert::cli

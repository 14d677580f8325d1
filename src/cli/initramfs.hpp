// Writes an initial RAM disk for Linux: a cpio archive in the "newc" format.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::cli {

/// Add folders before what lies in them. Names have no leading slash.
class Initramfs {
 public:
  void add_folder(std::string_view name);
  void add_file(std::string_view name, std::span<const u8> content, bool executable);
  void add_text(std::string_view name, std::string_view content, bool executable = false);
  void add_link(std::string_view name, std::string_view target);
  /// The content is that of a file of the host.
  [[nodiscard]] Status add_host_file(std::string_view name, const std::string& path, bool executable);
  /// The whole archive; nothing can be added any more.
  [[nodiscard]] std::vector<u8> finish() &&;

 private:
  void add(std::string_view name, u32 mode, std::span<const u8> content);
  void pad();

  std::vector<u8> bytes_;
  u32 next_inode_ = 1;
};

}  // namespace vert::cli

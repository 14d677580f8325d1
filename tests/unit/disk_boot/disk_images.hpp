// Disk images made with the tools that people make them with (sfdisk, mke2fs), in a folder that goes with the
// test.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/fd.hpp"
#include "machine/disk_boot/block_reader.hpp"

namespace vert::machine::disk_boot::test {

inline constexpr u64 kMiB = u64{1} << 20;

/// A raw image in a file.
class FileReader : public BlockReader {
 public:
  explicit FileReader(const std::string& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), size_(std::filesystem::file_size(path)) {}

  [[nodiscard]] u64 size() const override { return size_; }
  Status read(u64 offset, std::span<u8> bytes) override {
    const ssize_t got = ::pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got != static_cast<ssize_t>(bytes.size())) return make_error("short read");
    return {};
  }

 private:
  base::Fd fd_;
  u64 size_;
};

/// An image in memory.
class MemoryReader : public BlockReader {
 public:
  explicit MemoryReader(std::vector<u8> bytes) : bytes_(std::move(bytes)) {}

  [[nodiscard]] u64 size() const override { return bytes_.size(); }
  Status read(u64 offset, std::span<u8> bytes) override {
    if (offset > bytes_.size() || bytes.size() > bytes_.size() - offset)
      return make_error("read beyond the end");
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), bytes.size(), bytes.begin());
    return {};
  }

 private:
  std::vector<u8> bytes_;
};

/// Runs a command of the shell in that folder; what it prints is shown if it fails.
inline void run_tool(const std::string& folder, const std::string& command) {
  const std::string line =
      fmt::format("cd '{}' && PATH=$PATH:/usr/sbin:/sbin && {{ {}; }} >log 2>&1 || {{ cat log; false; }}",
                  folder, command);
  ASSERT_EQ(std::system(line.c_str()), 0) << command;  // NOLINT: a test's own words
}

/// Path to content; content that starts with "-> " makes a symbolic link.
using Files = std::map<std::string, std::string>;

class DiskImage {
 public:
  explicit DiskImage(u64 size) {
    // In memory, where possible: the tools wait for the disk.
    const std::filesystem::path shared = "/dev/shm";
    std::string name =
        (::access(shared.c_str(), W_OK) == 0 ? shared : std::filesystem::temp_directory_path()) /
        "vert-disk-XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    std::ofstream(path()).close();
    std::filesystem::resize_file(path(), size);
  }
  DiskImage(const DiskImage&) = delete;
  DiskImage& operator=(const DiskImage&) = delete;
  ~DiskImage() { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path() const { return folder_ / "disk"; }

  void partition(const std::string& sfdisk_script) {
    write_file("script", sfdisk_script);
    run("sfdisk -q --no-reread --no-tell-kernel disk <script");
  }

  /// Makes an ext4 of `size` bytes at `offset`.
  void format(u64 offset, u64 size, const Files& files, const std::string& options = "",
              const std::string& type = "ext4") {
    const std::filesystem::path tree = folder_ / "tree";
    std::filesystem::create_directory(tree);
    for (const auto& [name, content] : files) plant(tree / name.substr(1), content);
    run(fmt::format("mke2fs -q -F -t {} -b 1024 {} -E offset={},root_owner=0:0 -d tree disk {}k", type,
                    options, offset, size >> 10));
    std::filesystem::remove_all(tree);
  }

  void write(u64 offset, std::string_view bytes) {
    std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  [[nodiscard]] std::vector<u8> bytes() const { return base::read_file(path()).value(); }

  void run(const std::string& command) { run_tool(folder_, command); }
  void write_file(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }

 private:
  static void plant(const std::filesystem::path& path, const std::string& content) {
    std::filesystem::create_directories(path.parent_path());
    if (content.starts_with("-> "))
      std::filesystem::create_symlink(content.substr(3), path);
    else
      std::ofstream(path) << content;
  }

  std::filesystem::path folder_;
};

}  // namespace vert::machine::disk_boot::test

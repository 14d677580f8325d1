// Images for tests: a folder that goes away, images in it, and their operations as plain calls.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "storage/new_image.hpp"
#include "storage/qcow2/check.hpp"
#include "storage/qcow2/snapshots.hpp"

namespace vert::test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string path = testing::TempDir() + "vert-images-XXXXXX";
    EXPECT_NE(::mkdtemp(path.data()), nullptr);
    path_ = path;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::vector<u8> file_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_file(const std::string& path, std::span<const u8> bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

/// Changes bytes of a file in place.
inline void patch_file(const std::string& path, u64 offset, std::span<const u8> bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

template <typename T>
void patch_be(const std::string& path, u64 offset, T value) {
  std::array<u8, sizeof(T)> bytes{};
  storage::qcow2::store_be<T>(bytes.data(), value);
  patch_file(path, offset, bytes);
}

template <typename T>
T read_be(const std::string& path, u64 offset) {
  return storage::qcow2::load_be<T>(file_bytes(path).data() + offset);
}

/// One image's operations, each run until it is done.
class OpenImage {
 public:
  OpenImage(storage::IoContext& context, std::unique_ptr<storage::qcow2::Qcow2Image> image)
      : context_(context), image_(std::move(image)) {}

  [[nodiscard]] storage::qcow2::Qcow2Image& operator*() const { return *image_; }
  [[nodiscard]] storage::qcow2::Qcow2Image* operator->() const { return image_.get(); }

  Status read(u64 offset, std::span<u8> bytes) const {
    const iovec piece = storage::buffer_of(bytes);
    return context_.complete(image_->read(offset, storage::Buffers(&piece, 1)));
  }
  Status write(u64 offset, std::span<const u8> bytes) const {
    const iovec piece = storage::buffer_of(bytes);
    return context_.complete(image_->write(offset, storage::Buffers(&piece, 1)));
  }
  Status write_zeroes(u64 offset, u64 length, bool unmap = true) const {
    return context_.complete(image_->write_zeroes(offset, length, unmap));
  }
  Status discard(u64 offset, u64 length) const { return context_.complete(image_->discard(offset, length)); }
  Status flush() const { return context_.complete(image_->flush()); }
  Status resize(u64 size) const { return context_.complete(image_->resize(size)); }
  /// And lets go of the file.
  Status close() {
    auto status = context_.complete(image_->close());
    image_.reset();
    return status;
  }
  Result<storage::qcow2::CheckResult> check(
      storage::qcow2::Repair repair = storage::qcow2::Repair::kNone) const {
    return context_.complete(storage::qcow2::check(*image_, repair));
  }
  Status snapshot(const std::string& name) const {
    return context_.complete(storage::qcow2::create_snapshot(*image_, name));
  }
  Status apply(const std::string& name) const {
    return context_.complete(storage::qcow2::apply_snapshot(*image_, name));
  }
  Status remove(const std::string& name) const {
    return context_.complete(storage::qcow2::delete_snapshot(*image_, name));
  }
  /// All of the disk.
  std::vector<u8> content() const {
    std::vector<u8> bytes(image_->size());
    const auto status = read(0, bytes);
    EXPECT_TRUE(status) << status.error().message;
    return bytes;
  }

 private:
  storage::IoContext& context_;
  std::unique_ptr<storage::qcow2::Qcow2Image> image_;
};

inline Result<OpenImage> open_qcow2(storage::IoContext& context, const std::string& path,
                                    const storage::qcow2::OpenOptions& options = {}) {
  VERT_ASSIGN(auto file,
              storage::ImageFile::open(context, path,
                                       {.read_only = options.image.read_only, .cache = options.image.cache}));
  VERT_ASSIGN(auto image,
              context.complete(storage::qcow2::Qcow2Image::open(context, std::move(file), options)));
  return OpenImage(context, std::move(image));
}

/// What a check of the closed image says: "" if all is well.
inline std::string problems(storage::IoContext& context, const std::string& path) {
  const auto image =
      open_qcow2(context, path, {.image = {.read_only = true}, .snapshot = {}, .repair = true});
  if (!image) return image.error().message;
  const auto result = image->check();
  if (!result) return result.error().message;
  std::string all;
  for (const std::string& problem : result->problems) all += problem + "\n";
  return all;
}

}  // namespace vert::test

// A disk image: what a disk reads and writes, in whatever format it is kept.
//
// Owned by the disk, or by a tool; used on its IoContext's thread. Requests may overlap in time; two that
// overlap in place have no order, as on a disk.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "storage/image_file.hpp"

namespace vert::storage {

enum class Format : u8 { kRaw, kQcow2 };

struct ImageOptions {
  std::optional<Format> format = {};  // none: found out by content
  bool read_only = false;
  CacheMode cache = CacheMode::kWriteback;
  std::vector<ImageFile::Identity> overlays = {};  // the files that it is the backing image of, top first
  bool lock = true;                                // false only beside this process's own use of it
};

class Image {
 public:
  virtual ~Image() = default;
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  [[nodiscard]] virtual Format format() const = 0;
  /// In bytes, as the guest sees it.
  [[nodiscard]] virtual u64 size() const = 0;
  [[nodiscard]] virtual bool read_only() const = 0;

  // `offset` and length lie within size(). An error's `system_error` is ENOSPC if the host's disk is full,
  // and EIO or another system call's errno otherwise; then it is not known how much was written.

  [[nodiscard]] virtual Task<Status> read(u64 offset, Buffers buffers) = 0;
  [[nodiscard]] virtual Task<Status> write(u64 offset, Buffers buffers) = 0;
  /// Reads as zeroes after that. With `unmap`, its space may go back to the host.
  [[nodiscard]] virtual Task<Status> write_zeroes(u64 offset, u64 length, bool unmap) = 0;
  /// The guest does not need it any more: reads as anything it may read, zeroes mostly.
  [[nodiscard]] virtual Task<Status> discard(u64 offset, u64 length) = 0;
  /// All writes that have ended are on the disk when this ends.
  [[nodiscard]] virtual Task<Status> flush() = 0;
  /// Error: it cannot be, such as to shrink one that has snapshots.
  [[nodiscard]] virtual Task<Status> resize(u64 size) = 0;
  /// Flushes and leaves the image as clean as it can be. Nothing is called after that.
  [[nodiscard]] virtual Task<Status> close() = 0;

  /// A range that is alike: data, or zeroes for certain.
  struct Extent {
    u64 length = 0;
    bool data = true;
    bool allocated = true;  // here, and not in a backing image
  };
  /// What is at `offset`, up to `length` bytes.
  [[nodiscard]] virtual Task<Result<Extent>> extent(u64 offset, u64 length) = 0;

 protected:
  Image() = default;
};

/// The format that a file's first bytes (4 at least) tell; what has no mark is raw.
[[nodiscard]] Format marked_format(std::span<const u8> start);
[[nodiscard]] Task<Result<Format>> file_format(ImageFile& file);
/// Opens the image at `path`. `context` outlives it.
[[nodiscard]] Task<Result<std::unique_ptr<Image>>> open_image(IoContext& context, std::string path,
                                                              ImageOptions options);

}  // namespace vert::storage

// The host's file behind an image: locked against other users, read and written through an IoContext.
//
// On the context's thread, but for what says otherwise.
#pragma once

#include <memory>
#include <string>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "storage/io_context.hpp"

namespace vert::storage {

/// What the host's page cache is used for, named as in QEMU.
enum class CacheMode : u8 {
  kWriteback,     // reads and writes; a flush puts them on the disk
  kNone,          // neither (O_DIRECT); a flush for the disk's own cache
  kWritethrough,  // reads only: each write is on the disk when it ends
  kUnsafe,        // reads and writes, and a flush does nothing
};

struct FileOptions {
  bool read_only = false;
  CacheMode cache = CacheMode::kWriteback;
  bool lock = true;
};

class ImageFile {
 public:
  /// The errors are one line each: no such file, locked by another process (EBUSY), a folder, ...
  [[nodiscard]] static Result<std::unique_ptr<ImageFile>> open(IoContext& context, const std::string& path,
                                                               const FileOptions& options);
  /// A new, empty file in place of whatever was there.
  [[nodiscard]] static Result<std::unique_ptr<ImageFile>> create(IoContext& context, const std::string& path);
  ImageFile(const ImageFile&) = delete;
  ImageFile& operator=(const ImageFile&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool read_only() const { return options_.read_only; }
  [[nodiscard]] CacheMode cache() const { return options_.cache; }
  /// Which file it is, whatever its path.
  struct Identity {
    u64 device = 0;
    u64 inode = 0;
    bool operator==(const Identity&) const = default;
  };
  [[nodiscard]] Identity identity() const;
  /// Now, from the host: of a block device, too. In bytes.
  [[nodiscard]] Result<u64> size() const;
  /// How much of the host's disk it takes, in bytes; 0 if that is not known.
  [[nodiscard]] u64 allocated_size() const;
  /// Of a block device that means nothing, and fails unless it is its size.
  [[nodiscard]] Status set_size(u64 size);

  /// From now on it is an error (EIO) to read behind the file's end, but for the rest of its last unit:
  /// someone cut the file short.
  void expect_whole_units(u64 bytes) { unit_ = bytes; }

  // All of it or an error, whose `system_error` is the system call's errno. Any number of pieces, at any
  // alignment.

  /// What lies behind the file's end reads as zeroes.
  [[nodiscard]] Task<Status> read(u64 offset, Buffers buffers);
  [[nodiscard]] Task<Status> write(u64 offset, Buffers buffers);
  /// Everything that was written when it was called is on the disk when it ends.
  [[nodiscard]] Task<Status> flush();
  /// Gives the space back to the host; reads as zeroes after that. Not with every file system: then the error
  /// is EOPNOTSUPP.
  [[nodiscard]] Task<Status> punch_hole(u64 offset, u64 length);
  /// Zeroes that keep, or get, their space.
  [[nodiscard]] Task<Status> zero_range(u64 offset, u64 length);

  /// A piece of a file that is all data, or all hole.
  struct Extent {
    u64 length = 0;
    bool data = false;
  };
  /// What is at `offset`, up to `length` bytes.
  [[nodiscard]] Extent extent(u64 offset, u64 length) const;

 private:
  ImageFile(IoContext& context, std::string path, const FileOptions& options)
      : context_(context), path_(std::move(path)), options_(options) {}
  [[nodiscard]] Status lock();
  [[nodiscard]] Status try_lock();
  [[nodiscard]] Status check_end(u64 end) const;
  [[nodiscard]] int fd_for(u64 offset, Buffers buffers) const;
  [[nodiscard]] Error failure(i64 result, const char* what) const;

  IoContext& context_;
  const std::string path_;
  const FileOptions options_;
  base::Fd fd_;
  base::Fd direct_;  // with kNone: opened with O_DIRECT
  u64 direct_alignment_ = 0;
  u64 unit_ = 0;  // 0: the file may end anywhere
};

}  // namespace vert::storage

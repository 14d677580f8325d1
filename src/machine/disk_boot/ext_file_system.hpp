// Read-only ext2, ext3 and ext4 through libext2fs. Runs in the confined child only: what libext2fs makes of a
// hostile image stays there.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "machine/disk_boot/block_reader.hpp"

namespace vert::machine::disk_boot {

class ExtFileSystem {
 public:
  /// A regular file.
  struct File {
    u32 inode = 0;
    u64 size = 0;
  };

  /// The file system in `size` bytes of the disk from `offset`. Error: it is damaged, or has unknown
  /// features.
  [[nodiscard]] static Result<std::unique_ptr<ExtFileSystem>> open(BlockReader& disk, u64 offset, u64 size);

  ExtFileSystem(const ExtFileSystem&) = delete;
  ExtFileSystem& operator=(const ExtFileSystem&) = delete;
  ~ExtFileSystem();

  [[nodiscard]] std::string uuid() const;
  [[nodiscard]] std::string label() const;

  /// The file at an absolute path; symbolic links are followed within the file system. Nothing if there is no
  /// such regular file, or if what leads there is damaged, which damage() then tells.
  [[nodiscard]] std::optional<File> find(const std::string& path);
  [[nodiscard]] bool has_directory(const std::string& path);
  /// The names in a directory; none if it is not there.
  [[nodiscard]] std::vector<std::string> list(const std::string& path);

  /// Hands the file's bytes to `take`, piece by piece.
  Status copy(const File& file, const std::function<Status(std::span<const u8>)>& take);
  /// A small text file; nothing if it is not there, larger than that, or damaged.
  [[nodiscard]] std::optional<std::string> read_text(const std::string& path);

  /// What first could not be read; empty if nothing.
  [[nodiscard]] const std::string& damage() const { return damage_; }

 private:
  struct Volume;

  explicit ExtFileSystem(std::unique_ptr<Volume> volume);
  [[nodiscard]] std::optional<u32> look_up(const std::string& path);
  [[nodiscard]] Error describe(const std::string& what, long code) const;
  void note_damage(const std::string& what, long code);

  std::unique_ptr<Volume> volume_;
  std::string damage_;
};

}  // namespace vert::machine::disk_boot

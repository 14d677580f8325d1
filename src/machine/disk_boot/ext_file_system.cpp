#include "machine/disk_boot/ext_file_system.hpp"

extern "C" {  // et/com_err.h does not say so itself
#include <et/com_err.h>
}
#include <ext2fs/ext2fs.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "machine/disk_boot/ext_journal.hpp"

namespace vert::machine::disk_boot {

namespace {

constexpr u64 kMaxText = u64{1} << 20;
constexpr std::size_t kMaxNames = 10'000;
constexpr std::size_t kPiece = std::size_t{1} << 20;

/// The part of the disk that a channel of libext2fs reads.
struct Extent {
  BlockReader* disk = nullptr;
  u64 offset = 0;
  u64 size = 0;
  std::string error;  // of the image itself, from its last failed read
  u32 block_size = 0;
  JournalledBlocks journalled;

  /// As the disk has it.
  errcode_t read_disk(u64 from, std::span<u8> bytes) {
    if (from > size || bytes.size() > size - from) return EXT2_ET_SHORT_READ;
    const Status read = disk->read(offset + from, bytes);
    if (read) return 0;
    error = read.error().message;
    return EXT2_ET_SHORT_READ;
  }

  /// With what the journal has for it.
  errcode_t read(u64 from, std::span<u8> bytes) {
    if (const errcode_t code = read_disk(from, bytes); code != 0 || journalled.empty()) return code;
    for (u64 at = from; at < from + bytes.size();) {
      const u64 within = at % block_size;
      const u64 length = std::min(block_size - within, from + bytes.size() - at);
      if (const auto newer = journalled.find(at / block_size); newer != journalled.end())
        if (const errcode_t code = read_journalled(newer->second, within, bytes.subspan(at - from, length));
            code != 0)
          return code;
      at += length;
    }
    return 0;
  }

 private:
  errcode_t read_journalled(const JournalledBlock& block, u64 within, std::span<u8> bytes) {
    if (const errcode_t code = read_disk(block.offset + within, bytes); code != 0) return code;
    if (!block.escaped) return 0;
    const u32 magic = std::byteswap(kJournalMagic);
    for (u64 i = within; i < std::min<u64>(sizeof magic, within + bytes.size()); ++i)
      bytes[i - within] = static_cast<u8>(magic >> (8 * i));
    return 0;
  }
};

/// The manager's open() gets a name only. The confined child has one thread.
Extent* opening = nullptr;

errcode_t open_channel(const char* name, int /*flags*/, io_channel* channel);

errcode_t close_channel(io_channel channel) {
  std::free(channel->name);
  std::free(channel);
  return 0;
}

errcode_t set_block_size(io_channel channel, int size) {
  channel->block_size = size;
  return 0;
}

/// A negative count is one of bytes.
errcode_t read_blocks(io_channel channel, unsigned long long block, int count, void* data) {
  auto& extent = *static_cast<Extent*>(channel->private_data);
  const auto block_size = static_cast<u64>(channel->block_size);
  const u64 bytes =
      count < 0 ? static_cast<u64>(-static_cast<i64>(count)) : static_cast<u64>(count) * block_size;
  u64 offset = 0;
  if (__builtin_mul_overflow(block, block_size, &offset)) return EXT2_ET_SHORT_READ;
  return extent.read(offset, {static_cast<u8*>(data), bytes});
}

errcode_t read_blocks_32(io_channel channel, unsigned long block, int count, void* data) {
  return read_blocks(channel, block, count, data);
}

errcode_t refuse_write(io_channel /*channel*/, unsigned long /*block*/, int /*count*/, const void* /*data*/) {
  return EXT2_ET_RO_FILSYS;
}

errcode_t refuse_write_64(io_channel /*channel*/, unsigned long long /*block*/, int /*count*/,
                          const void* /*data*/) {
  return EXT2_ET_RO_FILSYS;
}

errcode_t flush(io_channel /*channel*/) { return 0; }

io_manager manager() {
  static struct_io_manager the_manager = [] {
    struct_io_manager made = {};
    made.magic = EXT2_ET_MAGIC_IO_MANAGER;
    made.name = "vert";
    made.open = open_channel;
    made.close = close_channel;
    made.set_blksize = set_block_size;
    made.read_blk = read_blocks_32;
    made.read_blk64 = read_blocks;
    made.write_blk = refuse_write;
    made.write_blk64 = refuse_write_64;
    made.flush = flush;
    return made;
  }();
  return &the_manager;
}

// libext2fs frees the channel by its close() alone, so C's allocator will do.
errcode_t open_channel(const char* name, int /*flags*/, io_channel* channel) {
  auto* const made = static_cast<io_channel>(std::calloc(1, sizeof(struct_io_channel)));
  if (made == nullptr) return EXT2_ET_NO_MEMORY;
  made->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  made->manager = manager();
  made->name = ::strdup(name);
  made->block_size = 1024;
  made->refcount = 1;
  made->private_data = opening;
  *channel = made;
  return 0;
}

bool is_absence(errcode_t code) {
  return code == EXT2_ET_FILE_NOT_FOUND || code == EXT2_ET_NO_DIRECTORY || code == EXT2_ET_SYMLINK_LOOP;
}

bool is_unknown_feature(errcode_t code) {
  return code == EXT2_ET_UNSUPP_FEATURE || code == EXT2_ET_RO_UNSUPP_FEATURE;
}

}  // namespace

struct ExtFileSystem::Volume {
  Extent extent;
  ext2_filsys fs = nullptr;

  Volume() = default;
  Volume(const Volume&) = delete;
  Volume& operator=(const Volume&) = delete;
  ~Volume() { close(); }

  errcode_t open() {
    opening = &extent;
    const errcode_t code =
        ext2fs_open2("disk", nullptr, EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0, manager(), &fs);
    if (code != 0) fs = nullptr;
    return code;
  }

  void close() {
    if (fs != nullptr) ext2fs_free(fs);
    fs = nullptr;
  }

  /// Whether blocks of the file system are in its journal, where libext2fs does not look for them.
  bool take_journal() {
    if (!ext2fs_has_feature_journal_needs_recovery(fs->super) || fs->super->s_journal_inum == 0) return false;
    JournalSource source;
    source.block_size = fs->blocksize;
    source.locate = [this](u32 index) -> std::optional<u64> {
      blk64_t block = 0;
      const errcode_t code =
          ext2fs_bmap2(fs, fs->super->s_journal_inum, nullptr, nullptr, 0, index, nullptr, &block);
      if (code != 0 || block == 0 || block > extent.size / fs->blocksize) return std::nullopt;
      return block * fs->blocksize;
    };
    source.read = [this](u64 offset, std::span<u8> bytes) { return extent.read_disk(offset, bytes) == 0; };
    extent.block_size = fs->blocksize;
    extent.journalled = read_journal(source);
    return !extent.journalled.empty();
  }
};

ExtFileSystem::ExtFileSystem(std::unique_ptr<Volume> volume) : volume_(std::move(volume)) {}
ExtFileSystem::~ExtFileSystem() = default;

Result<std::unique_ptr<ExtFileSystem>> ExtFileSystem::open(BlockReader& disk, u64 offset, u64 size) {
  initialize_ext2_error_table();
  auto volume = std::make_unique<Volume>();
  volume->extent.disk = &disk;
  volume->extent.offset = offset;
  volume->extent.size = size;
  errcode_t code = volume->open();
  if (code == 0 && volume->take_journal()) {
    volume->close();  // it has read from the disk what may be newer in the journal
    code = volume->open();
  }
  std::unique_ptr<ExtFileSystem> made(new ExtFileSystem(std::move(volume)));
  if (code == 0) return made;
  if (is_unknown_feature(code)) return make_error("its ext4 has features that vert does not know");
  return std::unexpected(made->describe("its ext4", code));
}

Error ExtFileSystem::describe(const std::string& what, long code) const {
  const std::string& error = volume_->extent.error;
  return Error{error.empty() ? fmt::format("{} is damaged ({})", what, error_message(code))
                             : fmt::format("{} cannot be read ({})", what, error)};
}

void ExtFileSystem::note_damage(const std::string& what, long code) {
  if (damage_.empty()) damage_ = describe(what, code).message;
}

std::string ExtFileSystem::uuid() const {
  std::string text;
  for (const u8 byte : volume_->fs->super->s_uuid) {
    if (text.size() == 8 || text.size() == 13 || text.size() == 18 || text.size() == 23) text += '-';
    text += fmt::format("{:02x}", byte);
  }
  return text;
}

std::string ExtFileSystem::label() const {
  const auto& name = volume_->fs->super->s_volume_name;
  return {std::begin(name), std::find(std::begin(name), std::end(name), '\0')};
}

std::optional<u32> ExtFileSystem::look_up(const std::string& path) {
  ext2_ino_t inode = 0;
  const errcode_t code = ext2fs_namei_follow(volume_->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path.c_str(), &inode);
  if (code == 0) return inode;
  if (!is_absence(code)) note_damage(path, code);
  return std::nullopt;
}

std::optional<ExtFileSystem::File> ExtFileSystem::find(const std::string& path) {
  const auto number = look_up(path);
  if (!number) return std::nullopt;
  ext2_inode inode = {};
  if (const errcode_t code = ext2fs_read_inode(volume_->fs, *number, &inode); code != 0) {
    note_damage(path, code);
    return std::nullopt;
  }
  if (!LINUX_S_ISREG(inode.i_mode)) return std::nullopt;
  return File{*number, EXT2_I_SIZE(&inode)};
}

bool ExtFileSystem::has_directory(const std::string& path) {
  const auto number = look_up(path);
  return number && ext2fs_check_directory(volume_->fs, *number) == 0;
}

std::vector<std::string> ExtFileSystem::list(const std::string& path) {
  std::vector<std::string> names;
  const auto number = look_up(path);
  if (!number || ext2fs_check_directory(volume_->fs, *number) != 0) return names;
  const auto take = [](ext2_ino_t, int, ext2_dir_entry* entry, int, int, char*, void* context) {
    auto& found = *static_cast<std::vector<std::string>*>(context);
    const auto length = static_cast<std::size_t>(ext2fs_dirent_name_len(entry));
    const std::string name(entry->name, length);
    if (name.find('\0') == std::string::npos) found.push_back(name);
    return found.size() < kMaxNames ? 0 : DIRENT_ABORT;
  };
  if (const errcode_t code = ext2fs_dir_iterate2(volume_->fs, *number, 0, nullptr, take, &names); code != 0)
    note_damage(path, code);
  // A folder has at least ".". libext2fs does not tell if it finds none because its map of blocks is damaged.
  if (names.empty()) note_damage(path, EXT2_ET_DIR_CORRUPTED);
  std::erase_if(names, [](const std::string& name) { return name == "." || name == ".."; });
  std::ranges::sort(names);
  return names;
}

Status ExtFileSystem::copy(const File& file, const std::function<Status(std::span<const u8>)>& take) {
  ext2_file_t raw = nullptr;
  if (const errcode_t code = ext2fs_file_open(volume_->fs, file.inode, 0, &raw); code != 0)
    return std::unexpected(describe("the file", code));
  const std::unique_ptr<ext2_file, errcode_t (*)(ext2_file_t)> opened(raw, ext2fs_file_close);
  std::vector<u8> piece(std::min<u64>(kPiece, file.size));
  for (u64 left = file.size; left > 0;) {
    unsigned int got = 0;
    const auto wanted = static_cast<unsigned int>(std::min<u64>(left, piece.size()));
    const errcode_t code = ext2fs_file_read(raw, piece.data(), wanted, &got);
    if (code != 0 || got == 0 || got > wanted)
      return std::unexpected(describe("the file", code != 0 ? code : EXT2_ET_SHORT_READ));
    VERT_TRY(take(std::span(piece).first(got)));
    left -= got;
  }
  return {};
}

std::optional<std::string> ExtFileSystem::read_text(const std::string& path) {
  const auto file = find(path);
  if (!file || file->size > kMaxText) return std::nullopt;
  std::string text;
  const Status copied = copy(*file, [&](std::span<const u8> piece) -> Status {
    text.append(piece.begin(), piece.end());
    return {};
  });
  if (copied) return text;
  if (damage_.empty()) damage_ = fmt::format("{}: {}", path, copied.error().message);
  return std::nullopt;
}

}  // namespace vert::machine::disk_boot

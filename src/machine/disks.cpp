#include "machine/disks.hpp"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "storage/new_image.hpp"

namespace vert::machine {

namespace {

/// A qcow2 image without a name, in the folder for temporary files, on top of the disk's.
Result<std::unique_ptr<storage::Image>> open_overlay(storage::IoContext& context, const DiskConfig& config) {
  storage::ImageOptions base_options = config.image;
  base_options.read_only = true;
  storage::NewImage overlay;
  {
    VERT_ASSIGN(const auto base, context.complete(storage::open_image(context, config.path, base_options)));
    overlay.size = base->size();
    overlay.qcow2.backing_format = base->format() == storage::Format::kRaw ? "raw" : "qcow2";
  }
  std::error_code error;
  const auto absolute = std::filesystem::absolute(config.path, error);
  if (error) return make_error("'{}': {}", config.path, error.message());
  overlay.qcow2.backing_file = absolute.string();
  const char* const folder = std::getenv("TMPDIR");
  std::string path =
      std::string(folder != nullptr && *folder != 0 ? folder : "/tmp") + "/vert-snapshot.XXXXXX";
  const base::Fd file(::mkstemp(path.data()));
  if (!file.valid()) return make_system_error(errno, path);
  storage::ImageOptions options;
  options.format = storage::Format::kQcow2;
  options.cache = storage::CacheMode::kUnsafe;
  Status created = context.complete(storage::create_image(context, path, overlay));
  auto image = created ? context.complete(storage::open_image(context, path, options))
                       : Result<std::unique_ptr<storage::Image>>(std::unexpected(created.error()));
  ::unlink(path.c_str());
  return image;
}

}  // namespace

std::string disk_id(std::size_t index) {
  constexpr std::size_t kLetters = 26;
  const auto letter = [](std::size_t number) { return static_cast<char>('a' + number); };
  std::string id = "vd";
  if (index >= kLetters) id += letter(index / kLetters - 1);
  return id + letter(index % kLetters);
}

bool is_disk(const std::string& path) {
  constexpr std::size_t kBootMark = 510;
  constexpr std::size_t kLinuxMark = 0x202;  // a bzImage has a boot sector's mark, too
  constexpr std::size_t kExtMark = 1024 + 56;
  std::array<u8, 2048> start{};
  struct stat info = {};
  // To open a FIFO would wait for its writer.
  if (::stat(path.c_str(), &info) != 0 || !(S_ISREG(info.st_mode) || S_ISBLK(info.st_mode))) return false;
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(start.data()), start.size());
  const auto has = [&](std::size_t at, std::string_view mark) {
    return std::memcmp(start.data() + at, mark.data(), mark.size()) == 0;
  };
  if (storage::marked_format(start) != storage::Format::kRaw) return true;
  return (has(kBootMark, "\x55\xAA") && !has(kLinuxMark, "HdrS")) || has(kExtMark, "\x53\xEF");
}

Result<std::unique_ptr<device::virtio::Block>> open_disk(const DiskConfig& config, unsigned cpus,
                                                         DiskEvents events) {
  VERT_ASSIGN(auto context, storage::IoContext::create());
  VERT_ASSIGN(auto image, config.throw_writes_away
                              ? open_overlay(*context, config)
                              : context->complete(storage::open_image(*context, config.path, config.image)));
  if (image->size() == 0)
    return make_error("'{0}' is empty, and a disk has a sector at least; try 'vert image resize {0} 10G'",
                      config.path);
  const auto queues = std::min<unsigned>(cpus, device::virtio::Block::kMaxQueues);
  return device::virtio::Block::create(
      std::move(context), std::move(image),
      {.serial = config.serial,
       .queues = static_cast<u16>(queues),
       .write_cache = config.image.cache != storage::CacheMode::kWritethrough,
       .on_full = std::move(events.on_full),
       .on_error = std::move(events.on_error)});
}

}  // namespace vert::machine

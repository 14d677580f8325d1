#include "machine/disks.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>

namespace vert::machine {

bool is_disk(const std::string& path) {
  constexpr std::size_t kBootMark = 510;
  constexpr std::size_t kLinuxMark = 0x202;  // a bzImage has a boot sector's mark, too
  constexpr std::size_t kExtMark = 1024 + 56;
  std::array<u8, 2048> start{};
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(start.data()), start.size());
  const auto has = [&](std::size_t at, std::string_view mark) {
    return std::memcmp(start.data() + at, mark.data(), mark.size()) == 0;
  };
  if (storage::marked_format(start) != storage::Format::kRaw) return true;
  return (has(kBootMark, "\x55\xAA") && !has(kLinuxMark, "HdrS")) || has(kExtMark, "\x53\xEF");
}

Result<std::unique_ptr<device::virtio::Block>> open_disk(const DiskConfig& config, unsigned cpus,
                                                         std::function<void()> on_full) {
  VERT_ASSIGN(auto context, storage::IoContext::create());
  VERT_ASSIGN(auto image, context->complete(storage::open_image(*context, config.path, config.image)));
  const auto queues = std::min<unsigned>(cpus, device::virtio::Block::kMaxQueues);
  return device::virtio::Block::create(
      std::move(context), std::move(image),
      {.serial = config.serial,
       .queues = static_cast<u16>(queues),
       .write_cache = config.image.cache != storage::CacheMode::kWritethrough,
       .on_full = std::move(on_full)});
}

}  // namespace vert::machine

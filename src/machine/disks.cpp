#include "machine/disks.hpp"

#include <algorithm>

namespace vert::machine {

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

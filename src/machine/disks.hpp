// The disks of a machine: from what the command line says to virtio block devices.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/error.hpp"
#include "device/virtio/block.hpp"
#include "storage/image.hpp"

namespace vert::machine {

struct DiskConfig {
  std::string path;
  storage::ImageOptions image{};
  bool throw_writes_away = false;  // at the end; the image stays as it is
  std::string serial{};            // at most device::virtio::block::kIdSize bytes
};

/// What there is to know of a disk while it runs.
struct DiskState {
  std::string id;  // as Linux names it: vda, vdb, ...
  u64 size = 0;    // in bytes
};
[[nodiscard]] std::string disk_id(std::size_t index);

/// Whether a file is a whole disk, by its first bytes: an image format's mark, a partition table or ext4.
/// What is none, a kernel say, or cannot be read, is not.
[[nodiscard]] bool is_disk(const std::string& path);

/// As in Block::Options.
struct DiskEvents {
  std::function<void()> on_full;
  std::function<void(const Error&)> on_error;
};

/// Opens the image. The error names the file.
[[nodiscard]] Result<std::unique_ptr<device::virtio::Block>> open_disk(const DiskConfig& config,
                                                                       unsigned cpus, DiskEvents events);

}  // namespace vert::machine

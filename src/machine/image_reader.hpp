// A disk's image as the search for its kernel reads it.
#pragma once

#include <memory>

#include "machine/disk_boot/block_reader.hpp"
#include "machine/disks.hpp"

namespace vert::machine {

class ImageReader final : public disk_boot::BlockReader {
 public:
  /// `in_use`: this process has the image open as a disk, whose writes are flushed.
  [[nodiscard]] static Result<std::unique_ptr<ImageReader>> open(const DiskConfig& disk, bool in_use);

  [[nodiscard]] u64 size() const override { return image_->size(); }
  [[nodiscard]] Status read(u64 offset, std::span<u8> bytes) override;

 private:
  ImageReader(std::unique_ptr<storage::IoContext> context, std::unique_ptr<storage::Image> image)
      : context_(std::move(context)), image_(std::move(image)) {}

  const std::unique_ptr<storage::IoContext> context_;
  const std::unique_ptr<storage::Image> image_;
};

}  // namespace vert::machine

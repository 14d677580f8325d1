// An image of any format as a BlockReader.
#pragma once

#include <optional>

#include "machine/disk_boot/block_reader.hpp"
#include "storage/image.hpp"
#include "storage/io_context.hpp"

namespace vert::machine::disk_boot {

/// On the context's thread, which has nothing else to do meanwhile.
class ImageReader : public BlockReader {
 public:
  ImageReader(storage::IoContext& context, storage::Image& image) : context_(context), image_(image) {}

  [[nodiscard]] u64 size() const override { return image_.size(); }
  Status read(u64 offset, std::span<u8> bytes) override {
    const iovec buffer = storage::buffer_of(bytes);
    Status done = context_.complete(image_.read(offset, storage::Buffers(&buffer, 1)));
    if (!done && !failure_) failure_ = done.error();
    return done;
  }
  /// The first error, if there was one.
  [[nodiscard]] const std::optional<Error>& failure() const { return failure_; }

 private:
  storage::IoContext& context_;
  storage::Image& image_;
  std::optional<Error> failure_;
};

}  // namespace vert::machine::disk_boot

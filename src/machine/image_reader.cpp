#include "machine/image_reader.hpp"

namespace vert::machine {

Result<std::unique_ptr<ImageReader>> ImageReader::open(const DiskConfig& disk, bool in_use) {
  VERT_ASSIGN(auto context, storage::IoContext::create(storage::IoContext::Kind::kSync));
  storage::ImageOptions options = disk.image;
  options.read_only = true;
  options.cache = storage::CacheMode::kWriteback;
  options.lock = !in_use;
  VERT_ASSIGN(auto image, context->complete(storage::open_image(*context, disk.path, options)));
  return std::unique_ptr<ImageReader>(new ImageReader(std::move(context), std::move(image)));
}

Status ImageReader::read(u64 offset, std::span<u8> bytes) {
  const iovec piece = storage::buffer_of(bytes);
  return context_->complete(image_->read(offset, storage::Buffers(&piece, 1)));
}

}  // namespace vert::machine

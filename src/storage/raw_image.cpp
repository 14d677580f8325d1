#include "storage/raw_image.hpp"

#include <algorithm>
#include <array>

namespace vert::storage {
namespace {

constexpr u64 kSectorSize = 512;
constexpr u64 kZeroPiece = 64 << 10;

}  // namespace

Result<std::unique_ptr<Image>> RawImage::open(std::unique_ptr<ImageFile> file, bool was_probed) {
  VERT_ASSIGN(const u64 size, file->size());
  file->expect_whole_units(kSectorSize);
  // A last sector that is cut short is a whole one for the guest; what the file lacks reads as zeroes.
  return std::unique_ptr<Image>(
      new RawImage(std::move(file), (size + kSectorSize - 1) / kSectorSize * kSectorSize, was_probed));
}

Task<Status> RawImage::read(u64 offset, Buffers buffers) { return file_->read(offset, buffers); }

Task<Status> RawImage::write(u64 offset, Buffers buffers) {
  if (offset >= kSectorSize || !was_probed_) co_return co_await file_->write(offset, buffers);
  const u64 first = std::min(total_size(buffers), kSectorSize - offset);
  VERT_CO_TRY(co_await write_first_sector(offset, slice(buffers, 0, first)));
  co_return co_await file_->write(offset + first, slice(buffers, first, total_size(buffers) - first));
}

/// Copied before it is looked at: the bytes are the guest's, which may change them meanwhile.
Task<Status> RawImage::write_first_sector(u64 offset, std::vector<iovec> buffers) {
  std::array<u8, kSectorSize> sector{};
  const iovec whole = buffer_of(std::span<u8>(sector));
  VERT_CO_TRY(co_await file_->read(0, Buffers(&whole, 1)));
  const auto written = std::span(sector).subspan(offset, total_size(buffers));
  copy_from(buffers, written);
  if (marked_format(sector) != Format::kRaw)
    co_return std::unexpected(Error{
        fmt::format("'{}': the guest may not write another format's header; use format=raw", file_->path()),
        EPERM});
  const iovec piece = buffer_of(written);
  co_return co_await file_->write(offset, Buffers(&piece, 1));
}

Task<Status> RawImage::flush() { return file_->flush(); }
Task<Status> RawImage::close() { return file_->flush(); }

Task<Status> RawImage::write_zeroes(u64 offset, u64 length, bool unmap) {
  if (length == 0) co_return Status{};
  auto done = unmap ? co_await file_->punch_hole(offset, length) : co_await file_->zero_range(offset, length);
  if (done || done.error().system_error != EOPNOTSUPP) co_return done;
  // The file system cannot: write them.
  static const std::vector<u8> zeroes(kZeroPiece);
  for (u64 at = 0; at < length; at += kZeroPiece) {
    const iovec piece = buffer_of(std::span(zeroes).first(std::min(kZeroPiece, length - at)));
    VERT_CO_TRY(co_await file_->write(offset + at, Buffers(&piece, 1)));
  }
  co_return Status{};
}

Task<Status> RawImage::discard(u64 offset, u64 length) {
  if (length == 0) co_return Status{};
  auto done = co_await file_->punch_hole(offset, length);
  if (!done && done.error().system_error == EOPNOTSUPP) co_return Status{};  // it is only a hint
  co_return done;
}

Task<Status> RawImage::resize(u64 size) {
  VERT_CO_TRY(file_->set_size(size));
  size_ = size;
  co_return Status{};
}

Task<Result<Image::Extent>> RawImage::extent(u64 offset, u64 length) {
  const ImageFile::Extent extent = file_->extent(offset, length);
  co_return Extent{.length = extent.length, .data = extent.data, .allocated = true};
}

}  // namespace vert::storage

// The raw format: the file is the disk.
//
// An image whose format was found out by content stays raw: its guest may not give it another format's mark,
// which would make the next run read whatever host file a forged header names (QEMU refuses that, too).
#pragma once

#include "storage/image.hpp"

namespace vert::storage {

class RawImage final : public Image {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Image>> open(std::unique_ptr<ImageFile> file, bool was_probed);

  [[nodiscard]] Format format() const override { return Format::kRaw; }
  [[nodiscard]] u64 size() const override { return size_; }
  [[nodiscard]] bool read_only() const override { return file_->read_only(); }

  [[nodiscard]] Task<Status> read(u64 offset, Buffers buffers) override;
  [[nodiscard]] Task<Status> write(u64 offset, Buffers buffers) override;
  [[nodiscard]] Task<Status> write_zeroes(u64 offset, u64 length, bool unmap) override;
  [[nodiscard]] Task<Status> discard(u64 offset, u64 length) override;
  [[nodiscard]] Task<Status> flush() override;
  [[nodiscard]] Task<Status> resize(u64 size) override;
  [[nodiscard]] Task<Status> close() override;
  [[nodiscard]] Task<Result<Extent>> extent(u64 offset, u64 length) override;

 private:
  RawImage(std::unique_ptr<ImageFile> file, u64 size, bool was_probed)
      : file_(std::move(file)), size_(size), was_probed_(was_probed) {}
  [[nodiscard]] Task<Status> write_first_sector(u64 offset, std::vector<iovec> buffers);

  const std::unique_ptr<ImageFile> file_;
  u64 size_;
  const bool was_probed_;
};

}  // namespace vert::storage

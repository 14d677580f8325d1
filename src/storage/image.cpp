#include "storage/image.hpp"

#include <algorithm>
#include <array>

#include "storage/qcow2/qcow2_image.hpp"
#include "storage/raw_image.hpp"

namespace vert::storage {
namespace {

constexpr std::array<u8, 4> kQcowMagic = {'Q', 'F', 'I', 0xFB};

}  // namespace

Format marked_format(std::span<const u8> start) {
  return std::ranges::equal(start.first(kQcowMagic.size()), kQcowMagic) ? Format::kQcow2 : Format::kRaw;
}

Task<Result<Format>> file_format(ImageFile& file) {
  std::array<u8, 4> start{};
  const iovec piece = buffer_of(std::span<u8>(start));
  VERT_CO_TRY(co_await file.read(0, Buffers(&piece, 1)));
  co_return marked_format(start);
}

Task<Result<std::unique_ptr<Image>>> open_image(IoContext& context, std::string path, ImageOptions options) {
  VERT_CO_ASSIGN(
      auto file,
      ImageFile::open(context, path,
                      {.read_only = options.read_only, .cache = options.cache, .lock = options.lock}));
  VERT_CO_ASSIGN(const auto found, co_await file_format(*file));
  switch (options.format.value_or(found)) {
    case Format::kQcow2: {
      // Named: g++ 12 copies an aggregate that is made within a co_await as mere bytes.
      qcow2::OpenOptions open_options;
      open_options.image = options;
      VERT_CO_ASSIGN(auto image, co_await qcow2::Qcow2Image::open(context, std::move(file), open_options));
      co_return std::unique_ptr<Image>(std::move(image));
    }
    case Format::kRaw: break;
  }
  co_return RawImage::open(std::move(file), !options.format);
}

}  // namespace vert::storage

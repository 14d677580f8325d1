#include "storage/qcow2/compression.hpp"

#include <memory>

#include <zlib.h>
#include <zstd.h>

namespace vert::storage::qcow2 {
namespace {

/// QEMU's; negative: without zlib's header. Readers with a window as small must do.
constexpr int kWindowBits = -12;
constexpr int kMemoryLevel = 9;
/// What readers have: the largest that zlib knows.
constexpr int kMaxWindowBits = -15;

z_stream stream_over(std::span<const u8> from, std::span<u8> to) {
  z_stream stream = {};
  stream.next_in = const_cast<u8*>(from.data());  // zlib does not write there
  stream.avail_in = static_cast<uInt>(from.size());
  stream.next_out = to.data();
  stream.avail_out = static_cast<uInt>(to.size());
  return stream;
}

bool inflate_all(std::span<const u8> from, std::span<u8> to) {
  z_stream stream = stream_over(from, to);
  if (::inflateInit2(&stream, kMaxWindowBits) != Z_OK) return false;
  const int result = ::inflate(&stream, Z_FINISH);
  ::inflateEnd(&stream);
  return (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0;
}

bool decompress_zstd(std::span<const u8> from, std::span<u8> to) {
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), &ZSTD_freeDCtx);
  if (!context) return false;
  ZSTD_inBuffer input = {from.data(), from.size(), 0};
  ZSTD_outBuffer output = {to.data(), to.size(), 0};
  while (output.pos < output.size) {
    const std::size_t before = input.pos + output.pos;
    const std::size_t result = ZSTD_decompressStream(context.get(), &output, &input);
    if (ZSTD_isError(result) != 0) return false;
    if (input.pos + output.pos == before) return false;  // there is no more of it
  }
  return true;
}

std::size_t deflate_all(std::span<const u8> from, std::span<u8> to) {
  z_stream stream = stream_over(from, to);
  if (::deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kWindowBits, kMemoryLevel,
                     Z_DEFAULT_STRATEGY) != Z_OK)
    return 0;
  const int result = ::deflate(&stream, Z_FINISH);
  ::deflateEnd(&stream);
  return result == Z_STREAM_END ? to.size() - stream.avail_out : 0;
}

std::size_t compress_zstd(std::span<const u8> from, std::span<u8> to) {
  const std::size_t size = ZSTD_compress(to.data(), to.size(), from.data(), from.size(), ZSTD_CLEVEL_DEFAULT);
  return ZSTD_isError(size) != 0 ? 0 : size;
}

}  // namespace

bool decompress(CompressionType type, std::span<const u8> from, std::span<u8> to) {
  return type == CompressionType::kZstd ? decompress_zstd(from, to) : inflate_all(from, to);
}

std::optional<std::vector<u8>> compress(CompressionType type, std::span<const u8> from) {
  std::vector<u8> to(from.size() - 1);
  const std::size_t size = type == CompressionType::kZstd ? compress_zstd(from, to) : deflate_all(from, to);
  if (size == 0) return std::nullopt;
  to.resize(size);
  return to;
}

}  // namespace vert::storage::qcow2

// Copies the content of one image into another, of whatever formats, and leaves out zeroes.
#pragma once

#include <functional>

#include "storage/image.hpp"

namespace vert::storage {

struct ConvertOptions {
  bool compress = false;  // into a qcow2 image
  bool in_order = false;  // slower, but the same content makes the same file
  /// What `to` reads as where nothing is written; none: zeroes. It is not written again.
  Image* backing = nullptr;
  /// False: stop; the error is ECANCELED then.
  std::function<bool(u64 done, u64 total)> progress = {};
};

struct ConvertResult {
  u64 data = 0;    // bytes written
  u64 zeroes = 0;  // bytes that needed none
};

/// `to` is new, and at least as large. Both are of the same context. Does not flush.
[[nodiscard]] Task<Result<ConvertResult>> convert(Image& from, Image& to, ConvertOptions options);

}  // namespace vert::storage

// New, empty qcow2 images.
#pragma once

#include "storage/qcow2/qcow2_image.hpp"

namespace vert::storage::qcow2 {

struct CreateOptions {
  u64 size = 0;  // of the disk, in bytes
  u32 version = 3;
  u64 cluster_size = 64 << 10;
  unsigned refcount_bits = 16;
  bool lazy_refcounts = false;
  CompressionType compression = CompressionType::kZlib;
  std::optional<std::string> backing_file = {};    // as it stands in the header
  std::optional<std::string> backing_format = {};  // raw or qcow2
};

/// Options that contradict each other, or that the format does not have.
[[nodiscard]] Status check_options(const CreateOptions& options);
/// Writes an empty image into `file`, which is empty.
[[nodiscard]] Task<Status> write_empty(ImageFile& file, CreateOptions options);

}  // namespace vert::storage::qcow2

// New images of any format. By the tools.
#pragma once

#include "storage/qcow2/create.hpp"

namespace vert::storage {

struct NewImage {
  Format format = Format::kQcow2;
  u64 size = 0;
  bool preallocate = false;  // space in the file for the whole disk
  qcow2::CreateOptions qcow2 = {};
};

/// In place of whatever is at `path`. Error: the options do not fit together, the file is in use, the host's
/// disk is full, ...
[[nodiscard]] Task<Status> create_image(IoContext& context, std::string path, NewImage image);

}  // namespace vert::storage

// Makes the times in a new ext4 file system the same each time that it is made. Main thread.
#pragma once

#include <string>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::cli {

/// mke2fs takes the times of the files that it copies; when a file was last accessed and changed depends on
/// when it was put there. Sets both, and when it was created, to the time of the file system itself; a file
/// modified later than that counts as modified then. The file system begins `offset` bytes into `disk`.
[[nodiscard]] Status settle_file_system_times(const std::string& disk, u64 offset);

}  // namespace vert::cli

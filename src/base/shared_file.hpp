// A file without a name, for memory that is mapped more than once.
#pragma once

#include <string>

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vert::base {

/// A file of `size` zero bytes: a memfd, or, where the host forbids those, a deleted file in a folder for
/// temporary files with room for it. `what` names it in errors.
[[nodiscard]] Result<Fd> make_shared_file(u64 size, const std::string& what);

}  // namespace vert::base

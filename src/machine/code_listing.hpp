// Guest code beside what engine bt makes of it, for `vert explain`. No machine is needed. Any thread.
#pragma once

#include <span>
#include <string>

#include "base/error.hpp"
#include "base/types.hpp"

namespace vert::machine {

enum class CodeKind : u8 { kUser, kKernel, kUser32 };

/// Lists the blocks that `bytes`, which lie at `address`, consist of when run from the first to the last: at
/// most `most_blocks`. With a legend before and a sum behind.
[[nodiscard]] Result<std::string> list_code(std::span<const u8> bytes, u64 address, CodeKind kind,
                                            std::size_t most_blocks);

}  // namespace vert::machine

// Names, for people, of what generated code consists of and reaches. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/bt/emitter.hpp"

namespace vert::bt {

struct NamedThunk {
  u32 offset = 0;
  std::string_view name;
};
/// All thunks, by ascending offset in the code cache.
[[nodiscard]] std::vector<NamedThunk> named_thunks(const Thunks& thunks);

/// What lies at that offset of the Context, as "ctx.tlb.user.read[0].tag"; with a number where nothing has a
/// name.
[[nodiscard]] std::string context_name(u32 offset);

/// A block: "guest-kernel:ffffffff81000000", "guest-user:401000", "guest-user32:8048000".
[[nodiscard]] std::string block_name(u64 rip, const Mode& mode);

/// Why an exit is taken, and where it leads.
[[nodiscard]] std::string exit_name(const CodeExit& exit);

}  // namespace vert::bt

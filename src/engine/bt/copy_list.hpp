// Which instructions may be copied to the host, and what is known of them beyond what the decoder says. No
// state: any thread may ask.
#pragma once

#include <Zydis/Zydis.h>

#include <algorithm>
#include <span>
#include <string_view>

#include "base/types.hpp"

namespace vert::bt {

struct CopyRule {
  bool steady = false;         // without a memory operand, it faults on no host
  bool settles_flags = false;  // flags that the manual leaves undefined come out the same whatever they were,
                               // as tried on processors
  bool keeps_target = false;   // the register that it writes may stay as it was, with a source of 0
};

/// Instructions of which the same is known.
struct CopyGroup {
  CopyRule rule;
  std::string_view names;  // as the decoder has them, with a space between
};
[[nodiscard]] std::span<const CopyGroup> copy_groups();

template <typename Function>
void for_each_name(const CopyGroup& group, Function&& function) {
  for (std::size_t at = 0; at < group.names.size();) {
    const std::size_t end = std::min(group.names.find(' ', at), group.names.size());
    function(group.names.substr(at, end - at));
    at = end + 1;
  }
}

/// Null if the instruction is not copied.
[[nodiscard]] const CopyRule* copy_rule(ZydisMnemonic mnemonic);

}  // namespace vert::bt

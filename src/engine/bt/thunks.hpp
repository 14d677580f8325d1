// Fixed code at the start of the code cache: the ways into and out of generated code, and to leaf functions.
#pragma once

#include "engine/bt/code_cache.hpp"
#include "engine/bt/emitter.hpp"

namespace vert::bt {

/// Loads the FPU's image into Context::xsave; called from generated code with the vector registers not the
/// guest's.
using PrepareFpu = void (*)(Context*);

/// Writes the thunks at the start of `cache`; `look_at` as for the Emitter.
[[nodiscard]] Thunks make_thunks(CodeCache& cache, PrepareFpu prepare_fpu,
                                 std::size_t look_at = offsetof(Context, attention));

}  // namespace vert::bt

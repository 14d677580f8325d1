// What generated code asks the other leaf functions for, in the form that its calls have.
#include "engine/bt/emitter_requests.hpp"
#include "engine/bt/leaf.hpp"

namespace vert::bt {

extern "C" u64 leaf_fill(Context* context, u64 address, u32 request) {
  const u32 size = request & 0xFFFF;
  if ((address & kPageOffsetMask) + size > kPageSize) return static_cast<u64>(FillResult::kCrosses);
  const bool filled = leaf_fill_tlb(context, address, request >> 16 & 1, request >> 24);
  return static_cast<u64>(filled ? FillResult::kFilled : FillResult::kDeclined);
}

extern "C" u64 leaf_string(Context* context, u64 /*address*/, u32 request) {
  const u32 size = request & 0xFFFF;
  const u32 privilege = request >> 24;
  return (request >> 16 & 1) != 0 ? leaf_rep_movs(context, size, privilege)
                                  : leaf_rep_stos(context, size, privilege);
}

}  // namespace vert::bt

// What generated code asks the other leaf functions for, in the form that its calls have.
#include "engine/bt/emitter_requests.hpp"
#include "engine/bt/leaf.hpp"

namespace vert::bt {

extern "C" u64 leaf_fill(Context* context, u64 address, u32 request) {
  const u32 size = request & 0xFFFF;
  const u32 write = request >> 16 & 1;
  FillResult result = FillResult::kDeclined;
  if ((address & kPageOffsetMask) + size > kPageSize)
    result = FillResult::kCrosses;
  else if (leaf_fill_tlb(context, address, write, request >> 24))
    result = FillResult::kFilled;
  ++context->fill_results[write][static_cast<u64>(result)];
  return static_cast<u64>(result);
}

extern "C" u64 leaf_string(Context* context, u64 /*address*/, u32 request) {
  const u32 size = request & 0xFFFF;
  const u32 privilege = request >> 24;
  return (request >> 16 & 1) != 0 ? leaf_rep_movs(context, size, privilege)
                                  : leaf_rep_stos(context, size, privilege);
}

}  // namespace vert::bt

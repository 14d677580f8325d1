// String instructions on RAM (SDM 2A/2B: MOVS, STOS, LODS, REP), page by page with the host's own.
#include "engine/bt/leaf_access.hpp"
#include "x86/registers.hpp"

namespace vert::bt {

namespace {

/// What one call does at most, so that interrupts are taken within a bounded time.
constexpr u64 kMostBytes = u64{64} << 10;

/// Elements from `address` on that do not leave its page.
u64 room(u64 address, u32 size) { return (kPageSize - (address & kPageOffsetMask)) / size; }
u64 lesser(u64 a, u64 b) { return a < b ? a : b; }

// SAFETY (both): `count` elements at each end lie in pages of guest RAM that the soft TLB has. DF is clear,
// as in all C++ code. The same instruction at the same element size keeps the guest's meaning where the ends
// overlap.
void copy(u8* to, const u8* from, u64 count, u32 size) {
  switch (size) {
    case 1: asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); return;
    case 2: asm volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); return;
    case 4: asm volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); return;
    default: asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); return;
  }
}
void fill(u8* to, u64 value, u64 count, u32 size) {
  switch (size) {
    case 1: asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory"); return;
    case 2: asm volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory"); return;
    case 4: asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory"); return;
    default: asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory"); return;
  }
}

/// At most `most` elements, within one page at each end; how many were copied.
u64 move_chunk(Context& context, u64 most, u32 size, u32 privilege) {
  u64& source = context.gpr[x86::kRsi];
  u64& destination = context.gpr[x86::kRdi];
  const u64 count = lesser(most, lesser(room(source, size), room(destination, size)));
  if (count == 0) return 0;
  const u8* from = host_for(context, source, count * size, false, privilege);
  if (from == nullptr) return 0;
  u8* to = host_for(context, destination, count * size, true, privilege);
  if (to == nullptr) return 0;
  copy(to, from, count, size);
  source += count * size;
  destination += count * size;
  return count;
}

u64 store_chunk(Context& context, u64 most, u32 size, u32 privilege) {
  u64& destination = context.gpr[x86::kRdi];
  const u64 count = lesser(most, room(destination, size));
  if (count == 0) return 0;
  u8* to = host_for(context, destination, count * size, true, privilege);
  if (to == nullptr) return 0;
  fill(to, context.gpr[x86::kRax], count, size);
  destination += count * size;
  return count;
}

/// What is left is the interpreter's. An event that it takes before saves RF if there were iterations (SDM
/// 3B, 17.3.1.1).
template <typename Chunk>
u64 repeat(Context& context, u32 size, u32 privilege, Chunk chunk) {
  u64& left = context.gpr[x86::kRcx];
  const u64 count = left;
  for (u64 budget = kMostBytes / size; left != 0 && budget != 0;) {
    const u64 done = chunk(context, lesser(left, budget), size, privilege);
    if (done == 0) break;
    left -= done;
    budget -= done;
  }
  if (left != 0 && left != count) context.rflags_rest |= x86::rflags::RF;
  return left;
}

}  // namespace

extern "C" u64 leaf_rep_movs(Context* context, u32 size, u32 privilege) {
  return repeat(*context, size, privilege, move_chunk);
}

extern "C" u64 leaf_rep_stos(Context* context, u32 size, u32 privilege) {
  return repeat(*context, size, privilege, store_chunk);
}

extern "C" bool leaf_movs(Context* context, u32 size, u32 privilege) {
  return move_chunk(*context, 1, size, privilege) != 0;
}

extern "C" bool leaf_stos(Context* context, u32 size, u32 privilege) {
  return store_chunk(*context, 1, size, privilege) != 0;
}

extern "C" bool leaf_lods(Context* context, u32 size, u32 privilege) {
  u64& source = context->gpr[x86::kRsi];
  u64& rax = context->gpr[x86::kRax];
  const u8* from = host_for(*context, source, size, false, privilege);
  if (from == nullptr) return false;
  u64 value = 0;
  switch (size) {
    case 1: __builtin_memcpy(&value, from, 1); break;
    case 2: __builtin_memcpy(&value, from, 2); break;
    case 4: __builtin_memcpy(&value, from, 4); break;
    default: __builtin_memcpy(&value, from, 8); break;
  }
  const u64 kept = size >= 4 ? 0 : ~u64{0} << (size * 8);
  rax = (rax & kept) | value;
  source += size;
  return true;
}

}  // namespace vert::bt

// Data accesses of leaf functions: the soft TLB's lookup, as generated code does it. For leaf_*.cpp only:
// these are compiled for general registers.
#pragma once

#include "engine/bt/leaf.hpp"

namespace vert::bt {

namespace {

/// Host address of [address, address + size), within one page; null where the interpreter must do it.
inline u8* host_for(Context& context, u64 address, u64 size, bool write, u32 privilege) {
  TlbBank& bank = context.tlb[privilege];
  const TlbEntry& entry = (write ? bank.write : bank.read)[tlb_index(address)];
  if ((address ^ entry.tag) > kPageSize - size) {
    if ((address & kPageOffsetMask) > kPageSize - size) return nullptr;
    if (!leaf_fill_tlb(&context, address, write ? 1 : 0, privilege)) return nullptr;
  }
  // SAFETY: the entry maps this page, all of it RAM, and it is not dropped while this vCPU runs generated
  // code.
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the entry holds the distance between two address spaces.
  return reinterpret_cast<u8*>(address + entry.addend);
}

inline bool read_quad(Context& context, u64 address, u32 privilege, u64& value) {
  const u8* host = host_for(context, address, sizeof value, false, privilege);
  if (host == nullptr) return false;
  __builtin_memcpy(&value, host, sizeof value);
  return true;
}

}  // namespace

}  // namespace vert::bt

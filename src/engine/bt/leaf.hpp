// Leaf functions: what generated code calls without saving vector registers.
//
// Compiled for general registers only, and self-contained: they call nothing that may use other registers. On
// the vCPU's thread. Where one declines (false), nothing that the guest can see has changed, and the
// interpreter does it.
#pragma once

#include "base/types.hpp"
#include "engine/bt/context.hpp"

namespace vert::bt {

extern "C" {

/// Walks the guest's page tables for `address` and fills the slot of Context::tlb[privilege]; `write` asks
/// for its write half, which is filled too whenever it may be. Sets no A or D bits: declines where one is
/// missing, and on everything that is not plain RAM allowed to this privilege (a cpu::Privilege).
bool leaf_fill_tlb(Context* context, u64 address, u32 write, u32 privilege);

}  // extern "C"

}  // namespace vert::bt

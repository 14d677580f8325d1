// Upkeep of what a Context caches about address translation: the soft TLB and the code tokens. All on the
// owner's thread; leaf_walk.cpp fills the TLB.
#pragma once

#include "cpu/engine.hpp"
#include "engine/bt/context.hpp"

namespace vert::bt {

/// Tells `context` where RAM lies and empties what is here. Context::state is the caller's to set.
void init(Context& context, const cpu::VcpuContext& vcpu);

/// After each change of CR0.PG or WP, CR4, EFER and PKRU, and after state_changed().
void flush_all(Context& context);
/// MOV to CR3: all but global pages (SDM 3A, 4.10.4.1). False if more went.
bool flush_address_space(Context& context);
/// INVLPG: the page, of whatever size, that holds `address`. False if it may be a large one: then all goes.
bool flush_page(Context& context, u64 address);

/// A large page holds `address`: flush_page() shall know.
void note_large_page(Context& context, u64 address, u64 page_size);

/// The token of the code page at `linear`; `global` as its translation has it.
void set_token(Context& context, bool user, u64 linear, u32 token, bool global);

/// A page got a mark (GuestMemory): forgets the write entries of `frame`, or of all.
void drop_writable(Context& context, memory::Frame frame);
void drop_all_writable(Context& context);

}  // namespace vert::bt

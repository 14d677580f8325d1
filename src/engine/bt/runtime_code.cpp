// From guest addresses to code: look-up, translation, links.
#include <cstring>

#include "engine/bt/runtime.hpp"
#include "engine/bt/tlb.hpp"
#include "x86/cpu_model.hpp"
#include "x86/paging.hpp"

namespace vert::bt {

using namespace x86;

namespace {

/// More than any block's code.
constexpr std::size_t kRoomForBlock = 64 * 1024;

}  // namespace

Mode Runtime::mode() const {
  Mode mode = mode_of(*state_);
  mode.counted = budget_ != cpu::kNoBudget;
  return mode;
}

/// The block at `rip`, translated if need be; null where the guest cannot fetch.
Block* Runtime::find(u64 rip, const Mode& mode) {
  if (!mode.code32 && !is_canonical(rip, state_->linear_bits())) return nullptr;
  const cpu::Privilege privilege = mode.user() ? cpu::Privilege::kUser : cpu::Privilege::kSupervisor;
  cpu::Translation translation;
  Fault fault;
  if (!cpu::walk(*state_, *vcpu_.memory, vcpu_.model->physical_bits(), Gla(rip), cpu::AccessKind::kExecute,
                 privilege, translation, fault))
    return nullptr;
  const u8* host = vcpu_.memory->host(translation.page, kPageSize);
  if (host == nullptr) return nullptr;
  const u32 page = store_.page(rip & ~kPageOffsetMask, host, vcpu_.memory->frame_of(host), mode.user());
  Block* block = store_.find(page, rip, mode);
  if (block == nullptr) {
    block = translate(page, rip, mode);
    if (block == nullptr) return nullptr;
  }
  set_token(*context_, mode.user(), rip, block->token, translation.global && (state_->cr4 & cr4::PGE) != 0);
  // A write by another thread either saw the token, and cleared it, or is seen here.
  if (has_requests_.load(std::memory_order_seq_cst)) {
    context_->attention.store(1, std::memory_order_seq_cst);
    settle_requests();
    if (block->dead) return find(rip, mode);
  }
  return block;
}

Block* Runtime::translate(u32 page_index, u64 rip, const Mode& mode) {
  if (cache_.room() < kRoomForBlock) {
    const CodePage page = store_.page(page_index);
    forget_all_code();
    page_index = store_.page(page.linear, page.host, page.frame, page.user);
  }
  const CodePage& page = store_.page(page_index);
  vcpu_.memory->watch_code(page.frame);
  // A copy: the guest may change its memory meanwhile.
  std::array<u8, kPageSize> bytes;
  const u64 offset = rip & kPageOffsetMask;
  const std::size_t count = std::min<std::size_t>(kPageSize - offset, BlockPlan::kMaxInsns * 15);
  std::memcpy(bytes.data(), page.host + offset, count);
  plan_block(std::span(bytes).first(count), rip, mode, *vcpu_.model, plan_);
  const u32 index = store_.next_block();
  const Emitter::Request request{plan_, mode, rip, page.token, index};
  emitter_.emit(request, store_.exits);
  const u32 base = cache_.position();
  VERT_CHECK(emitter_.size() <= kRoomForBlock);
  const Emitter::Placed placed = emitter_.place(base, cache_.write_at(base), store_.exits, store_.marks);
  cache_.take(emitter_.size());
  ++statistics_.blocks;
  statistics_.code_bytes += emitter_.size();
  return &store_.add({.rip = rip,
                      .page = page_index,
                      .token = page.token,
                      .mode = mode,
                      .checked_entry = placed.checked_entry,
                      .inner_entry = placed.inner_entry,
                      .insn_count = static_cast<u16>(plan_.count)});
}

Block* Runtime::follow_link(u32 exit_index) {
  const CodeExit exit = store_.exits[exit_index];
  const u32 source_token = store_.block(exit.block).token;
  Mode target_mode = mode();
  target_mode.unshared = exit.unshared;
  const u64 flushes = statistics_.cache_flushes;
  Block* target = find(exit.rip, target_mode);
  if (target == nullptr || flushes != statistics_.cache_flushes) return target;
  const bool same_page = target->token == source_token && !exit.checked;
  cache_.patch(exit.site, same_page ? target->inner_entry : target->checked_entry);
  return target;
}

/// A checked entry whose token was not current: either the address space has changed, or the page was
/// written.
Block* Runtime::follow_lookup(u32 exit_index) {
  const CodeExit exit = store_.exits[exit_index];
  const Mode wanted = store_.block(exit.block).mode;
  const u64 flushes = statistics_.cache_flushes;
  Block* target = find(exit.rip, wanted);
  if (target == nullptr || flushes != statistics_.cache_flushes) return target;
  Block& stale = store_.block(exit.block);
  if (!stale.dead) {
    if (target != &stale) remember_jump(*target);
    return target;
  }
  // Whoever still leads to the dead block is led on.
  constexpr u8 kJmp = 0xE9;
  *cache_.write_at(stale.checked_entry) = kJmp;
  cache_.patch(stale.checked_entry + 1, target->checked_entry);
  remember_jump(*target);
  return target;
}

Block* Runtime::follow_indirect(u32 /*exit_index*/) {
  Block* target = find(context_->rip, mode());
  if (target != nullptr) remember_jump(*target);
  return target;
}

void Runtime::remember_jump(const Block& block) {
  const unsigned index = jump_index(block.rip);
  context_->jump_keys[index] = 0 - (block.rip + static_cast<u64>(static_cast<i64>(block.mode.salt())));
  context_->jump_code[index] = cache_.code(block.checked_entry);
}

void Runtime::forget_all_code() {
  ++statistics_.cache_flushes;
  store_.clear();
  cache_.rewind(first_code_);
  // No RIP has this key at this index: bit 2 of RIP, bit 0 of the index, differs.
  for (unsigned i = 0; i < kJumps; ++i) context_->jump_keys[i] = 0 - (u64{i ^ 1U} << 2);
  const u8* return_empty = cache_.code(thunks_.return_empty);
  const u64 user = user_returns_.empty(return_empty);
  const u64 supervisor = supervisor_returns_.empty(return_empty);
  context_->supervisor_stack = supervisor;
  context_->return_rsp = context_->user_stack != 0 ? user : supervisor;
  context_->other_return_rsp = user;
  for (auto& tokens : context_->code_tokens)
    for (auto& token : tokens) token.store(0, std::memory_order_relaxed);
}

}  // namespace vert::bt

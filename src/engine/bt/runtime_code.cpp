// From guest addresses to code: look-up, translation, links.
#include <cstring>

#include "engine/bt/leaf.hpp"
#include "engine/bt/runtime.hpp"
#include "engine/bt/tlb.hpp"
#include "x86/cpu_model.hpp"
#include "x86/paging.hpp"

namespace vert::bt {

using namespace x86;

namespace {

/// No canonical RIP.
constexpr u64 kNowhere = u64{1} << 62;
/// More than any block's code.
constexpr std::size_t kRoomForBlock = 64 * 1024;
constexpr std::size_t kMaxInsn = 15;
/// Blocks that are made at once: what follows a call or a loop runs sooner or later, most likely.
constexpr unsigned kMostInRow = 3;
constexpr u32 kJumpSize = 5;

}  // namespace

Mode Runtime::mode(cpu::Privilege privilege) const {
  Mode mode = modes_[static_cast<u32>(privilege)];
  mode.code32 = code32_;
  mode.windows = mode.windows && !code32_;
  return mode;
}

/// Whether the guest may write to a page of code by the address at which it runs it (CodeBytes::writable).
bool Runtime::code_writable(u64 linear, bool user) const {
  const cpu::Privilege privilege = user ? cpu::Privilege::kUser : cpu::Privilege::kSupervisor;
  PageView view;
  return !leaf_look_up(context_.get(), linear, static_cast<u32>(privilege), &view) || view.may_be_written;
}

/// The page of code at `linear`; nothing if it cannot be fetched.
std::optional<Runtime::Fetched> Runtime::fetch(u64 linear, const Mode& mode) {
  if (!mode.code32 && !is_canonical(linear, state_->linear_bits())) return std::nullopt;
  const cpu::Privilege privilege = mode.user() ? cpu::Privilege::kUser : cpu::Privilege::kSupervisor;
  cpu::Translation translation;
  Fault fault;
  if (!cpu::walk(*state_, *vcpu_.memory, vcpu_.model->paging_limits(), Gla(linear), cpu::AccessKind::kExecute,
                 privilege, translation, fault))
    return std::nullopt;
  const u8* host = vcpu_.memory->host(translation.page, kPageSize);
  if (host == nullptr) return std::nullopt;
  note_large_page(*context_, linear, translation.page_size);
  const u64 first = linear & ~kPageOffsetMask;
  const memory::Frame frame = vcpu_.memory->frame_of(host);
  const CodeSpace space = space_of(first, frame, translation, mode.windows ? windows_.space() : kNoSpace);
  // The guest may have changed its tables without a word: what nobody vouches for any more must go.
  const auto before = store_.page_at(space, first, mode.user());
  if (before && store_.page(*before).host != host) forget_page(*before);
  const bool writable = code_writable(first, mode.user());
  u32 page = store_.page(first, host, frame, mode.user(), space, writable);
  if (writable != store_.page(page).writable) {
    forget_page(page);
    page = store_.page(first, host, frame, mode.user(), space, writable);
  }
  return Fetched{page, translation.global && (state_->cr4 & cr4::PGE) != 0};
}

/// The block at `rip`, translated if need be; null where the guest cannot fetch, or where others keep
/// writing. Its tokens are set.
Block* Runtime::find(u64 rip, const Mode& mode, unsigned tries) {
  if (tries == 0) return nullptr;
  const auto first = fetch(rip, mode);
  if (!first) return nullptr;
  const u64 flushes = statistics_.cache_flushes;
  Block* block = store_.find(first->page, rip, mode);
  if (block == nullptr) block = translate(first->page, rip, mode);
  set_token(*context_, mode.user(), rip, block->token, first->global);
  if (block->second_page != Block::kNoPage) {
    const auto second = fetch(rip + kPageSize, mode);
    if (!second) return nullptr;
    if (second->page != block->second_page && flushes == statistics_.cache_flushes)
      block = translate(first->page, rip, mode);
    if (block->second_page != Block::kNoPage)
      set_token(*context_, mode.user(), rip + kPageSize, store_.page(block->second_page).token,
                second->global);
  }
  // A write by another thread either saw the tokens, and cleared them, or is seen here.
  if (has_requests_.load(std::memory_order_seq_cst)) {
    settle_requests();
    if (flushes != statistics_.cache_flushes || block->dead) return find(rip, mode, tries - 1);
  }
  return block;
}

/// Makes the block at `rip`, and those that go on where it ends, as long as they are in the same page: their
/// hot code follows its own, in place of a jump.
Block* Runtime::translate(u32 page_index, u64 rip, const Mode& mode) {
  const Sampler::In phase(sampler_.get(), Sampler::Phase::kTranslation);
  const Windows::Uncounted uncounted(windows_);
  if (cache_.room() < kRoomForBlock) {
    const CodePage page = store_.page(page_index);
    forget_all_code();
    page_index = store_.page(page.linear, page.host, page.frame, page.user, page.space, page.writable);
  }
  vcpu_.memory->watch_code(store_.page(page_index).frame);
  // A copy: the guest may change its memory meanwhile.
  std::array<u8, kPageSize + kMaxInsn> bytes;
  std::memcpy(bytes.data(), store_.page(page_index).host, kPageSize);
  const u64 page = rip & ~kPageOffsetMask;
  const bool writable = store_.page(page_index).writable;
  const CodeBytes code{std::span(bytes).first(kPageSize), page, writable};
  plan_block(code, rip, mode, *vcpu_.model, plan_);
  u32 second_page = Block::kNoPage;
  if (plan_.insn(0).insn.length == 0 && kPageSize - (rip - page) < kMaxInsn)
    second_page = plan_crossing(rip, bytes, mode, writable);
  cache_.align();
  const u32 first = store_.next_block();
  const Emitter::SegmentBases gs{context_->gs_base, context_->kernel_gs_base};
  std::optional<Emitter::Tail> tail = make_block(page_index, second_page, rip, mode, gs);
  for (unsigned more = kMostInRow; tail && more != 0; --more) {
    const Mode next = tail->mode;
    const CodeExit exit = store_.exits[tail->exit];
    if (!code.contains(exit.rip) || cache_.room() < kRoomForBlock) break;
    if (const Block* there = store_.find(page_index, exit.rip, next)) {
      cache_.patch(exit.site, exit.fpu_loaded ? there->fpu_entry : there->inner_entry);
      break;
    }
    plan_block(code, exit.rip, next, *vcpu_.model, plan_);
    if (plan_.insn(0).insn.length == 0) break;
    // Whoever cuts a block off writes a jump over its entries: that must not reach into the next.
    const Block& last = store_.block(exit.block);
    if (exit.site < std::max(last.inner_entry, last.fpu_entry) + kJumpSize + 1) break;
    cache_.take_back(kJumpSize);
    statistics_.code_bytes -= kJumpSize;
    tail = make_block(page_index, Block::kNoPage, exit.rip, next, emitter_.gs());
  }
  return &store_.block(first);
}

/// Makes the block that was planned, at the cache's position. Returns the exit at its hot code's end, if it
/// has one.
std::optional<Emitter::Tail> Runtime::make_block(u32 page_index, u32 second_page, u64 rip, const Mode& mode,
                                                 Emitter::SegmentBases gs) {
  const u32 index = store_.next_block();
  const u32 token = store_.page(page_index).token;
  const u32 second_token = second_page == Block::kNoPage ? 0 : store_.page(second_page).token;
  const bool trusted = store_.page(page_index).space != kNoSpace;
  const Emitter::Request request{plan_, mode, rip, token, index, second_token, trusted, gs};
  emitter_.emit(request, store_.exits, store_.x87);
  const Emitter::Placed placed = emitter_.place(cache_, store_.exits, store_.marks);
  ++statistics_.blocks;
  statistics_.code_bytes += emitter_.size();
  const Block& block = store_.add({.rip = rip,
                                   .page = page_index,
                                   .token = token,
                                   .second_page = second_page,
                                   .mode = mode,
                                   .checked_entry = placed.checked_entry,
                                   .inner_entry = placed.inner_entry,
                                   .fpu_entry = placed.fpu_entry,
                                   .stale_exit = placed.stale_exit,
                                   .insn_count = static_cast<u16>(plan_.count)});
  tell_aids(block, placed);
  return placed.tail;
}

/// Plans the one instruction at `rip` that runs into the next page: `bytes` is the first page, and room.
/// Returns the second page, or kNoPage if that cannot be fetched; the plan is left as it was then.
u32 Runtime::plan_crossing(u64 rip, std::span<u8> bytes, const Mode& mode, bool writable) {
  const auto second = fetch(rip + kPageSize, mode);
  if (!second || (mode.code32 && rip + kPageSize > 0xFFFFFFFF)) return Block::kNoPage;
  vcpu_.memory->watch_code(store_.page(second->page).frame);
  std::memcpy(bytes.data() + kPageSize, store_.page(second->page).host, kMaxInsn);
  writable = writable || store_.page(second->page).writable;
  plan_block({bytes, rip & ~kPageOffsetMask, writable}, rip, mode, *vcpu_.model, plan_, 1);
  return second->page;
}

/// Code for where the guest is; null where it cannot fetch.
const u8* Runtime::code_at(u64 rip) {
  const unsigned index = jump_index(rip);
  if (!code32_ && context_->jump_keys[index] + rip + context_->salt == 0) {
    const u64 salt = context_->salt;
    context_->transfers[transfer_index(rip, salt)] = {rip, salt, context_->jump_code[index]};
    return context_->jump_code[index];
  }
  const Block* block = find(rip, mode());
  if (block == nullptr) return nullptr;
  remember_jump(*block);
  return cache_.code(block->inner_entry);
}

const u8* Runtime::follow_link(u32 exit_index) {
  const CodeExit exit = store_.exits[exit_index];
  const CodePage source = store_.page(store_.block(exit.block).page);
  Mode target_mode = mode();
  target_mode.unshared = exit.unshared;
  const u64 flushes = statistics_.cache_flushes;
  const Block* target = find(exit.rip, target_mode);
  if (target == nullptr) return nullptr;
  // Looking may have cut the source: its code is not to be touched any more.
  if (flushes == statistics_.cache_flushes && !store_.block(exit.block).dead) {
    const CodePage& page = store_.page(target->page);
    const bool no_look = page.token == source.token || page.space == kKernelSpace ||
                         (page.space != kNoSpace && page.space == source.space);
    const u32 near_entry = exit.fpu_loaded ? target->fpu_entry : target->inner_entry;
    cache_.patch(exit.site, no_look ? near_entry : target->checked_entry);
  }
  return cache_.code(target->inner_entry);
}

/// An entry whose token was not current: either the address space has changed, or the page was written.
const u8* Runtime::follow_lookup(u32 exit_index) {
  const CodeExit exit = store_.exits[exit_index];
  const Mode wanted = store_.block(exit.block).mode;
  const u64 flushes = statistics_.cache_flushes;
  const Block* target = find(exit.rip, wanted);
  if (target == nullptr) return nullptr;
  if (flushes == statistics_.cache_flushes) {
    const Block& stale = store_.block(exit.block);
    if (stale.dead) {
      // Whoever still leads to the dead block is led on.
      lead_on(stale.checked_entry, target->checked_entry);
      const bool trusted = store_.page(stale.page).space != kNoSpace;
      if (trusted || stale.second_page != Block::kNoPage) lead_on(stale.inner_entry, target->checked_entry);
      if (trusted && stale.fpu_entry != stale.inner_entry) lead_on(stale.fpu_entry, target->checked_entry);
    }
    if (target != &stale && !wanted.unshared) remember_jump(*target);
  }
  return cache_.code(target->inner_entry);
}

/// Makes a jump of what stands at `from`, which nothing runs through any more.
void Runtime::lead_on(u32 from, u32 to) {
  constexpr u8 kJmp = 0xE9;
  *cache_.write_at(from) = kJmp;
  cache_.patch(from + 1, to);
}

void Runtime::remember_jump(const Block& block) {
  const auto salt = static_cast<u64>(block.mode.salt());
  const bool trusted = store_.page(block.page).space != kNoSpace;
  const u8* code = cache_.code(trusted ? block.inner_entry : block.checked_entry);
  const unsigned jump = jump_index(block.rip);
  context_->jump_keys[jump] = 0 - (block.rip + salt);
  context_->jump_code[jump] = code;
  context_->transfers[transfer_index(block.rip, salt)] = {block.rip, salt, code};
}

void Runtime::forget_all_code() {
  export_fpu();  // what x87 instruction was the last is known only as long as its code is
  if (statistics_.blocks != 0) ++statistics_.cache_flushes;
  if (sampler_) sampler_->cache_emptied();
  store_.clear();
  cache_.rewind(first_code_);
  forget_jumps();
  empty_return_stacks();
  for (auto& tokens : context_->code_tokens)
    for (auto& token : tokens) token.store(0, std::memory_order_relaxed);
}

void Runtime::forget_jumps() {
  // No RIP has this key at this index: a salt is less than half the index's range.
  static_assert(1U << Mode::kSaltBits == kJumps / 2);
  for (unsigned i = 0; i < kJumps; ++i) context_->jump_keys[i] = 0 - (u64{i ^ kJumps / 2} << 2);
  context_->transfers.fill({kNowhere, 0, nullptr});
}

void Runtime::empty_return_stacks() {
  const u8* return_empty = cache_.code(thunks_.return_empty);
  for (unsigned i = 0; i < kPrivileges; ++i) context_->empty_returns[i] = returns_[i].empty(return_empty);
  context_->return_rsps = context_->empty_returns;
  context_->return_rsp = context_->empty_returns[context_->privilege];
}

}  // namespace vert::bt

#include "engine/bt/block_store.hpp"

#include <algorithm>

namespace vert::bt {

void BlockStore::clear() {
  pages_.clear();
  page_index_.clear();
  frames_.clear();
  spaces_.clear();
  block_index_.clear();
  blocks_.clear();
  marks.clear();
  x87.clear();
  exits.assign(kTransferredExit + 1, {});  // the first stands for faults
  exits[kTransferredExit] = {.kind = ExitKind::kIndirect};
}

u32 BlockStore::page(u64 linear, const u8* host, memory::Frame frame, bool user, CodeSpace space,
                     bool writable) {
  const PageKey key{linear, host, user, space};
  const auto [place, added] = page_index_.try_emplace(key, static_cast<u32>(pages_.size()));
  if (!added) return place->second;
  // Tokens are not used again: code of a page that was forgotten must not be taken for another's. They fit a
  // positive immediate; a guest that makes two thousand million pages of code first fills the cache, and
  // clears this, many times.
  next_token_ = next_token_ == 0x7FFFFFFF ? 1 : next_token_ + 1;
  pages_.push_back({linear, host, frame, user, space, writable, next_token_, {}});
  frames_[frame].push_back(place->second);
  if (space != kNoSpace) spaces_[space][BlockStore::place(linear, user)] = place->second;
  return place->second;
}

Block* BlockStore::find(u32 page, u64 rip, const Mode& mode) {
  const auto found = block_index_.find(block_key(pages_[page].token, rip, mode));
  return found == block_index_.end() ? nullptr : &blocks_[found->second];
}

Block& BlockStore::add(const Block& block) {
  const u64 key = block_key(block.token, block.rip, block.mode);
  block_index_[key] = next_block();
  pages_[block.page].blocks.push_back(key);
  if (block.second_page != Block::kNoPage) pages_[block.second_page].blocks.push_back(key);
  return blocks_.emplace_back(block);
}

const Block* BlockStore::around(u32 offset) const {
  if (blocks_.empty() || offset < blocks_.front().inner_entry) return nullptr;
  if (offset < blocks_.back().checked_entry)
    return &*std::prev(std::ranges::upper_bound(blocks_, offset, {}, &Block::inner_entry));
  return &*std::ranges::lower_bound(blocks_, offset, std::ranges::greater{}, &Block::checked_entry);
}

const Block* BlockStore::entered_at(u32 offset) const {
  const auto behind = std::ranges::upper_bound(blocks_, offset, {}, &Block::inner_entry);
  if (behind == blocks_.begin()) return nullptr;
  const Block& block = *std::prev(behind);
  return offset == block.inner_entry || offset == block.fpu_entry ? &block : nullptr;
}

std::vector<u32> BlockStore::pages_of(memory::Frame frame) const {
  const auto found = frames_.find(frame);
  return found == frames_.end() ? std::vector<u32>() : found->second;
}

std::optional<u32> BlockStore::page_at(CodeSpace space, u64 linear, bool user) const {
  const auto pages = spaces_.find(space);
  if (pages == spaces_.end()) return std::nullopt;
  const auto found = pages->second.find(place(linear, user));
  return found == pages->second.end() ? std::nullopt : std::optional(found->second);
}

std::vector<u32> BlockStore::pages_in(CodeSpace space) const {
  std::vector<u32> all;
  const auto pages = spaces_.find(space);
  if (pages == spaces_.end()) return all;
  all.reserve(pages->second.size());
  for (const auto& [linear, index] : pages->second) all.push_back(index);
  return all;
}

/// Takes a page without blocks off all lists.
void BlockStore::unlist(u32 index) {
  CodePage& page = pages_[index];
  page.blocks.clear();
  page_index_.erase({page.linear, page.host, page.user, page.space});
  const auto frame = frames_.find(page.frame);
  if (frame != frames_.end() && std::erase(frame->second, index) != 0 && frame->second.empty())
    frames_.erase(frame);
  const auto pages = spaces_.find(page.space);
  if (pages == spaces_.end()) return;
  const auto found = pages->second.find(place(page.linear, page.user));
  if (found != pages->second.end() && found->second == index) pages->second.erase(found);
}

}  // namespace vert::bt

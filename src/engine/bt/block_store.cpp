#include "engine/bt/block_store.hpp"

namespace vert::bt {

void BlockStore::clear() {
  pages_.clear();
  page_index_.clear();
  frames_.clear();
  block_index_.clear();
  blocks_.clear();
  marks.clear();
  exits.assign(kTransferredExit + 1, {});  // the first stands for faults
  exits[kTransferredExit] = {.kind = ExitKind::kIndirect};
}

u32 BlockStore::page(u64 linear, const u8* host, memory::Frame frame, bool user) {
  const PageKey key{linear, host, user};
  const auto [place, added] = page_index_.try_emplace(key, static_cast<u32>(pages_.size()));
  if (!added) return place->second;
  // Tokens are not used again: code of a page that was forgotten must not be taken for another's. They fit a
  // positive immediate; a guest that makes two thousand million pages of code first fills the cache, and
  // clears this, many times.
  next_token_ = next_token_ == 0x7FFFFFFF ? 1 : next_token_ + 1;
  pages_.push_back({linear, host, frame, user, next_token_, {}});
  frames_[frame].push_back(place->second);
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

void BlockStore::forget_page(u32 index) {
  CodePage& page = pages_[index];
  for (const u64 key : page.blocks) {
    const auto found = block_index_.find(key);
    if (found == block_index_.end()) continue;  // went with its other page
    blocks_[found->second].dead = true;
    block_index_.erase(found);
  }
  page.blocks.clear();
  page_index_.erase({page.linear, page.host, page.user});
}

}  // namespace vert::bt

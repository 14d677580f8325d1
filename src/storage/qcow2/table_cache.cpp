#include "storage/qcow2/table_cache.hpp"

#include <algorithm>
#include <vector>

namespace vert::storage::qcow2 {
namespace {

constexpr std::size_t kWritesAtOnce = 32;

}  // namespace

TableCache::Piece* TableCache::find(u64 offset) {
  const auto found = by_offset_.find(offset);
  if (found == by_offset_.end()) return nullptr;
  pieces_.splice(pieces_.begin(), pieces_, found->second);
  return &*found->second;
}

Task<Result<TableCache::Piece*>> TableCache::load(u64 offset) {
  // Again and again: whoever is woken in between may drop pieces.
  while (true) {
    if (Piece* const piece = find(offset)) co_return piece;
    if (loading_.contains(offset)) {
      co_await loaded_.wait();
    } else {
      VERT_CO_TRY(co_await fetch(offset));
    }
  }
}

Task<Status> TableCache::fetch(u64 offset) {
  loading_.insert(offset);
  Piece piece{offset, std::make_unique<u8[]>(piece_size_), false};
  const iovec buffer = {piece.bytes.get(), piece_size_};
  auto status = co_await file_.read(offset, Buffers(&buffer, 1));
  loading_.erase(offset);
  if (status) {
    make_room();
    pieces_.push_front(std::move(piece));
    by_offset_[offset] = pieces_.begin();
  }
  loaded_.wake_all();
  co_return status;
}

void TableCache::make_room() {
  auto candidate = pieces_.end();
  while (pieces_.size() - dirty_ >= capacity_ && candidate != pieces_.begin()) {
    --candidate;
    if (candidate->dirty) continue;
    by_offset_.erase(candidate->offset);
    candidate = pieces_.erase(candidate);
  }
}

void TableCache::mark_dirty(Piece& piece) {
  if (!std::exchange(piece.dirty, true)) ++dirty_;
}

Task<Status> TableCache::write_piece(u64 offset) {
  Piece& piece = *find(offset);  // dirty, so it stays
  const iovec buffer = {piece.bytes.get(), piece_size_};
  auto status = co_await file_.write(offset, Buffers(&buffer, 1));
  if (status && std::exchange(piece.dirty, false)) --dirty_;
  co_return status;
}

Task<Status> TableCache::write_back() {
  if (dirty_ == 0) co_return Status{};
  std::vector<u64> offsets;
  for (const Piece& piece : pieces_)
    if (piece.dirty) offsets.push_back(piece.offset);
  std::ranges::sort(offsets);
  Status result;
  for (std::size_t first = 0; first < offsets.size() && result; first += kWritesAtOnce) {
    std::vector<Task<Status>> writes;
    for (std::size_t i = first; i < std::min(first + kWritesAtOnce, offsets.size()); ++i)
      writes.push_back(write_piece(offsets[i]));
    for (auto& write : writes) {
      auto status = co_await write;
      if (!status) result = std::move(status);
    }
  }
  co_return result;
}

void TableCache::drop(u64 offset, u64 length) {
  for (u64 at = offset; at < offset + length; at += piece_size_) {
    const auto found = by_offset_.find(at);
    if (found == by_offset_.end()) continue;
    if (found->second->dirty) --dirty_;
    pieces_.erase(found->second);
    by_offset_.erase(found);
  }
}

}  // namespace vert::storage::qcow2

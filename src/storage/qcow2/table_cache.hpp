// Pieces of tables (L2 tables, refcount blocks) in memory: read when they are needed, written back together.
//
// A piece stays where it is until a coroutine that uses the cache suspends; after that, it is looked up
// again.
#pragma once

#include <list>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "storage/async.hpp"
#include "storage/image_file.hpp"

namespace vert::storage::qcow2 {

class TableCache {
 public:
  struct Piece {
    u64 offset = 0;
    std::unique_ptr<u8[]> bytes;
    bool dirty = false;
  };

  /// Keeps at most `capacity` clean pieces of `piece_size` bytes; dirty ones stay until they are written.
  TableCache(ImageFile& file, u64 piece_size, u64 capacity)
      : file_(file), piece_size_(piece_size), capacity_(capacity) {}

  [[nodiscard]] u64 piece_size() const { return piece_size_; }
  /// The piece at that offset of the file, a multiple of piece_size, if it is here.
  [[nodiscard]] Piece* find(u64 offset);
  [[nodiscard]] Task<Result<Piece*>> load(u64 offset);
  void mark_dirty(Piece& piece);
  [[nodiscard]] u64 dirty_count() const { return dirty_; }
  /// What is dirty when it begins. Nothing may become dirty meanwhile.
  [[nodiscard]] Task<Status> write_back();
  /// Forgets what lies there, dirty or not.
  void drop(u64 offset, u64 length);

 private:
  [[nodiscard]] Task<Status> fetch(u64 offset);
  [[nodiscard]] Task<Status> write_piece(u64 offset);
  void make_room();

  ImageFile& file_;
  const u64 piece_size_;
  const u64 capacity_;
  std::list<Piece> pieces_;  // most recently used first
  std::unordered_map<u64, std::list<Piece>::iterator> by_offset_;
  std::unordered_set<u64> loading_;
  WaitList loaded_;
  u64 dirty_ = 0;
};

}  // namespace vert::storage::qcow2

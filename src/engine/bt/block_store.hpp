// Which code has been translated: pages of guest code, their blocks, and the ways out of these.
//
// One for each translator, on its thread. Everything goes at once when the code cache is full; a page goes
// when it was written.
#pragma once

#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/bt/emitter.hpp"
#include "memory/guest_memory.hpp"

namespace vert::bt {

/// Where code may be jumped to without a look at the page's token: whoever changes the translation of a page
/// there makes its blocks unreachable first (Runtime::verify). kNoSpace: nowhere; kKernelSpace: global pages
/// of the supervisor; from kFirstUserSpace on, an address space with windows.
using CodeSpace = u32;
inline constexpr CodeSpace kNoSpace = 0;
inline constexpr CodeSpace kKernelSpace = 1;
inline constexpr CodeSpace kFirstUserSpace = 2;

/// A page of guest code as one address space sees it.
struct CodePage {
  u64 linear = 0;
  const u8* host = nullptr;
  memory::Frame frame = 0;
  bool user = false;
  CodeSpace space = kNoSpace;
  bool writable = false;  // as CodeBytes has it, when its code was made
  u32 token = 0;
  std::vector<u64> blocks;  // keys in BlockStore
};

struct Block {
  u64 rip = 0;
  u32 page = 0;
  u32 token = 0;  // of its page
  static constexpr u32 kNoPage = ~u32{0};
  u32 second_page = kNoPage;  // that its one instruction runs into
  Mode mode;
  u32 checked_entry = 0;
  u32 inner_entry = 0;
  u32 fpu_entry = 0;
  u32 stale_exit = 0;  // leaves by a kLookup
  u16 insn_count = 0;
  bool dead = false;  // its page was written, or lies elsewhere now
};

class BlockStore {
 public:
  BlockStore() { clear(); }
  void clear();

  /// The page at `linear` that lies at `host`; made if it is new.
  [[nodiscard]] u32 page(u64 linear, const u8* host, memory::Frame frame, bool user, CodeSpace space,
                         bool writable);
  [[nodiscard]] const CodePage& page(u32 index) const { return pages_[index]; }

  [[nodiscard]] Block* find(u32 page, u64 rip, const Mode& mode);
  /// The index that the next added block will have.
  [[nodiscard]] u32 next_block() const { return static_cast<u32>(blocks_.size()); }
  Block& add(const Block& block);
  [[nodiscard]] Block& block(u32 index) { return blocks_[index]; }

  /// The block that is entered at this offset in the code cache, past all checks; null if none is.
  [[nodiscard]] const Block* entered_at(u32 offset) const;
  /// The block whose code is at this offset; null if none is.
  [[nodiscard]] const Block* around(u32 offset) const;
  [[nodiscard]] u32 index_of(const Block& block) const { return static_cast<u32>(&block - blocks_.data()); }

  /// The pages made of `frame`.
  [[nodiscard]] std::vector<u32> pages_of(memory::Frame frame) const;
  /// The page of `space` at `linear`, if code was made of it.
  [[nodiscard]] std::optional<u32> page_at(CodeSpace space, u64 linear, bool user) const;
  [[nodiscard]] std::vector<u32> pages_in(CodeSpace space) const;
  /// Forgets a page; its blocks, which nobody will find any more, are passed to `forgotten`.
  template <typename Function>
  void forget(u32 index, Function&& forgotten) {
    for (const u64 key : pages_[index].blocks) {
      const auto found = block_index_.find(key);
      if (found == block_index_.end()) continue;  // went with its other page
      blocks_[found->second].dead = true;
      forgotten(blocks_[found->second]);
      block_index_.erase(found);
    }
    unlist(index);
  }
  /// Nobody is in `space` any more, nor will be.
  void end_space(CodeSpace space) { spaces_.erase(space); }

  std::vector<CodeExit> exits;
  std::vector<Mark> marks;  // ascending
  X87Notes x87;

 private:
  [[nodiscard]] static u64 block_key(u32 token, u64 rip, const Mode& mode) {
    return u64{token} << 28 | (rip & kPageOffsetMask) << 16 | mode.key();
  }
  struct PageKey {
    u64 linear;
    const u8* host;
    bool user;
    CodeSpace space;
    bool operator==(const PageKey&) const = default;
  };
  struct PageHash {
    std::size_t operator()(const PageKey& key) const {
      return std::hash<u64>()(key.linear * 0x9E3779B97F4A7C15 ^ reinterpret_cast<u64>(key.host) ^
                              (key.user ? 1 : 0) ^ u64{key.space} << 32);
    }
  };
  [[nodiscard]] static u64 place(u64 linear, bool user) { return linear | (user ? 1 : 0); }
  void unlist(u32 index);

  std::vector<CodePage> pages_;
  std::unordered_map<PageKey, u32, PageHash> page_index_;
  std::unordered_map<memory::Frame, std::vector<u32>> frames_;
  std::unordered_map<CodeSpace, std::unordered_map<u64, u32>> spaces_;  // pages by place()
  std::unordered_map<u64, u32> block_index_;
  std::vector<Block> blocks_;  // inner entries ascending, checked entries descending
  u32 next_token_ = 1;
};

}  // namespace vert::bt

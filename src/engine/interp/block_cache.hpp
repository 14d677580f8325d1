// Decoded blocks: straight-line runs of instructions, kept as long as the bytes they came from.
//
// One cache for each vCPU, on its thread. A block belongs to host memory, not to a linear address, so address
// spaces share it. It remembers the version of its page (GuestMemory::code_version); once that differs, the
// bytes are compared, and decoded anew only if they changed: pages that mix code and data do not thrash.
#pragma once

#include <span>
#include <vector>

#include "engine/interp/core.hpp"
#include "memory/guest_memory.hpp"

namespace vert::interp {

/// The page of RAM that code lies in, and the version of it that was decoded.
struct CodeSource {
  const u8* page = nullptr;
  memory::Frame frame = 0;
  u32 version = 0;
};

struct Block {
  const u8* start = nullptr;
  x86::CodeSize size = x86::CodeSize::k16;
  bool crosses = false;  // its one instruction runs into a second page
  u16 count = 0;
  u32 length = 0;  // bytes of all its instructions
  u32 first_op = 0;
  CodeSource source;
  CodeSource second;
};

class BlockCache {
 public:
  explicit BlockCache(Core& core);

  /// The block at state.rip, decoded if need be. Null with core.fault set if it cannot be fetched.
  [[nodiscard]] const Block* find() {
    const u64 linear = code_address();
    const Jump& jump = jump_for(linear);
    if (jump.linear == linear && jump.key == jump_key() && jump.block->start == jump.start &&
        jump.block->size == core_.code_size() && !stale(*jump.block)) [[likely]]
      return jump.block;
    return find_slow(linear);
  }
  [[nodiscard]] std::span<const Op> ops(const Block& block) const {
    return std::span(pool_).subspan(block.first_op, block.count);
  }
  /// The bytes of the block may have been written since it was found.
  [[nodiscard]] bool stale(const Block& block) const {
    return memory_.code_version(block.source.frame) != block.source.version;
  }

 private:
  static constexpr std::size_t kSlots = std::size_t{1} << 15;
  static constexpr std::size_t kPoolOps = std::size_t{1} << 17;
  static constexpr unsigned kMaxOps = 32;

  [[nodiscard]] Block& slot_for(const u8* start) {
    const u64 key = static_cast<u64>(reinterpret_cast<std::uintptr_t>(start));
    return slots_[(key ^ (key >> 15)) % kSlots];
  }
  // What find() last gave for a linear address. It holds while translations, privilege and code size stay the
  // same; blocks that run into a second page are not kept here.
  struct Jump {
    u64 linear = 0;
    u64 key = 0;
    const u8* start = nullptr;
    const Block* block = nullptr;
  };
  static constexpr std::size_t kJumps = std::size_t{1} << 12;
  [[nodiscard]] u64 code_address() const {
    const cpu::CpuState& state = core_.state();
    return core_.code64() ? state.rip : truncate(state.seg(x86::kCs).base + state.rip, 4);
  }
  [[nodiscard]] Jump& jump_for(u64 linear) { return jumps_[(linear ^ (linear >> 12)) % kJumps]; }
  [[nodiscard]] u64 jump_key() const {
    const u64 user = core_.mmu.privilege() == cpu::Privilege::kUser ? 1 : 0;
    return core_.mmu.epoch() << 3 | user << 2 | static_cast<u64>(core_.code_size());
  }
  [[nodiscard]] [[gnu::noinline]] const Block* find_slow(u64 linear);
  [[nodiscard]] bool translate(u64 linear, const u8*& page);
  [[nodiscard]] CodeSource watch(const u8* page);
  [[nodiscard]] bool usable(Block& block, u64 linear);
  [[nodiscard]] bool bytes_unchanged(const Block& block) const;
  [[nodiscard]] bool decode(Block& block, const u8* start, u64 linear);
  [[nodiscard]] bool decode_crossing(Block& block, const u8* start, u64 linear);
  void append(Block& block, const x86::Insn& insn, x86::DecodeStatus status);
  [[nodiscard]] Op make_op(const x86::Insn& insn, x86::DecodeStatus status);

  Core& core_;
  memory::GuestMemory& memory_;
  std::vector<Block> slots_;
  std::vector<Jump> jumps_;
  std::vector<Op> pool_;
};

}  // namespace vert::interp

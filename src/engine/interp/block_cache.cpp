#include "engine/interp/block_cache.hpp"

#include <algorithm>
#include <bitset>
#include <cstring>

#include "engine/interp/handlers.hpp"
#include "engine/interp/vector_unit.hpp"
#include "x86/decode.hpp"

namespace vert::interp {

using namespace x86;

namespace {

Outcome raise_undefined(Core& core, const Op&) { return core.raise(Fault::ud()); }
Outcome raise_too_long(Core& core, const Op&) { return core.raise(Fault::gp()); }

Outcome execute_vector(Core& core, const Op& op) {
  cpu::CpuState& state = core.state();
  const u32 pkru = state.fpu.pkru;
  if (const auto raised = core.vector_unit.execute(*op.vector, op.insn, state, core.mmu, core.next_rip))
    return core.raise(*raised);
  if (state.fpu.pkru != pkru) [[unlikely]]
    core.mmu.flush();
  return Outcome::kNext;
}

/// Control transfers end a block: what follows them may not be code.
[[nodiscard]] bool ends_block(ZydisMnemonic mnemonic) {
  static const auto kEnders = [] {
    std::bitset<ZYDIS_MNEMONIC_MAX_VALUE + 1> set;
    for (const HandlerRow& row : control_handlers()) set.set(static_cast<std::size_t>(row.mnemonic));
    return set;
  }();
  return kEnders.test(static_cast<std::size_t>(mnemonic));
}

}  // namespace

BlockCache::BlockCache(Core& core)
    : core_(core), memory_(*core.context.memory), slots_(kSlots), jumps_(kJumps) {
  pool_.reserve(kPoolOps);
}

const Block* BlockCache::find_slow(u64 linear) {
  const u8* page = nullptr;
  if (!translate(linear, page)) return nullptr;
  const u8* start = page + (linear & kPageOffsetMask);
  Block& block = slot_for(start);
  const bool known = block.start == start && block.size == core_.code_size() && usable(block, linear);
  if (!known && !decode(block, start, linear)) return nullptr;
  if (!block.crosses) jump_for(linear) = {linear, jump_key(), start, &block};
  return &block;
}

bool BlockCache::translate(u64 linear, const u8*& page) {
  cpu::Mmu::CodePage code;
  if (!core_.mmu.translate_code(Gla(linear), code)) return core_.failed(core_.mmu.fault());
  if (code.host == nullptr) return core_.failed(Fault::gp());  // not RAM
  page = code.host;
  return true;
}

CodeSource BlockCache::watch(const u8* page) {
  const memory::Frame frame = memory_.frame_of(page);
  return {page, frame, memory_.watch_code(frame)};
}

bool BlockCache::usable(Block& block, u64 linear) {
  if (block.crosses) {
    const u8* second = nullptr;
    if (!translate((linear | kPageOffsetMask) + 1, second) || second != block.second.page) return false;
    return !stale(block) && memory_.code_version(block.second.frame) == block.second.version;
  }
  if (!stale(block)) [[likely]]
    return true;
  // The write that made it stale may have ended the watch.
  const u32 version = memory_.watch_code(block.source.frame);
  if (!bytes_unchanged(block)) return false;
  block.source.version = version;
  return true;
}

bool BlockCache::bytes_unchanged(const Block& block) const {
  const u8* at = block.start;
  for (const Op& op : ops(block)) {
    // An undecodable op has no length: compare nothing, decode again.
    if (op.insn.length == 0 || std::memcmp(at, op.insn.bytes.data(), op.insn.length) != 0) return false;
    at += op.insn.length;
  }
  return true;
}

bool BlockCache::decode(Block& block, const u8* start, u64 linear) {
  if (pool_.size() + kMaxOps > kPoolOps) {
    pool_.clear();
    std::ranges::fill(slots_, Block{});
    std::ranges::fill(jumps_, Jump{});
  }
  const u8* page = start - (linear & kPageOffsetMask);
  const u8* end = page + kPageSize;
  const Vendor vendor = core_.context.model->vendor();
  block = Block{};
  block.size = core_.code_size();
  block.first_op = static_cast<u32>(pool_.size());
  block.source = watch(page);
  for (const u8* at = start; at < end && block.count < kMaxOps;) {
    Insn insn;
    // SAFETY: [at, end) lies in one page of guest RAM; the guest may write it at this moment, which gives
    // some mixture of old and new bytes, as on hardware, and raises the version that we took before.
    const DecodeStatus status = decode_as(
        vendor, {at, std::min<std::size_t>(ZYDIS_MAX_INSTRUCTION_LENGTH, static_cast<std::size_t>(end - at))},
        block.size, insn);
    if (status == DecodeStatus::kTruncated) {
      if (block.count != 0) break;
      return decode_crossing(block, start, linear);
    }
    if (status == DecodeStatus::kOk) core_.context.model->legacy_form(insn);
    append(block, insn, status);
    if (status != DecodeStatus::kOk || ends_block(insn.mnemonic)) break;
    at += insn.length;
  }
  block.start = start;
  return true;
}

bool BlockCache::decode_crossing(Block& block, const u8* start, u64 linear) {
  const u8* second = nullptr;
  if (!translate((linear | kPageOffsetMask) + 1, second)) return false;
  block.second = watch(second);
  std::array<u8, ZYDIS_MAX_INSTRUCTION_LENGTH> bytes;
  const std::size_t first_bytes = std::min<std::size_t>(bytes.size(), kPageSize - (linear & kPageOffsetMask));
  std::memcpy(bytes.data(), start, first_bytes);
  std::memcpy(bytes.data() + first_bytes, second, bytes.size() - first_bytes);
  Insn insn;
  const DecodeStatus status = decode_as(core_.context.model->vendor(), bytes, block.size, insn);
  if (status == DecodeStatus::kOk) core_.context.model->legacy_form(insn);
  append(block, insn, status);
  block.crosses = true;
  block.start = start;
  return true;
}

void BlockCache::append(Block& block, const Insn& insn, DecodeStatus status) {
  pool_.push_back(make_op(insn, status));
  ++block.count;
  block.length += insn.length;
}

Op BlockCache::make_op(const Insn& insn, DecodeStatus status) {
  Op op;
  op.insn = insn;
  op.handler = raise_undefined;
  if (status == DecodeStatus::kTooLong) op.handler = raise_too_long;
  if (status != DecodeStatus::kOk || !core_.context.model->allows(insn, core_.code_size())) return op;
  if (VectorUnit::handles(insn)) {
    op.vector = core_.vector_unit.prepare(insn, core_.code_size());
    if (op.vector != nullptr) op.handler = execute_vector;
  } else if (const Handler handler = find_handler(insn)) {
    op.handler = handler;
  }
  return op;
}

}  // namespace vert::interp

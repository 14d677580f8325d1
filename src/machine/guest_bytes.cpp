#include "machine/guest_bytes.hpp"

#include <algorithm>

#include "cpu/mmu.hpp"

namespace vert::machine {

namespace {

/// Kernels of 64-bit guests lie in the upper half; where there is no 64-bit mode, the privilege tells.
CodeKind kind_at(const cpu::CpuState& state, u64 address) {
  if (state.long_mode()) return address >> 63 != 0 ? CodeKind::kKernel : CodeKind::kUser;
  return CodeKind::kUser32;
}

}  // namespace

Result<GuestBytes> read_linear(const cpu::VcpuContext& context, const cpu::CpuState& state, u64 address,
                               std::size_t size) {
  GuestBytes found{address, {}, kind_at(state, address)};
  while (found.bytes.size() < size) {
    const Gla at(address + found.bytes.size());
    if (at.value() < address || (at.value() >> 32 != 0 && !state.long_mode())) break;
    const std::size_t in_page = std::min<u64>(size - found.bytes.size(), kPageSize - at.page_offset());
    const auto page = cpu::debug_walk(state, *context.memory, context.model->paging_limits(), at);
    std::vector<u8> part(in_page);
    if (!page || !context.memory->read(*page + at.page_offset(), part)) break;
    found.bytes.insert(found.bytes.end(), part.begin(), part.end());
  }
  if (found.bytes.empty() && size != 0)
    return make_error("vCPU {} has nothing mapped at {:#x}", context.index, address);
  return found;
}

}  // namespace vert::machine

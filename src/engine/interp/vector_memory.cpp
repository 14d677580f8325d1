#include "engine/interp/vector_memory.hpp"

#include <algorithm>
#include <bit>

#include "engine/interp/effective_address.hpp"
#include "x86/paging.hpp"

namespace vert::interp {

namespace {

using cpu::AccessKind;
using cpu::MaybeFault;

u64 low_bits(unsigned count) { return count >= 64 ? ~u64{0} : (u64{1} << count) - 1; }

/// Calls `each(first, count)` for every run of set bits until it returns a fault.
template <typename Each>
MaybeFault for_each_run(u64 bits, Each&& each) {
  while (bits != 0) {
    const auto first = static_cast<unsigned>(std::countr_zero(bits));
    const auto count = static_cast<unsigned>(std::countr_one(bits >> first));
    if (MaybeFault fault = each(first, count)) return fault;
    bits &= ~(low_bits(count) << first);
  }
  return {};
}

u64 sign_mask(std::span<const u8> elements, unsigned size) {
  u64 bits = 0;
  for (unsigned i = 0; i < elements.size() / size; ++i) bits |= u64{elements[i * size + size - 1]} >> 7 << i;
  return bits;
}

u64 active_elements(const VectorMemory& memory, const cpu::FpuState& fpu) {
  if (memory.shape == MaskShape::kSigns)
    return sign_mask(std::span(fpu.zmm[memory.mask_register]).first(memory.size), memory.element_size);
  const u64 mask = fpu.k[memory.mask_register] & low_bits(memory.mask_bits);
  if (memory.shape == MaskShape::kPacked) return low_bits(static_cast<unsigned>(std::popcount(mask)));
  u64 active = 0;
  for (unsigned shift = 0; shift < memory.mask_bits; shift += memory.elements) active |= mask >> shift;
  return active & low_bits(memory.elements);
}

template <typename T>
MaybeFault read_value(cpu::Mmu& mmu, Gla address, std::span<u8> to) {
  T value;
  if (!mmu.read(address, value)) return mmu.fault();
  std::memcpy(to.data(), &value, sizeof value);
  return {};
}

template <typename T>
MaybeFault write_value(cpu::Mmu& mmu, Gla address, std::span<const u8> from) {
  T value;
  std::memcpy(&value, from.data(), sizeof value);
  if (!mmu.write(address, value)) return mmu.fault();
  return {};
}

bool in_one_page(Gla address, std::size_t size) { return address.page_offset() + size <= kPageSize; }

/// Offset of element `i` of a gather or scatter.
u64 element_offset(const VectorOp& op, const cpu::FpuState& fpu, u64 base, unsigned address_size,
                   unsigned i) {
  const VectorGather& gather = op.gather;
  u64 index = 0;
  std::memcpy(&index, &fpu.zmm[gather.index][i * gather.index_size], gather.index_size);
  if (gather.index_size == 4) index = static_cast<u64>(i64{static_cast<i32>(index)});
  return truncate(base + index * gather.scale, address_size);
}

/// The vector length of a gather: with wide indices, half the elements of data and mask are of no use.
std::size_t vector_bytes(const VectorGather& gather) {
  return std::size_t{gather.count} * std::max(gather.data_size, gather.index_size);
}

/// The mask of a gather as bits; without EVEX each mask element becomes all ones or all zeroes first.
u64 gather_mask(const VectorGather& gather, cpu::FpuState& fpu) {
  if (gather.evex) return fpu.k[gather.mask] & low_bits(gather.count);
  const auto elements = std::span(fpu.zmm[gather.mask]).first(vector_bytes(gather));
  const u64 bits = sign_mask(elements, gather.data_size);
  if (gather.keeps_rest) return bits & low_bits(gather.count);
  for (std::size_t i = 0; i < elements.size() / gather.data_size; ++i)
    std::memset(&elements[i * gather.data_size], (bits >> i & 1) != 0 ? 0xFF : 0, gather.data_size);
  return bits & low_bits(gather.count);
}

void clear_gather_mask(const VectorGather& gather, unsigned i, cpu::FpuState& fpu) {
  if (gather.evex)
    fpu.k[gather.mask] &= ~(u64{1} << i);
  else
    std::memset(&fpu.zmm[gather.mask][i * gather.data_size], 0, gather.data_size);
}

}  // namespace

MaybeFault GuestAccess::linear(u8 segment, u64 offset, u64 size, AccessKind kind, Gla& address) const {
  if (!state_.code64())
    return cpu::segment_address(state_, static_cast<x86::SegmentRegister>(segment), offset, size, kind,
                                address);
  const u64 base = segment >= x86::kFs ? state_.segment[segment].base : 0;
  address = Gla(base + offset);
  const unsigned width = state_.linear_bits();
  if (x86::is_canonical(address.value(), width) && x86::is_canonical(address.value() + size - 1, width))
      [[likely]]
    return {};
  return segment == x86::kSs ? x86::Fault::ss() : x86::Fault::gp();
}

MaybeFault GuestAccess::aligned(const VectorMemory& memory, u64 offset, u64 size, AccessKind kind,
                                Gla& address) const {
  const MaybeFault fault = linear(memory.segment, offset, size, kind, address);
  // In 64-bit mode processors check the alignment before the canonical form of the last byte, and what is
  // required before that of the first: #GP where that would give #SS.
  if (fault && !state_.code64()) return fault;
  const bool begins = !fault || x86::is_canonical(address.value(), state_.linear_bits());
  const bool misplaced = (address.value() & (required_alignment(memory) - 1U)) != 0;
  if (misplaced && memory.checked_alignment == 16) return x86::Fault::gp();  // as a Zen 4 has it
  if (begins && !meets_checked_alignment(memory, address)) return x86::Fault::ac();
  return misplaced ? x86::Fault::gp() : fault;
}

MaybeFault GuestAccess::aligned_masked(const VectorMemory& memory, u64 offset, u64 active,
                                       AccessKind kind) const {
  if (active == 0) return {};
  const auto first = static_cast<unsigned>(std::countr_zero(active));
  const auto end = static_cast<unsigned>(std::bit_width(active));
  const u64 skipped = u64{first} * memory.element_size;
  Gla address;
  const MaybeFault fault =
      linear(memory.segment, offset + skipped, u64{end - first} * memory.element_size, kind, address);
  if (fault && !state_.code64()) return fault;
  address = Gla(address.value() - skipped);
  if (!fault && !meets_checked_alignment(memory, address)) return x86::Fault::ac();
  if ((address.value() & (memory.alignment - 1U)) != 0) return x86::Fault::gp();
  return fault;
}

unsigned GuestAccess::required_alignment(const VectorMemory& memory) const {
  constexpr u32 kMisalignedMask = 1U << 17;  // MXCSR.MM
  return memory.maskable && (state_.fpu.mxcsr & kMisalignedMask) != 0 ? 1 : memory.alignment;
}

bool GuestAccess::meets_checked_alignment(const VectorMemory& memory, Gla address) const {
  return (address.value() & (memory.checked_alignment - 1U)) == 0 || !cpu::checks_alignment(state_);
}

MaybeFault GuestAccess::read_at(Gla address, std::span<u8> to) const {
  switch (to.size()) {
    case 1: return read_value<u8>(mmu_, address, to);
    case 2: return read_value<u16>(mmu_, address, to);
    case 4: return read_value<u32>(mmu_, address, to);
    case 8: return read_value<u64>(mmu_, address, to);
    case 16: return read_value<u128>(mmu_, address, to);
    case 32:
    case 64:
      for (std::size_t i = 0; i < to.size(); i += 16)
        if (MaybeFault fault = read_value<u128>(mmu_, address + i, to.subspan(i))) return fault;
      return {};
    default: break;
  }
  if (!mmu_.read_bytes(address, to)) return mmu_.fault();
  return {};
}

MaybeFault GuestAccess::write_at(Gla address, std::span<const u8> from) const {
  switch (from.size()) {
    case 1: return write_value<u8>(mmu_, address, from);
    case 2: return write_value<u16>(mmu_, address, from);
    case 4: return write_value<u32>(mmu_, address, from);
    case 8: return write_value<u64>(mmu_, address, from);
    case 16: return write_value<u128>(mmu_, address, from);
    case 32:
    case 64:
      if (!in_one_page(address, from.size())) break;
      for (std::size_t i = 0; i < from.size(); i += 16)
        if (MaybeFault fault = write_value<u128>(mmu_, address + i, from.subspan(i))) return fault;
      return {};
    default: break;
  }
  if (!mmu_.write_bytes(address, from)) return mmu_.fault();
  return {};
}

MaybeFault GuestAccess::read(u8 segment, u64 offset, std::span<u8> to) const {
  Gla address;
  if (MaybeFault fault = linear(segment, offset, to.size(), AccessKind::kRead, address)) return fault;
  return read_at(address, to);
}

MaybeFault GuestAccess::write(u8 segment, u64 offset, std::span<const u8> from) const {
  Gla address;
  if (MaybeFault fault = linear(segment, offset, from.size(), AccessKind::kWrite, address)) return fault;
  return write_at(address, from);
}

MaybeFault GuestAccess::probe_write(u8 segment, u64 offset, u64 size) const {
  Gla address;
  if (MaybeFault fault = linear(segment, offset, size, AccessKind::kWrite, address)) return fault;
  if (!mmu_.probe(AccessKind::kWrite, mmu_.privilege(), address, size)) return mmu_.fault();
  return {};
}

MaybeFault read_operand(const VectorOp& op, u64 offset, const cpu::CpuState& state, cpu::Mmu& mmu,
                        std::span<u8> to) {
  const VectorMemory& memory = op.memory;
  const GuestAccess access(state, mmu);
  if (memory.shape == MaskShape::kWhole) {
    Gla address;
    if (MaybeFault fault = access.aligned(memory, offset, memory.size, AccessKind::kRead, address))
      return fault;
    return access.read_at(address, to.first(memory.size));
  }
  const u64 active = active_elements(memory, state.fpu);
  if (MaybeFault fault = access.aligned_masked(memory, offset, active, AccessKind::kRead)) return fault;
  return for_each_run(active, [&](unsigned first, unsigned count) {
    const std::size_t at = std::size_t{first} * memory.element_size;
    return access.read(memory.segment, offset + at, to.subspan(at, std::size_t{count} * memory.element_size));
  });
}

MaybeFault probe_operand(const VectorOp& op, u64 offset, const cpu::CpuState& state, cpu::Mmu& mmu) {
  const GuestAccess access(state, mmu);
  Gla address;
  if (MaybeFault fault = access.aligned(op.memory, offset, op.memory.size, AccessKind::kWrite, address))
    return fault;
  return access.probe_write(op.memory.segment, offset, op.memory.size);
}

MaybeFault write_operand(const VectorOp& op, u64 offset, const cpu::CpuState& state, cpu::Mmu& mmu,
                         std::span<const u8> from) {
  const VectorMemory& memory = op.memory;
  const GuestAccess access(state, mmu);
  if (memory.shape == MaskShape::kWhole) {
    Gla address;
    if (MaybeFault fault = access.aligned(memory, offset, memory.size, AccessKind::kWrite, address))
      return fault;
    if (memory.size == 10) {  // in two parts, of which the second may fault alone
      if (MaybeFault fault = access.write_at(address, from.first(8))) return fault;
      return access.write_at(address + 8, from.subspan(8, 2));
    }
    return access.write_at(address, from.first(memory.size));
  }
  const u64 active = active_elements(memory, state.fpu);
  if (MaybeFault fault = access.aligned_masked(memory, offset, active, AccessKind::kWrite)) return fault;
  if (memory.whole_must_be_accessible) {
    if (MaybeFault fault = access.probe_write(memory.segment, offset, memory.size)) return fault;
  }
  const auto each = [&](auto&& use) {
    return for_each_run(active, [&](unsigned first, unsigned count) {
      const std::size_t at = std::size_t{first} * memory.element_size;
      return use(at, std::size_t{count} * memory.element_size);
    });
  };
  // All that is written must be writable before the first byte changes.
  if ((active & (active + 1)) != 0 || memory.shape != MaskShape::kPacked) {
    if (MaybeFault fault = each([&](std::size_t at, std::size_t size) {
          return access.probe_write(memory.segment, offset + at, size);
        }))
      return fault;
  }
  return each([&](std::size_t at, std::size_t size) {
    return access.write(memory.segment, offset + at, from.subspan(at, size));
  });
}

MaybeFault gather(const VectorOp& op, u64 base, unsigned address_size, cpu::CpuState& state, cpu::Mmu& mmu) {
  const VectorGather& gather = op.gather;
  cpu::FpuState& fpu = state.fpu;
  const GuestAccess access(state, mmu);
  const u64 mask = gather_mask(gather, fpu);
  // What lies above the vector length is cleared even if an element faults: in the mask at once, in the
  // destination with the first element that is loaded. AMD's processors do neither, but for EVEX.
  const auto clear_above = [](auto& reg, std::size_t from) {
    std::fill(reg.begin() + from, reg.end(), u8{0});
  };
  auto& data = fpu.zmm[gather.data];
  if (!gather.evex && !gather.keeps_rest) clear_above(fpu.zmm[gather.mask], vector_bytes(gather));
  for (unsigned i = 0; i < gather.count; ++i) {
    if ((mask >> i & 1) != 0) {
      const u64 offset = element_offset(op, fpu, base, address_size, i);
      std::array<u8, 8> value{};
      if (MaybeFault fault = access.read(op.memory.segment, offset, std::span(value).first(gather.data_size)))
        return fault;
      std::memcpy(&data[i * gather.data_size], value.data(), gather.data_size);
      if (!gather.keeps_rest) clear_above(data, vector_bytes(gather));
    }
    clear_gather_mask(gather, i, fpu);
  }
  clear_above(data, std::size_t{gather.count} * gather.data_size);
  if (gather.evex)
    fpu.k[gather.mask] = 0;
  else
    fpu.zmm[gather.mask].fill(0);
  return {};
}

MaybeFault scatter(const VectorOp& op, u64 base, unsigned address_size, cpu::CpuState& state, cpu::Mmu& mmu) {
  const VectorGather& gather = op.gather;
  cpu::FpuState& fpu = state.fpu;
  const GuestAccess access(state, mmu);
  const u64 mask = gather_mask(gather, fpu);
  for (unsigned i = 0; i < gather.count; ++i) {
    if ((mask >> i & 1) == 0) continue;
    const u64 offset = element_offset(op, fpu, base, address_size, i);
    const auto value =
        std::span<const u8>(fpu.zmm[gather.data]).subspan(i * gather.data_size, gather.data_size);
    if (MaybeFault fault = access.write(op.memory.segment, offset, value)) return fault;
    clear_gather_mask(gather, i, fpu);
  }
  fpu.k[gather.mask] = 0;
  return {};
}

MaybeFault write_masked_bytes(const VectorMemory& memory, u64 offset, std::span<const u8> source,
                              std::span<const u8> mask, const cpu::CpuState& state, cpu::Mmu& mmu) {
  const GuestAccess access(state, mmu);
  // Processors look at each half whatever the mask is, and at the upper one first.
  constexpr u64 kHalf = 8;
  for (u64 at = mask.size(); at != 0; at -= kHalf) {
    Gla address;
    if (MaybeFault fault = access.aligned(memory, offset + at - kHalf, kHalf, AccessKind::kWrite, address))
      return fault;
  }
  const u64 active = sign_mask(mask, 1);
  if (MaybeFault fault = for_each_run(active, [&](unsigned first, unsigned count) {
        return access.probe_write(memory.segment, offset + first, count);
      }))
    return fault;
  return for_each_run(active, [&](unsigned first, unsigned count) {
    return access.write(memory.segment, offset + first, source.subspan(first, count));
  });
}

}  // namespace vert::interp

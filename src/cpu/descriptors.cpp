// Descriptors: reading them from the tables, the checks that several kinds of transfer share, and the segment
// registers made from them. On the vCPU's thread.
#include "cpu/protection_internal.hpp"

namespace vert::cpu::internal {

using x86::Descriptor;
using x86::Fault;
using x86::Segment;
using x86::SegmentRegister;
using x86::Vector;

namespace {

constexpr u16 kPresentCodeOrData = Segment::kP | Segment::kS;
constexpr u16 kDataReadWriteAccessed = kPresentCodeOrData | Segment::kWritable | Segment::kAccessed;
constexpr u64 kTypeByteOffset = 5;
constexpr u64 kHighTypeBits = 0x1F00;  // bits 8..12 of the fourth doubleword
constexpr u64 kBusyTypeBit = 2;

}  // namespace

Privilege system_privilege(const CpuState& state) {
  return (state.cr4 & x86::cr4::SMAP) != 0 ? Privilege::kSmap : Privilege::kSupervisor;
}

Gla system_address(const CpuState& state, u64 base, u64 offset) {
  const u64 address = base + offset;
  return Gla(state.long_mode() ? address : truncate(address, 4));
}

bool locate_descriptor(const CpuState& state, u16 selector, Gla& address) {
  const u64 offset = selector & 0xFFF8U;
  const bool local = in_ldt(selector);
  if (local && state.ldtr.unusable) return false;
  const u64 limit = local ? state.ldtr.limit : state.gdtr.limit;
  if (offset + sizeof(u64) - 1 > limit) return false;
  address = system_address(state, local ? state.ldtr.base : state.gdtr.base, offset);
  return true;
}

MaybeFault read_entry(const Cpu& cpu, u16 selector, Vector vector, Entry& entry) {
  entry.selector = selector;
  if (!locate_descriptor(cpu.state, selector, entry.address)) return selector_fault(cpu, vector, selector);
  return read_system(cpu, entry.address, entry.descriptor.raw);
}

MaybeFault read_high(const Cpu& cpu, Entry& entry) {
  const u64 limit = in_ldt(entry.selector) ? cpu.state.ldtr.limit : cpu.state.gdtr.limit;
  if ((entry.selector & 0xFFF8U) + 2 * sizeof(u64) - 1 > limit)
    return selector_fault(cpu, x86::kGP, entry.selector);
  u64 high = 0;
  if (auto fault = read_system(cpu, entry.address + sizeof(u64), high)) return fault;
  if (((high >> 32) & kHighTypeBits) != 0) return selector_fault(cpu, x86::kGP, entry.selector);
  entry.high = truncate(high, 4);
  return std::nullopt;
}

MaybeFault to_segment(const Cpu& cpu, const Entry& entry, u16 selector, Segment& segment) {
  segment = entry.descriptor.to_segment(selector);
  if ((segment.attributes & Segment::kAccessed) != 0) return std::nullopt;
  segment.attributes |= Segment::kAccessed;
  return write_system(cpu, entry.address + kTypeByteOffset, static_cast<u8>(segment.attributes));
}

MaybeFault set_busy(const Cpu& cpu, const Entry& entry, bool busy) {
  const Gla address = entry.address + kTypeByteOffset;
  u8 type = 0;
  if (auto fault = read_system(cpu, address, type)) return fault;
  return write_system(cpu, address,
                      static_cast<u8>(busy ? type | kBusyTypeBit : type & ~unsigned{kBusyTypeBit}));
}

MaybeFault read_stack_entry(const Cpu& cpu, u16 selector, u8 cpl, Vector vector, Entry& entry) {
  if (auto fault = read_entry(cpu, selector, vector, entry)) return fault;
  if (rpl_of(selector) != cpl || !entry.writable_data() || entry.descriptor.dpl() != cpl)
    return selector_fault(cpu, vector, selector);
  if (!entry.descriptor.present()) return selector_fault(cpu, x86::kSS, selector);
  return std::nullopt;
}

MaybeFault read_data_entry(const Cpu& cpu, u16 selector, u8 cpl, Vector vector, Entry& entry) {
  if (auto fault = read_entry(cpu, selector, vector, entry)) return fault;
  const Descriptor& descriptor = entry.descriptor;
  const bool readable = !descriptor.is_code() || (descriptor.attributes() & Segment::kReadable) != 0;
  const bool open = (descriptor.is_code() && entry.conforming()) ||
                    (cpl <= descriptor.dpl() && rpl_of(selector) <= descriptor.dpl());
  if (descriptor.is_system() || !readable || !open) return selector_fault(cpu, vector, selector);
  if (!descriptor.present()) return selector_fault(cpu, x86::kNP, selector);
  return std::nullopt;
}

MaybeFault read_return_code(const Cpu& cpu, u16 selector, u8 least_rpl, Vector vector, Entry& entry) {
  if (is_null(selector)) return selector_fault(cpu, vector, selector);
  if (auto fault = read_entry(cpu, selector, vector, entry)) return fault;
  const Descriptor& descriptor = entry.descriptor;
  const u8 rpl = rpl_of(selector);
  const bool level = entry.conforming() ? descriptor.dpl() <= rpl : descriptor.dpl() == rpl;
  const bool both_sizes = cpu.state.long_mode() && entry.long_code() && entry.big();
  if (!descriptor.is_code() || rpl < least_rpl || !level || both_sizes)
    return selector_fault(cpu, vector, selector);
  if (!descriptor.present()) return selector_fault(cpu, x86::kNP, selector);
  return std::nullopt;
}

MaybeFault check_target(const Cpu& cpu, const Segment& code, u64 rip) {
  const bool long_target = cpu.state.long_mode() && code.is_long();
  if (long_target ? x86::is_canonical(rip, cpu.state.linear_bits()) : rip <= code.limit) return std::nullopt;
  return Fault::gp(cpu.ext);
}

Segment null_segment(u16 selector) {
  Segment segment;
  segment.selector = selector;
  segment.unusable = true;
  return segment;
}

Segment null_stack_segment(u8 cpl) {
  Segment segment = null_segment(cpl);
  segment.attributes = static_cast<u16>(cpl << Segment::kDplShift);
  return segment;
}

Segment v86_segment(u16 selector) {
  return {selector, kDataReadWriteAccessed | (3U << Segment::kDplShift), 0xFFFF, u64{selector} << 4, false};
}

Segment real_segment(const CpuState& state, SegmentRegister reg, u16 selector) {
  if (state.v86()) return v86_segment(selector);
  Segment segment = state.seg(reg);
  if (segment.unusable) segment = {selector, kDataReadWriteAccessed, 0xFFFF, 0, false};
  segment.selector = selector;
  segment.base = u64{selector} << 4;
  return segment;
}

void commit_code(const Cpu& cpu, const Segment& code, u64 rip, u8 cpl) {
  cpu.state.seg(x86::kCs) = code;
  cpu.state.rip = rip;
  cpu.state.cpl = cpl;
  cpu.mmu.update_privilege();
}

}  // namespace vert::cpu::internal

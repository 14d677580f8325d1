// Segment registers, LDTR and TR, the instructions that ask about descriptors, and the addresses of accesses
// through segments (SDM 3A, chapters 3 and 5; SDM 2A: MOV, LLDT, LTR, LAR, LSL, VERR). On the vCPU's thread.
#include "cpu/protection_internal.hpp"

namespace vert::cpu {

using internal::Cpu;
using internal::Entry;
using x86::Fault;
using x86::Segment;
using x86::SegmentRegister;

namespace internal {

bool in_limit(const Segment& segment, u64 offset, u64 size) {
  const u64 last = offset + size - 1;
  if (last < offset) return false;
  const bool expand_down = segment.is_data() && (segment.attributes & Segment::kExpandDown) != 0;
  if (!expand_down) return last <= segment.limit;
  return offset > segment.limit && last <= (segment.is_big() ? 0xFFFF'FFFFU : 0xFFFFU);
}

}  // namespace internal

namespace {

MaybeFault load_stack_segment(const Cpu& cpu, u16 selector) {
  CpuState& state = cpu.state;
  if (internal::is_null(selector)) {
    // 64-bit mode takes a null SS inside levels 0 to 2 (SDM 2B, MOV).
    if (!state.code64() || state.cpl == 3 || internal::rpl_of(selector) != state.cpl) return Fault::gp();
    state.seg(x86::kSs) = internal::null_stack_segment(state.cpl);
    return std::nullopt;
  }
  Entry entry;
  if (auto fault = internal::read_stack_entry(cpu, selector, state.cpl, x86::kGP, entry)) return fault;
  Segment loaded;
  if (auto fault = internal::to_segment(cpu, entry, selector, loaded)) return fault;
  state.seg(x86::kSs) = loaded;
  return std::nullopt;
}

MaybeFault load_data_segment(const Cpu& cpu, SegmentRegister reg, u16 selector) {
  CpuState& state = cpu.state;
  if (internal::is_null(selector)) {
    state.seg(reg) = internal::null_segment(selector);  // Intel's processors clear FS's and GS's base here
    return std::nullopt;
  }
  Entry entry;
  if (auto fault = internal::read_data_entry(cpu, selector, state.cpl, x86::kGP, entry)) return fault;
  Segment loaded;
  if (auto fault = internal::to_segment(cpu, entry, selector, loaded)) return fault;
  state.seg(reg) = loaded;
  return std::nullopt;
}

/// What LLDT and LTR have in common: a system descriptor from the GDT, 16 bytes of it in 64-bit mode.
MaybeFault read_table_entry(const Cpu& cpu, u16 selector, bool wanted(const CpuState&, u8), Entry& entry) {
  if (internal::in_ldt(selector)) return internal::selector_fault(cpu, x86::kGP, selector);
  if (auto fault = internal::read_entry(cpu, selector, x86::kGP, entry)) return fault;
  if (!entry.descriptor.is_system() || !wanted(cpu.state, entry.descriptor.type()))
    return internal::selector_fault(cpu, x86::kGP, selector);
  if (!entry.descriptor.present()) return internal::selector_fault(cpu, x86::kNP, selector);
  if (!cpu.state.code64()) return std::nullopt;
  if (auto fault = internal::read_high(cpu, entry)) return fault;
  if (!x86::is_canonical(entry.wide_base(), cpu.mmu.model().linear_bits()))
    return internal::selector_fault(cpu, x86::kGP, selector);
  return std::nullopt;
}

Segment table_segment(const Entry& entry) {
  Segment segment = entry.descriptor.to_segment(entry.selector);
  segment.base = entry.wide_base();
  return segment;
}

bool is_ldt(const CpuState& /*state*/, u8 type) { return type == x86::kLdt; }
bool is_available_tss(const CpuState& state, u8 type) {
  return type == x86::kTssAvailable || (type == x86::kTss16Available && !state.long_mode());
}

/// The system types that LAR and LSL know (SDM 2A, tables of LAR and LSL).
bool query_allows_system(const CpuState& state, DescriptorQuery query, u8 type) {
  if (query != DescriptorQuery::kAccessRights && query != DescriptorQuery::kLimit) return false;
  switch (type) {
    case x86::kLdt:
    case x86::kTssAvailable:
    case x86::kTssBusy: return true;
    case x86::kTss16Available:
    case x86::kTss16Busy: return !state.long_mode();
    case x86::kCallGate: return query == DescriptorQuery::kAccessRights;
    case x86::kCallGate16:
    case x86::kTaskGate: return query == DescriptorQuery::kAccessRights && !state.long_mode();
    default: return false;
  }
}

bool query_allows(const CpuState& state, DescriptorQuery query, const Entry& entry) {
  const x86::Descriptor& descriptor = entry.descriptor;
  if (descriptor.is_system() && !query_allows_system(state, query, descriptor.type())) return false;
  if (query == DescriptorQuery::kWritable && !entry.writable_data()) return false;
  if (descriptor.is_code()) {
    if (query == DescriptorQuery::kReadable && (descriptor.attributes() & Segment::kReadable) == 0)
      return false;
    if (entry.conforming()) return true;
  }
  return state.cpl <= descriptor.dpl() && internal::rpl_of(entry.selector) <= descriptor.dpl();
}

/// Type check of an access in protected mode (SDM 3A, 5.5).
bool type_allows(const Segment& segment, AccessKind kind) {
  switch (kind) {
    case AccessKind::kExecute: return true;  // checked when CS was loaded
    case AccessKind::kWrite: return segment.is_data() && (segment.attributes & Segment::kWritable) != 0;
    case AccessKind::kRead: return !segment.is_code() || (segment.attributes & Segment::kReadable) != 0;
  }
  return false;
}

}  // namespace

MaybeFault load_segment(CpuState& state, Mmu& mmu, SegmentRegister reg, u16 selector) {
  if (state.real_addressing()) {
    state.seg(reg) = internal::real_segment(state, reg, selector);
    return std::nullopt;
  }
  const Cpu cpu{state, mmu};
  return reg == x86::kSs ? load_stack_segment(cpu, selector) : load_data_segment(cpu, reg, selector);
}

MaybeFault load_ldt(CpuState& state, Mmu& mmu, u16 selector) {
  if (state.real_addressing()) return Fault::ud();
  if (state.cpl != 0) return Fault::gp();
  if (internal::is_null(selector)) {
    state.ldtr = internal::null_segment(selector);
    return std::nullopt;
  }
  Entry entry;
  if (auto fault = read_table_entry({state, mmu}, selector, is_ldt, entry)) return fault;
  state.ldtr = table_segment(entry);
  return std::nullopt;
}

MaybeFault load_task_register(CpuState& state, Mmu& mmu, u16 selector) {
  if (state.real_addressing()) return Fault::ud();
  if (state.cpl != 0 || internal::is_null(selector)) return Fault::gp();
  const Cpu cpu{state, mmu};
  Entry entry;
  if (auto fault = read_table_entry(cpu, selector, is_available_tss, entry)) return fault;
  if (auto fault = internal::set_busy(cpu, entry, true)) return fault;
  state.tr = table_segment(entry);
  state.tr.attributes |= x86::kTss16Busy ^ x86::kTss16Available;
  return std::nullopt;
}

MaybeFault query_descriptor(CpuState& state, Mmu& mmu, DescriptorQuery query, u16 selector,
                            std::optional<u32>& value) {
  value.reset();
  Entry entry;
  if (internal::is_null(selector) || !internal::locate_descriptor(state, selector, entry.address))
    return std::nullopt;
  const Cpu cpu{state, mmu};
  if (auto fault = internal::read_entry(cpu, selector, x86::kGP, entry)) return fault;
  if (!query_allows(state, query, entry)) return std::nullopt;
  switch (query) {
    case DescriptorQuery::kAccessRights:
      value = static_cast<u32>(entry.descriptor.raw >> 32) & 0x00F0'FF00;
      break;
    case DescriptorQuery::kLimit: value = entry.descriptor.limit(); break;
    case DescriptorQuery::kReadable:
    case DescriptorQuery::kWritable: value = 1; break;
  }
  return std::nullopt;
}

unsigned stack_width(const CpuState& state) {
  return internal::stack_width(state, state.seg(x86::kCs), state.seg(x86::kSs));
}

bool checks_alignment(const CpuState& state) {
  return state.cpl == 3 && (state.cr0 & x86::cr0::AM) != 0 && (state.rflags & x86::rflags::AC) != 0;
}

MaybeFault segment_address(const CpuState& state, SegmentRegister reg, u64 offset, u64 size, AccessKind kind,
                           Gla& linear) {
  const Segment& segment = state.seg(reg);
  const u64 last = size == 0 ? 0 : size - 1;
  bool allowed = false;
  if (state.code64()) {
    const bool based = reg == x86::kFs || reg == x86::kGs;
    linear = Gla(based ? segment.base + offset : offset);
    const unsigned bits = state.linear_bits();
    allowed = x86::is_canonical(linear.value(), bits) && x86::is_canonical(linear.value() + last, bits);
  } else {
    linear = Gla(internal::truncate(segment.base + offset, 4));
    allowed = internal::in_limit(segment, offset, last + 1) &&
              (state.real_addressing() || (!segment.unusable && type_allows(segment, kind)));
  }
  if (allowed) return std::nullopt;
  return reg == x86::kSs ? Fault::ss() : Fault::gp();
}

}  // namespace vert::cpu

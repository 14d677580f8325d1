// Stacks as far transfers and deliveries use them: the one in force, and those of inner levels that the TSS
// names. On the vCPU's thread.
#include "cpu/protection_internal.hpp"

namespace vert::cpu::internal {

using x86::Fault;
using x86::Segment;

namespace {

/// Pushes and pops are explicit accesses: SMAP goes by EFLAGS.AC (SDM 3A, 4.6.1).
Privilege stack_privilege(const CpuState& state, u8 cpl) {
  if (cpl == 3) return Privilege::kUser;
  const bool smap = (state.cr4 & x86::cr4::SMAP) != 0 && (state.rflags & x86::rflags::AC) == 0;
  return smap ? Privilege::kSmap : Privilege::kSupervisor;
}

// Where the TSS keeps the stacks of levels 0 to 2 (SDM 3A, figures 7-2, 7-10 and 7-11).
constexpr u64 kTss64Rsp0 = 4;
constexpr u64 kTss32Esp0 = 4;
constexpr u64 kTss16Sp0 = 2;

MaybeFault read_tss_pointers(const Cpu& cpu, u8 cpl, u64& pointer, u16& ss) {
  const bool wide = cpu.state.tr.type() == x86::kTssBusy;
  const u64 offset = wide ? kTss32Esp0 + u64{cpl} * 8 : kTss16Sp0 + u64{cpl} * 4;
  const u64 last = offset + (wide ? 5 : 3);
  if (cpu.state.tr.unusable || last > cpu.state.tr.limit)
    return selector_fault(cpu, x86::kTS, cpu.state.tr.selector);
  const Gla address = system_address(cpu.state, cpu.state.tr.base, offset);
  if (wide) {
    u32 esp = 0;
    if (auto fault = read_system(cpu, address, esp)) return fault;
    pointer = esp;
    return read_system(cpu, address + 4, ss);
  }
  u16 sp = 0;
  if (auto fault = read_system(cpu, address, sp)) return fault;
  pointer = sp;
  return read_system(cpu, address + 2, ss);
}

}  // namespace

MaybeFault read_tss_rsp(const Cpu& cpu, u64 offset, u64& pointer) {
  if (cpu.state.tr.unusable || offset + 7 > cpu.state.tr.limit)
    return selector_fault(cpu, x86::kTS, cpu.state.tr.selector);
  if (auto fault = read_system(cpu, system_address(cpu.state, cpu.state.tr.base, offset), pointer))
    return fault;
  if (!x86::is_canonical(pointer, cpu.state.linear_bits())) return Fault::ss(cpu.ext);
  return std::nullopt;
}

MaybeFault inner_stack(const Cpu& cpu, u8 cpl, Segment& ss, u64& pointer) {
  if (cpu.state.long_mode()) {
    ss = null_stack_segment(cpl);
    return read_tss_rsp(cpu, kTss64Rsp0 + u64{cpl} * 8, pointer);
  }
  u16 selector = 0;
  if (auto fault = read_tss_pointers(cpu, cpl, pointer, selector)) return fault;
  if (is_null(selector)) return Fault::ts(cpu.ext);
  Entry entry;
  if (auto fault = read_stack_entry(cpu, selector, cpl, x86::kTS, entry)) return fault;
  return to_segment(cpu, entry, selector, ss);
}

unsigned stack_width(const CpuState& state, const Segment& code, const Segment& ss) {
  if (state.long_mode() && code.is_long()) return 8;
  return ss.is_big() ? 4 : 2;
}

void set_stack_pointer(CpuState& state, u64 pointer, unsigned width) {
  u64& rsp = state.gpr[x86::kRsp];
  rsp = width == 2 ? (rsp & ~u64{0xFFFF}) | truncate(pointer, 2) : truncate(pointer, width);
}

Stack::Stack(const Cpu& cpu)
    : Stack(cpu, cpu.state.seg(x86::kSs), cpu.state.gpr[x86::kRsp], cpu::stack_width(cpu.state),
            cpu.state.cpl, cpu.ext) {}

Stack::Stack(const Cpu& cpu, const Segment& ss, u64 pointer, unsigned width, u8 cpl, u32 error_code)
    : cpu_(cpu),
      ss_(ss),
      pointer_(truncate(pointer, width)),
      width_(width),
      privilege_(stack_privilege(cpu.state, cpl)),
      checks_alignment_(cpl == 3 && checks_alignment(cpu.state)),
      error_code_(error_code) {}

MaybeFault Stack::locate(u64 offset, unsigned size, Gla& address) const {
  if (width_ == 8) {
    address = Gla(offset);
    const unsigned bits = cpu_.state.linear_bits();
    if (!x86::is_canonical(offset, bits)) return Fault::ss(error_code_);
    if (auto fault = check_alignment(address, size)) return fault;
    if (!x86::is_canonical(offset + size - 1, bits)) return Fault::ss(error_code_);
    return std::nullopt;
  }
  if (ss_.unusable || !in_limit(ss_, offset, size)) return Fault::ss(error_code_);
  address = Gla(truncate(ss_.base + offset, 4));
  return check_alignment(address, size);
}

MaybeFault Stack::check_alignment(Gla address, unsigned size) const {
  if (checks_alignment_ && (address.value() & (size - 1)) != 0) return Fault::ac();
  return std::nullopt;
}

MaybeFault Stack::check_room(unsigned count, unsigned size) const {
  u64 offset = pointer_;
  Gla address;
  for (unsigned i = 0; i < count; ++i) {
    offset = truncate(offset - size, width_);
    if (auto fault = locate(offset, size, address)) return fault;
  }
  return std::nullopt;
}

MaybeFault Stack::push(u64 value, unsigned size) {
  const u64 offset = truncate(pointer_ - size, width_);
  Gla address;
  if (auto fault = locate(offset, size, address)) return fault;
  const bool done = size == 8   ? cpu_.mmu.write_as(privilege_, address, value)
                    : size == 4 ? cpu_.mmu.write_as(privilege_, address, static_cast<u32>(value))
                                : cpu_.mmu.write_as(privilege_, address, static_cast<u16>(value));
  if (!done) return cpu_.mmu.fault();
  pointer_ = offset;
  return std::nullopt;
}

MaybeFault Stack::push_all(std::span<const u64> values, unsigned size) {
  for (const u64 value : values)
    if (auto fault = push(value, size)) return fault;
  return std::nullopt;
}

MaybeFault Stack::peek(u64 above, unsigned size, u64& value) const {
  Gla address;
  if (auto fault = locate(truncate(pointer_ + above, width_), size, address)) return fault;
  u16 narrow = 0;
  u32 middle = 0;
  value = 0;
  const bool done = size == 8   ? cpu_.mmu.read_as(privilege_, address, value)
                    : size == 4 ? cpu_.mmu.read_as(privilege_, address, middle)
                                : cpu_.mmu.read_as(privilege_, address, narrow);
  if (!done) return cpu_.mmu.fault();
  value |= middle | narrow;
  return std::nullopt;
}

MaybeFault Stack::peek_selector(u64 above, u16& selector) const {
  u64 value = 0;
  if (auto fault = peek(above, sizeof selector, value)) return fault;
  selector = static_cast<u16>(value);
  return std::nullopt;
}

MaybeFault Stack::pop(unsigned size, u64& value) {
  if (auto fault = peek(0, size, value)) return fault;
  skip(size);
  return std::nullopt;
}

}  // namespace vert::cpu::internal

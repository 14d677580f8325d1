#include "engine/interp/core.hpp"

namespace vert::interp {

using namespace x86;

void Core::mode_changed() {
  const Segment& cs = state_->seg(kCs);
  code_size_ = state_->code64() ? CodeSize::k64 : cs.is_big() ? CodeSize::k32 : CodeSize::k16;
  const unsigned width = cpu::stack_width(*state_);
  stack_mask_ = truncate(~u64{0}, width);
  check_alignment_ = cpu::checks_alignment(*state_);
  mmu.update_privilege();
}

namespace {

/// One breakpoint's fields of DR7 (SDM 3B, 17.2.4).
struct Breakpoint {
  bool enabled;
  u8 condition;  // 0 execution, 1 writes, 2 I/O, 3 reads and writes
  u64 size;
};
Breakpoint breakpoint(const cpu::CpuState& state, unsigned i) {
  constexpr std::array<u64, 4> kSizes = {1, 2, 8, 4};
  const u64 control = state.dr7 >> (16 + i * 4);
  return {((state.dr7 >> (i * 2)) & 3) != 0, static_cast<u8>(control & 3), kSizes[(control >> 2) & 3]};
}

}  // namespace

void Core::breakpoints_changed() {
  has_breakpoints = (state_->dr7 & dr7::kEnables) != 0;
  std::array<cpu::Mmu::Watch, 4> watches;
  for (unsigned i = 0; i < watches.size(); ++i) {
    const Breakpoint b = breakpoint(*state_, i);
    if (b.enabled && (b.condition & 1) != 0)
      watches[i] = {Gla(state_->dr[i] & ~(b.size - 1)), b.size, b.condition == 3};
  }
  mmu.set_watches(watches);
}

void Core::note_port_access(u16 port, unsigned size) {
  if (!has_breakpoints || (state_->cr4 & cr4::DE) == 0) return;
  for (unsigned i = 0; i < 4; ++i) {
    const Breakpoint b = breakpoint(*state_, i);
    if (!b.enabled || b.condition != 2) continue;
    const u64 start = state_->dr[i] & ~(b.size - 1);
    if (start - port < size || port - start < b.size) port_hits_ |= 1U << i;
  }
}

void Core::set_gpr_sized(u8 reg, u64 value, unsigned size) {
  switch (size) {
    case 1: return set_gpr<u8>(reg, static_cast<u8>(value));
    case 2: return set_gpr<u16>(reg, static_cast<u16>(value));
    case 4: return set_gpr<u32>(reg, static_cast<u32>(value));
    default: return set_gpr<u64>(reg, value);
  }
}

bool Core::load_zero_extended(const Op& op, unsigned index, u64& value) {
  const auto load_as = [&]<typename T>(T narrow) {
    if (!load(op, index, narrow)) return false;
    value = narrow;
    return true;
  };
  switch (op.insn.operands[index].size) {
    case 1: return load_as(u8{});
    case 2: return load_as(u16{});
    case 4: return load_as(u32{});
    default: return load_as(u64{});
  }
}

bool Core::load_sign_extended(const Op& op, unsigned index, u64& value) {
  if (!load_zero_extended(op, index, value)) return false;
  const unsigned shift = 64 - op.insn.operands[index].size * 8U;
  value = static_cast<u64>(static_cast<i64>(value << shift) >> shift);
  return true;
}

bool Core::store_sized(const Op& op, unsigned index, u64 value, unsigned size) {
  switch (size) {
    case 1: return store<u8>(op, index, static_cast<u8>(value));
    case 2: return store<u16>(op, index, static_cast<u16>(value));
    case 4: return store<u32>(op, index, static_cast<u32>(value));
    default: return store<u64>(op, index, value);
  }
}

bool Core::slow_address_in(SegmentRegister seg, u64 offset, u64 size, cpu::AccessKind kind, Gla& address) {
  const auto raised = cpu::segment_address(*state_, seg, offset, size, kind, address);
  const bool misaligned = check_alignment_ && (size & (size - 1)) == 0 && (address.value() & (size - 1)) != 0;
  // In 64-bit mode processors check the alignment before they look at the last byte's address.
  const bool begins = !raised || (code64() && is_canonical(address.value(), state_->linear_bits()));
  if (begins && misaligned) return failed(Fault::ac());
  return !raised || failed(*raised);
}

bool Core::push_sized(u64 value, unsigned size) {
  switch (size) {
    case 2: return push(static_cast<u16>(value));
    case 4: return push(static_cast<u32>(value));
    default: return push(value);
  }
}

bool Core::top_sized(u64& value, unsigned size) {
  const auto top_as = [&]<typename T>(T narrow) {
    if (!top(narrow)) return false;
    value = narrow;
    return true;
  };
  switch (size) {
    case 2: return top_as(u16{});
    case 4: return top_as(u32{});
    default: return top_as(u64{});
  }
}

bool Core::valid_target(u64 target) const {
  return code64() ? is_canonical(target, state_->linear_bits()) : target <= state_->seg(kCs).limit;
}

Outcome Core::jump(u64 target, unsigned operand_size) {
  target = truncate(target, operand_size);
  if (!valid_target(target)) return raise(Fault::gp());
  state_->rip = target;
  return Outcome::kJump;
}

}  // namespace vert::interp

// Branches, calls and returns.
//
// A guest's CALL is a host's CALL too, on the return stack, so that the processor predicts the guest's
// returns. A return passes the guest's return address in kAddress; where it lands, that is compared with the
// address that the call pushed. That it was a call of the same mode is the return stacks' affair
// (Mode::return_owner). All of it leaves the flags alone, since no flag is dead across a branch whose
// target is not known.
#include "engine/bt/emitter.hpp"
#include "engine/bt/host_registers.hpp"

namespace vert::bt {

using namespace x86;

#define VERT_FIELD(name) field(offsetof(Context, name))

void Emitter::jump(unsigned i) { end(branch_target(insn(i), request_->mode.code32), request_->mode); }

void Emitter::branch(unsigned i) {
  constexpr u8 kConditionBits = 0x0F;
  if (flags_ == Flags::kSaved) restore_flags();
  const Label stub = assembler_.make_label();
  assembler_.jcc(static_cast<Cond>(insn(i).insn.opcode & kConditionBits), stub);
  link({.kind = ExitKind::kLink,
        .insn = static_cast<u16>(i + 1),
        .rip = branch_target(insn(i), request_->mode.code32)},
       stub);
}

void Emitter::push_return_address(unsigned i) {
  const u64 address = insn(i).next_rip();
  const unsigned k = request_->plan.access_count[i] - 1U;
  const HostMem to = reach(i, k);
  if (request_->mode.code32 || fits32(address)) {
    store_guest_imm(i, to, static_cast<i32>(address), word());
  } else if (to.base != kAddress) {
    const u8 value = to.index == kScratch ? kAddress : kScratch;
    assembler_.mov_imm(value, address);
    store_guest(i, to, value);
  } else {
    assembler_.lea(kAddress, {.base = to.base, .index = to.index, .displacement = to.displacement});
    assembler_.mov_imm(kScratch, address);
    store_guest(i, {.base = kAddress}, kScratch);
  }
  adjust_stack(-static_cast<i32>(word()));
}

/// Whether push_return_address() leaves kAddress alone.
bool Emitter::push_keeps_address(unsigned i) const {
  const Access& access = request_->plan.accesses[i][request_->plan.access_count[i] - 1U];
  if (!wide() || access.family.index != 0) return false;
  if (access.group >= 0 && access.group == group_) return true;
  return request_->mode.windows && fits32(insn(i).next_rip());
}

/// The host call written next may run over the end of the return stack.
void Emitter::mark_call(unsigned i, bool indirect) {
  mark(i);
  marks_.back().indirect = indirect;
  marks_.back().pushed = static_cast<u8>(word());
}

void Emitter::call(unsigned i) {
  push_return_address(i);
  if (flags_ == Flags::kSaved) restore_flags();
  const Label stub = assembler_.make_label();
  mark_call(i, false);
  assembler_.call(stub);
  link({.kind = ExitKind::kLink,
        .insn = static_cast<u16>(i + 1),
        .rip = branch_target(insn(i), request_->mode.code32)},
       stub);
  landing(i);
}

/// Where the return to the call at i arrives, with the address that it returns to in kAddress.
void Emitter::landing(unsigned i) {
  const u64 address = behind(i);
  // Whoever was called may have left the vector registers to the host.
  fpu_checked_ = request_->mode.windows;
  const Label expected = assembler_.make_label();
  assembler_.mov(kScratch, kRcx);
  if (!request_->trusted) {
    // Nor need this page be mapped here any more. Not in one sum with the address: that is the guest's
    // choice.
    const Label current = assembler_.make_label();
    assembler_.load(kRcx, field(token_offset(request_->rip) + sizeof(u32)), 4);
    assembler_.lea(kRcx, {.base = kRcx, .displacement = -static_cast<i32>(request_->token)});
    assembler_.jrcxz(current);
    assembler_.mov(kRcx, kScratch);
    assembler_.jmp_out(thunks_.return_miss);
    assembler_.bind(current);
  }
  // All ones if the address is the call's; but not if another thread wants something, since that shifts in a
  // zero. Calls do not look.
  assembler_.load(kDelta, field(look_at_), 1);
  const u64 all_ones = 0 - address - 1;
  if (fits32(all_ones)) {
    assembler_.lea(kRcx, {.base = kAddress, .displacement = static_cast<i32>(all_ones)});
  } else {
    assembler_.mov_imm(kRcx, all_ones);
    assembler_.lea(kRcx, {.base = kRcx, .index = kAddress});
  }
  assembler_.shlx(kRcx, kRcx, kDelta);
  assembler_.lea(kRcx, {.base = kRcx, .displacement = 1});
  assembler_.jrcxz(expected);
  assembler_.mov(kRcx, kScratch);
  assembler_.jmp_out(thunks_.return_miss);
  assembler_.bind(expected);
  assembler_.mov(kRcx, kScratch);
  go_on({.kind = ExitKind::kLink, .insn = static_cast<u16>(i + 1), .rip = address}, request_->mode);
}

/// The target of an indirect branch, into kAddress.
void Emitter::load_target(unsigned i) {
  const Operand& operand = insn(i).insn.operands[0];
  if (operand.kind == OperandKind::kGpr) {
    const u8 from = value_of(operand.reg, kAddress);
    if (wide())
      assembler_.mov(kAddress, from);
    else
      assembler_.mov32(kAddress, from);
  } else {
    const HostMem from = reach(i, 0);
    load_guest(i, kAddress, from, word());
  }
}

void Emitter::jump_indirect(unsigned i) {
  load_target(i);
  if (flags_ == Flags::kSaved) restore_flags();
  lookup(i, 0);
}

void Emitter::call_indirect(unsigned i) {
  load_target(i);
  const bool kept = push_keeps_address(i);
  if (!kept) assembler_.store(VERT_FIELD(call_target), kAddress);
  push_return_address(i);
  if (!kept) assembler_.load(kAddress, VERT_FIELD(call_target));
  if (flags_ == Flags::kSaved) restore_flags();
  const Label find = assembler_.make_label();
  mark_call(i, true);
  assembler_.call(find);
  landing(i);
  assembler_.use_cold();
  assembler_.bind(find);
  lookup(i, -static_cast<i32>(word()));
  assembler_.use_hot();
}

void Emitter::return_near(unsigned i) {
  const HostMem from = reach(i, 0);
  load_guest(i, kAddress, from, word());
  const auto popped = static_cast<i32>(word() + static_cast<u16>(insn(i).insn.imm));
  adjust_stack(popped);
  if (flags_ == Flags::kSaved) restore_flags();
  const u32 exit = add_exit(
      {.kind = ExitKind::kIndirect, .popped = popped, .insn = static_cast<u16>(i + 1), .rip = insn(i).rip});
  assembler_.store_imm(VERT_FIELD(last_return), static_cast<i32>(exit));
  assembler_.ret();
}

/// Goes where kAddress says, by the table of indirect branches.
void Emitter::lookup(unsigned i, i32 popped) {
  const Label hit = assembler_.make_label();
  assembler_.pext(kScratch, kAddress, VERT_FIELD(jump_mask));
  assembler_.mov(kDelta, kRcx);
  assembler_.load(kRcx, indexed_field(offsetof(Context, jump_keys), kScratch, 8));
  assembler_.lea(kRcx, {.base = kRcx, .index = kAddress, .displacement = request_->mode.salt()});
  assembler_.jrcxz(hit);
  assembler_.mov(kRcx, kDelta);
  assembler_.store(VERT_FIELD(rip), kAddress);
  leave(add_exit(
      {.kind = ExitKind::kIndirect, .popped = popped, .insn = static_cast<u16>(i + 1), .rip = insn(i).rip}));
  assembler_.bind(hit);
  assembler_.mov(kRcx, kDelta);
  assembler_.jmp_mem(indexed_field(offsetof(Context, jump_code), kScratch, 8));
}

}  // namespace vert::bt

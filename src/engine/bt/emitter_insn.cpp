// Instructions that go on with the next: copies, and those that use the stack or state that the Context has.
#include <bit>
#include <utility>

#include "engine/bt/copy_list.hpp"
#include "engine/bt/emitter.hpp"
#include "engine/bt/host_registers.hpp"

namespace vert::bt {

using namespace x86;

#define VERT_FIELD(name) field(offsetof(Context, name))

namespace {

/// Whether the host's processor may fault on the copy: divisions overflow, vector operands may have to be
/// aligned, floating-point exceptions may be unmasked, and the model may have what this host has not.
bool may_fault(const GuestInsn& guest) {
  const CopyRule* rule = copy_rule(guest.insn.mnemonic);
  return guest.has_memory() || rule == nullptr || !rule->steady;
}

}  // namespace

void Emitter::instruction(unsigned i) {
  switch (insn(i).form) {
    case Form::kCopy: return copy(i);
    case Form::kLea: return lea(i);
    case Form::kNothing: return;
    case Form::kPush: return push(i);
    case Form::kPop: return pop(i);
    case Form::kLeave: return leave_frame(i);
    case Form::kPushFlags: return push_flags(i);
    case Form::kCall: return call(i);
    case Form::kCallIndirect: return call_indirect(i);
    case Form::kReturn: return return_near(i);
    case Form::kJump: return jump(i);
    case Form::kJumpIndirect: return jump_indirect(i);
    case Form::kBranch: return branch(i);
    case Form::kString: return string(i);
    case Form::kSaveState:
    case Form::kLoadState: return extended_state(i);
    case Form::kTimeStamp: return time_stamp(i);
    case Form::kReadSegmentBase: return read_segment_base(i);
    case Form::kWriteSegmentBase: return write_segment_base(i);
    case Form::kReadSegment: return read_segment(i);
    case Form::kReadControl: return read_control(i);
    case Form::kDirection:
      return assembler_.store_imm(VERT_FIELD(direction_flag),
                                  insn(i).insn.mnemonic == ZYDIS_MNEMONIC_STD ? 1 : 0, 1);
    case Form::kBitString: return bit_string(i);
    case Form::kAccessControl: return access_control(i);
    case Form::kSwapGs: return swap_gs();
    case Form::kPause: return pause(i);
    case Form::kClearInterrupt: return assembler_.store_imm(VERT_FIELD(interrupt_flag), 0, 1);
    case Form::kSetInterrupt: return set_interrupt(i);
    case Form::kSystemCall: return transfer(i, Transfer::kSystemCall);
    case Form::kSystemReturn: return transfer(i, Transfer::kSystemReturn);
    case Form::kInterruptReturn: return transfer(i, Transfer::kInterruptReturn);
    case Form::kInterpret: return interpret(i);
  }
}

/// Leaves for the interpreter, and tells what must be forgotten afterwards.
void Emitter::interpret(unsigned i) {
  const Insn& decoded = insn(i).insn;
  Effect effect = Effect::kOther;
  if (decoded.length != 0 && decoded.mnemonic == ZYDIS_MNEMONIC_MOV &&
      decoded.operands[0].kind == OperandKind::kControl && decoded.operands[0].reg == 3 &&
      !request_->mode.counted && wide()) {
    return leave_for_cr3(i);
  }
  if (decoded.length != 0 && decoded.mnemonic == ZYDIS_MNEMONIC_INVLPG && decoded.address_size != 2) {
    effect = Effect::kPage;
    linear_address(i, kAddress, true);
    assembler_.store(VERT_FIELD(call_target), kAddress);
  }
  if (flags_ == Flags::kSaved) restore_flags();
  leave(add_exit({.kind = ExitKind::kInterpret,
                  .effect = effect,
                  .length = decoded.length,
                  .insn = static_cast<u16>(i),
                  .rip = insn(i).rip}));
}

/// MOV to CR3 needs no interpreter, but more than a leaf function.
void Emitter::leave_for_cr3(unsigned i) {
  assembler_.store(VERT_FIELD(call_target), value_of(insn(i).insn.operands[1].reg, kAddress));
  if (flags_ == Flags::kSaved) restore_flags();
  leave(add_exit({.kind = ExitKind::kLoadCr3,
                  .length = insn(i).insn.length,
                  .insn = static_cast<u16>(i),
                  .rip = insn(i).rip}));
}

void Emitter::copy(unsigned i) {
  HostOperands host;
  host.gpr = kHostRegister;
  const GuestInsn& guest = insn(i);
  if (guest.has_memory()) {
    const HostMem mem = reach(i, 0);
    host.memory = HostOperands::Memory::kHost;
    host.base = mem.base;
    host.index = mem.index;
    host.displacement = mem.displacement;
  }
  write_copy(i, host);
}

/// Writes the copy with its operand at `host`, moving registers that live in the Context through the scratch
/// registers.
void Emitter::write_copy(unsigned i, HostOperands host) {
  const GuestInsn& guest = insn(i);
  constexpr u16 kHomeless = 1U << kR10 | 1U << kR11 | 1U << kR14 | 1U << kR15;
  u16 named = 0;
  for (const ZydisDecodedOperand& operand : guest.details.operands()) {
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    const auto kind = ZydisRegisterGetClass(operand.reg.value);
    if (kind != ZYDIS_REGCLASS_GPR64 && kind != ZYDIS_REGCLASS_GPR32 && kind != ZYDIS_REGCLASS_GPR16 &&
        kind != ZYDIS_REGCLASS_GPR8)
      continue;
    const ZydisRegister whole =
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operand.reg.value);
    named |= static_cast<u16>(1U << ZydisRegisterGetId(whole));
  }
  const u16 homeless = named & kHomeless;
  const bool both_taken = host.base == kAddress && host.index == kScratch;
  if (std::popcount(homeless) >
      (host.base == kAddress || host.base == kScratch || host.index == kScratch ? 1 : 2))
    return leave_to_interpreter(i);
  if (homeless != 0 && both_taken) {
    assembler_.lea(kAddress, {.base = kAddress, .index = kScratch});
    host.index = kNone;
  }
  std::array<u8, 2> free_registers{};
  unsigned free_count = 0;
  for (const u8 reg : {kScratch, kAddress})
    if (host.base != reg && host.index != reg) free_registers[free_count++] = reg;
  unsigned used = 0;
  u16 stores = 0;
  for (u8 reg = 0; reg < kGprCount; ++reg) {
    if ((homeless >> reg & 1) == 0) continue;
    host.gpr[reg] = free_registers[used++];
    if ((guest.gprs_read >> reg & 1) != 0) assembler_.load(host.gpr[reg], slot(reg));
    if ((guest.gprs_written >> reg & 1) != 0) stores |= static_cast<u16>(1U << reg);
  }
  flags_for(i);
  std::array<u8, 16> bytes{};
  const unsigned length =
      rewrite(guest.details.instruction, guest.details.operands(), guest.insn.encoding(), host, bytes);
  if (length == 0) return leave_to_interpreter(i);
  if (may_fault(guest)) mark(i);
  assembler_.raw(std::span(bytes).first(length));
  for (u8 reg = 0; reg < kGprCount; ++reg)
    if ((stores >> reg & 1) != 0) assembler_.store(slot(reg), host.gpr[reg]);
}

void Emitter::lea(unsigned i) {
  const Operand& to = insn(i).insn.operands[0];
  if (to.size == 2 || insn(i).insn.address_size == 2) return leave_to_interpreter(i);
  const bool home = !in_memory(to.reg);
  const u8 target = home ? kHostRegister[to.reg] : kAddress;
  linear_address(i, target, false);
  if (to.size == 4 && insn(i).insn.address_size == 8) assembler_.mov32(target, target);
  if (!home) assembler_.store(slot(to.reg), target);
}

void Emitter::adjust_stack(i32 by) {
  assembler_.lea(kHostRsp, {.base = kHostRsp, .displacement = by}, wide());
}

void Emitter::push(unsigned i) {
  const Operand& operand = insn(i).insn.operands[0];
  const unsigned stack = operand.kind == OperandKind::kMemory ? 1 : 0;
  if (stack == 1) {
    const HostMem from = reach(i, 0);
    load_guest(i, kAddress, from, word());
    assembler_.store(VERT_FIELD(call_target), kAddress);
  }
  const HostMem to = reach(i, stack);
  if (operand.kind == OperandKind::kImmediate) {
    store_guest_imm(i, to, static_cast<i32>(insn(i).insn.imm), word());
  } else if (stack == 1 && to.base == kAddress) {
    assembler_.lea(kAddress, {.base = to.base, .index = to.index, .displacement = to.displacement});
    assembler_.load(kScratch, VERT_FIELD(call_target));
    store_guest(i, {.base = kAddress}, kScratch, word());
  } else if (stack == 1) {
    assembler_.load(kAddress, VERT_FIELD(call_target));
    store_guest(i, to, kAddress, word());
  } else {
    const u8 from = value_of(operand.reg, kAddress);
    store_guest(i, to, from, word());
  }
  adjust_stack(-static_cast<i32>(word()));
}

void Emitter::pop(unsigned i) {
  const u8 reg = insn(i).insn.operands[0].reg;
  const HostMem from = reach(i, 0);
  const u8 to = in_memory(reg) ? kAddress : kHostRegister[reg];
  load_guest(i, to, from, word());
  if (in_memory(reg)) assembler_.store(slot(reg), to);
  if (reg != kRsp) adjust_stack(static_cast<i32>(word()));
}

void Emitter::leave_frame(unsigned i) {
  const HostMem from = reach(i, 0);
  load_guest(i, kAddress, from, word());
  assembler_.lea(kHostRsp, {.base = kRbp, .displacement = static_cast<i32>(word())}, wide());
  assembler_.mov(kRbp, kAddress);
}

void Emitter::push_flags(unsigned i) {
  constexpr std::array<u8, 2> kPopAddress = {0x41, 0x58 | (kAddress & 7)};
  if (flags_ == Flags::kSaved) restore_flags();
  assembler_.pushfq();
  assembler_.raw(kPopAddress);
  assembler_.store(VERT_FIELD(call_target), kAddress);
  save_flags();
  assembler_.load(kAddress, VERT_FIELD(call_target));
  assembler_.and_imm32(kAddress, kArithmeticFlags);
  assembler_.load(kScratch, VERT_FIELD(rflags_rest));
  assembler_.lea(kAddress, {.base = kAddress, .index = kScratch});
  const auto add_bit = [&](const HostMem& bit, unsigned position) {
    assembler_.load(kScratch, bit, 1);
    assembler_.rorx(kScratch, kScratch, static_cast<u8>(64 - position));
    assembler_.lea(kAddress, {.base = kAddress, .index = kScratch});
  };
  add_bit(VERT_FIELD(interrupt_flag), 9);
  add_bit(VERT_FIELD(direction_flag), 10);
  assembler_.store(VERT_FIELD(call_target), kAddress);
  const HostMem to = reach(i, 0);
  assembler_.load(kAddress, VERT_FIELD(call_target));
  store_guest(i, to, kAddress);
  adjust_stack(-8);
}

void Emitter::string(unsigned i) {
  const GuestInsn& guest = insn(i);
  free_flags(i);
  const Label interpret = interpret_label(i);
  assembler_.cmp_imm8(VERT_FIELD(direction_flag), 0);
  assembler_.jcc(Cond::kNe, interpret);
  bool moves = false;
  switch (guest.insn.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ: moves = true; break;
    default: break;
  }
  assembler_.mov_imm(kScratch, string_request(guest.insn.operand_size, moves, request_->mode.privilege));
  assembler_.call_out(thunks_.string);
  assembler_.cmp_imm(kScratch, 0, true);
  assembler_.jcc(Cond::kNe, interpret);
}

/// The vector registers are the guest's: checks_before() saw to it.
void Emitter::extended_state(unsigned i) {
  const auto kind = [&] {
    switch (insn(i).insn.mnemonic) {
      case ZYDIS_MNEMONIC_XSAVE64: return StateKind::kSave;
      case ZYDIS_MNEMONIC_XSAVEC64: return StateKind::kSaveCompacted;
      case ZYDIS_MNEMONIC_XSAVES64: return StateKind::kSaveSupervisor;
      case ZYDIS_MNEMONIC_XRSTOR64: return StateKind::kLoad;
      default: return StateKind::kLoadSupervisor;
    }
  }();
  free_flags(i);
  const Label interpret = interpret_label(i);
  linear_address(i, kAddress, true);
  assembler_.mov_imm(kScratch, state_request(kind, request_->mode.privilege));
  assembler_.call_out(thunks_.state);
  assembler_.cmp_imm(kScratch, 0, true);
  assembler_.jcc(Cond::kNe, interpret);
}

/// The guest's time-stamp counter is the host's plus an offset. No flags are touched.
void Emitter::time_stamp(unsigned i) {
  constexpr std::array<u8, 2> kRdtsc = {0x0F, 0x31};
  constexpr std::array<u8, 3> kRdtscp = {0x0F, 0x01, 0xF9};
  const bool with_aux = insn(i).insn.mnemonic == ZYDIS_MNEMONIC_RDTSCP;
  mark(i);  // the host may have forbidden it
  if (with_aux)
    assembler_.raw(kRdtscp);
  else
    assembler_.raw(kRdtsc);
  assembler_.rorx(kAddress, kRdx, 32);
  assembler_.lea(kAddress, {.base = kAddress, .index = kRax});
  assembler_.load(kScratch, VERT_FIELD(tsc_offset));
  assembler_.lea(kAddress, {.base = kAddress, .index = kScratch});
  assembler_.mov32(kRax, kAddress);
  assembler_.rorx(kRdx, kAddress, 32);
  assembler_.mov32(kRdx, kRdx);
  if (with_aux) assembler_.load(kRcx, VERT_FIELD(tsc_aux), 4);
}

void Emitter::read_segment_base(unsigned i) {
  const Operand& to = insn(i).insn.operands[0];
  const bool fs = insn(i).insn.mnemonic == ZYDIS_MNEMONIC_RDFSBASE;
  const u8 target = in_memory(to.reg) ? kAddress : kHostRegister[to.reg];
  assembler_.load(target, fs ? VERT_FIELD(fs_base) : VERT_FIELD(gs_base), to.size);
  if (in_memory(to.reg)) assembler_.store(slot(to.reg), target);
}

/// The interpreter has the fault of a base that is not canonical.
void Emitter::write_segment_base(unsigned i) {
  const Operand& from = insn(i).insn.operands[0];
  const bool fs = insn(i).insn.mnemonic == ZYDIS_MNEMONIC_WRFSBASE;
  free_flags(i);
  const Label interpret = interpret_label(i);
  const u8 value = value_of(from.reg, kAddress);
  if (from.size == 4)
    assembler_.mov32(kAddress, value);
  else
    assembler_.mov(kAddress, value);
  assembler_.mov(kScratch, kAddress);
  assembler_.sar_imm(kScratch, 47);
  assembler_.lea(kScratch, {.base = kScratch, .displacement = 1});
  assembler_.cmp_imm(kScratch, 1, true);
  assembler_.jcc(Cond::kA, interpret);
  assembler_.store(fs ? VERT_FIELD(fs_base) : VERT_FIELD(gs_base), kAddress);
}

void Emitter::read_segment(unsigned i) {
  const Operand& to = insn(i).insn.operands[0];
  const auto segment = insn(i).insn.operands[1].reg;
  const auto offset =
      offsetof(cpu::CpuState, segment) + segment * sizeof(Segment) + offsetof(Segment, selector);
  assembler_.load(kAddress, VERT_FIELD(state));
  const HostMem selector{.base = kAddress, .displacement = static_cast<i32>(offset)};
  if (to.size == 2) {
    assembler_.load(kScratch, selector, 2);
    if (in_memory(to.reg)) return assembler_.store(slot(to.reg), kScratch, 2);
    const u8 reg = kHostRegister[to.reg];  // mov reg, r11w
    const auto rex = static_cast<u8>(0x44 | reg >> 3);
    return assembler_.raw(
        std::array<u8, 4>{0x66, rex, 0x89, static_cast<u8>(0xC0 | (kScratch & 7) << 3 | (reg & 7))});
  }
  const u8 target = in_memory(to.reg) ? kScratch : kHostRegister[to.reg];
  assembler_.load(target, selector, 2);
  if (in_memory(to.reg)) assembler_.store(slot(to.reg), target);
}

/// Control registers stay in CpuState while generated code runs.
void Emitter::read_control(unsigned i) {
  const Operand& to = insn(i).insn.operands[0];
  std::size_t offset = 0;
  switch (insn(i).insn.operands[1].reg) {
    case 0: offset = offsetof(cpu::CpuState, cr0); break;
    case 2: offset = offsetof(cpu::CpuState, cr2); break;
    case 3: offset = offsetof(cpu::CpuState, cr3); break;
    case 4: offset = offsetof(cpu::CpuState, cr4); break;
    default: return interpret(i);
  }
  assembler_.load(kAddress, VERT_FIELD(state));
  const u8 target = in_memory(to.reg) ? kScratch : kHostRegister[to.reg];
  assembler_.load(target, {.base = kAddress, .displacement = static_cast<i32>(offset)});
  if (in_memory(to.reg)) assembler_.store(slot(to.reg), target);
}

/// The doubleword or quadword that has the bit, into kAddress (SDM 2A, BT). Changes flags.
void Emitter::bit_address(unsigned i) {
  const GuestInsn& guest = insn(i);
  const bool quad = guest.insn.operand_size == 8;
  constexpr std::array<u8, 3> kMovsxdScratch = {0x4D, 0x63, 0xDB};  // movsxd r11, r11d
  linear_address(i, kAddress, true);
  const u8 index = value_of(guest.insn.operands[1].reg, kScratch);
  if (index != kScratch) assembler_.mov(kScratch, index);
  if (!quad) assembler_.raw(kMovsxdScratch);
  assembler_.sar_imm(kScratch, quad ? 6 : 5);
  assembler_.lea(kAddress, {.base = kAddress, .index = kScratch, .scale = guest.insn.operand_size});
}

/// BT, BTS, BTR and BTC of memory: with the bit's number cut to the operand's size, on the operand that has
/// it.
void Emitter::bit_string(unsigned i) {
  const GuestInsn& guest = insn(i);
  const bool quad = guest.insn.operand_size == 8;
  const HostMem at = reach(i, 0);
  assembler_.lea(kAddress, {.base = at.base, .index = at.index, .displacement = at.displacement});
  const u8 index = value_of(guest.insn.operands[1].reg, kScratch);
  if (index != kScratch) assembler_.mov(kScratch, index);
  assembler_.and_imm32(kScratch, quad ? 63 : 31);
  flags_for(i);
  constexpr u8 kLock = 0xF0;
  constexpr u8 kModrm = (kScratch & 7) << 3 | (kAddress & 7);
  if (guest.insn.mnemonic == ZYDIS_MNEMONIC_BT) {
    load_guest(i, kAddress, {.base = kAddress}, guest.insn.operand_size);
    assembler_.raw(std::array<u8, 4>{static_cast<u8>(quad ? 0x4D : 0x45), 0x0F, 0xA3, 0xC0 | kModrm});
    return;
  }
  if (request_->mode.windows) mark(i);
  if (guest.insn.lock) assembler_.raw(std::array{kLock});
  assembler_.raw(std::array<u8, 4>{static_cast<u8>(quad ? 0x4D : 0x45), 0x0F, guest.insn.opcode, kModrm});
}

HostMem Emitter::return_rsp_of(cpu::Privilege privilege) {
  return field(offsetof(Context, return_rsps) + static_cast<std::size_t>(privilege) * sizeof(u64));
}

/// STAC and CLAC change how the supervisor reaches user pages, so the code behind them is of another mode.
void Emitter::access_control(unsigned i) {
  const bool open = insn(i).insn.mnemonic == ZYDIS_MNEMONIC_STAC;
  constexpr auto kAc = static_cast<i32>(rflags::AC);
  free_flags(i);
  if (open)
    assembler_.or_mem_imm(VERT_FIELD(rflags_rest), kAc);
  else
    assembler_.and_mem_imm(VERT_FIELD(rflags_rest), ~kAc);
  Mode next = request_->mode;
  if (next.smap) {
    next.privilege = open ? cpu::Privilege::kSupervisor : cpu::Privilege::kSmap;
    assembler_.store_imm(VERT_FIELD(privilege), static_cast<i32>(next.privilege), 4);
    assembler_.store_imm(VERT_FIELD(salt), next.salt());
    // Calls of one are not returned to by the other (Mode::return_owner).
    assembler_.store(return_rsp_of(request_->mode.privilege), kRsp);
    assembler_.load(kRsp, return_rsp_of(next.privilege));
  }
  end(insn(i).next_rip(), next);
}

void Emitter::swap_gs() {
  assembler_.load(kAddress, VERT_FIELD(gs_base));
  assembler_.load(kScratch, VERT_FIELD(kernel_gs_base));
  assembler_.store(VERT_FIELD(gs_base), kScratch);
  assembler_.store(VERT_FIELD(kernel_gs_base), kAddress);
  std::swap(gs_.base, gs_.other);
}

/// Each of so many PAUSEs leaves, for the case that they are a loop's.
void Emitter::pause(unsigned i) {
  constexpr std::array<u8, 2> kPause = {0xF3, 0x90};
  free_flags(i);
  assembler_.raw(kPause);
  const Label window_over = assembler_.make_label();
  assembler_.sub_imm(VERT_FIELD(pauses_left), 1);
  assembler_.jcc(Cond::kE, window_over);
  assembler_.use_cold();
  assembler_.bind(window_over);
  const bool saved = flags_ == Flags::kSaved;
  if (saved) restore_flags();
  leave(add_exit({.kind = ExitKind::kPause, .insn = static_cast<u16>(i + 1), .rip = behind(i)}));
  if (saved) flags_ = Flags::kSaved;
  assembler_.use_hot();
}

/// A change of privilege. The exit is for when the leaf function declines, and the interpreter does it.
void Emitter::transfer(unsigned i, Transfer kind) {
  const bool whole = insn(i).insn.operand_size == 8 || kind == Transfer::kSystemCall;
  if (request_->mode.counted || !whole) return interpret(i);
  if (flags_ == Flags::kSaved) restore_flags();
  const u32 exit = add_exit({.kind = ExitKind::kInterpret, .insn = static_cast<u16>(i), .rip = insn(i).rip});
  assembler_.store_imm(VERT_FIELD(exit), static_cast<i32>(exit));
  assembler_.mov_imm(kAddress, insn(i).next_rip());
  assembler_.mov_imm(kScratch, static_cast<u64>(kind));
  assembler_.jmp_out(thunks_.transfer);
}

/// If something waits, the interpreter executes STI. Else the next look will do; but none takes an event
/// before the next instruction is over (SDM 2B, STI).
void Emitter::set_interrupt(unsigned i) {
  free_flags(i);
  const Label interpret = interpret_label(i);
  assembler_.cmp_imm8(VERT_FIELD(held), 0);
  assembler_.jcc(Cond::kNe, interpret);
  assembler_.store_imm(VERT_FIELD(interrupt_flag), 1, 1);
  const u64 next = behind(i);
  if (fits32(next)) {
    assembler_.store_imm(VERT_FIELD(shadow_rip), static_cast<i32>(next));
  } else {
    assembler_.mov_imm(kScratch, next);
    assembler_.store(VERT_FIELD(shadow_rip), kScratch);
  }
}

}  // namespace vert::bt

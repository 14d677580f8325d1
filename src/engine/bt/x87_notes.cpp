#include "engine/bt/x87_notes.hpp"

#include "cpu/x87_pointers.hpp"

namespace vert::bt {

using namespace x86;

bool sets_x87_pointers(const GuestInsn& guest) {
  constexpr u8 kFirstEscape = 0xD8, kLastEscape = 0xDF;
  if (guest.form != Form::kCopy || guest.insn.opcode < kFirstEscape || guest.insn.opcode > kLastEscape ||
      guest.details.instruction.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
    return false;
  switch (guest.insn.mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW: return false;
    default: return true;
  }
}

X87Unnoted unnoted(u32 origin, const GuestInsn* with_memory) {
  if (with_memory == nullptr) return {.origin = origin};
  const MemoryOperand& mem = with_memory->insn.mem;
  X87Unnoted note{.origin = origin, .memory = true, .segment = mem.segment};
  note.wide = with_memory->insn.address_size == 8;
  if (const auto constant = with_memory->constant_address()) {
    note.displacement = *constant;
    return note;
  }
  note.base = mem.base;
  note.index = mem.index;
  note.scale = mem.scale;
  note.displacement = static_cast<u64>(static_cast<i64>(mem.displacement));
  return note;
}

void X87Notes::clear() {
  origins.assign(1, {});
  unnoted.assign(1, {});
}

void note(const X87Unnoted& unnoted, Context& context) {
  context.x87_code = {.origin = unnoted.origin};
  if (!unnoted.memory) return;
  context.x87_data = {.segment = unnoted.segment, .present = 1};
  u64 address = unnoted.displacement;
  if (unnoted.base != MemoryOperand::kNoRegister) address += context.gpr[unnoted.base];
  if (unnoted.index != MemoryOperand::kNoRegister) address += context.gpr[unnoted.index] * unnoted.scale;
  context.x87_data_pointer = unnoted.wide ? address : address & 0xFFFF'FFFF;
}

void settle_x87_pointers(const X87Notes& notes, const CpuModel& model, Context& context) {
  if (context.x87_code.origin == 0) return;
  note_x87_selectors(context);
  const X87Origin& origin = notes.origins[context.x87_code.origin];
  const cpu::X87PointerRules rules = cpu::x87_pointer_rules(model);
  cpu::FpuState& fpu = context.state->fpu;
  const bool raised = (fpu.fsw & cpu::kX87ErrorSummary) != 0 && context.x87_code.control_loaded == 0;
  fpu.fip = origin.rip;
  fpu.fcs = rules.selectors ? context.x87_code.selector : u16{0};
  if (raised || !rules.opcode_raised) fpu.fop = origin.opcode;
  const bool data = rules.data_raised ? raised && origin.memory : context.x87_data.present != 0;
  if (data) {
    fpu.fdp = context.x87_data_pointer;
    fpu.fds = rules.selectors ? context.x87_data.selector : u16{0};
  }
  context.x87_code = {};
  context.x87_data = {};
}

}  // namespace vert::bt

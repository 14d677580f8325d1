// FIP, FOP and FDP: noted once for a run of x87 instructions (x87_notes.hpp).
#include "engine/bt/emitter.hpp"
#include "engine/bt/host_registers.hpp"

namespace vert::bt {

using namespace x86;

#define VERT_FIELD(name) field(offsetof(Context, name))

void Emitter::after_x87(unsigned i) {
  const GuestInsn& guest = insn(i);
  if (guest.form != Form::kCopy) return;
  if (guest.insn.mnemonic == ZYDIS_MNEMONIC_FNINIT) return clear_x87_pointers();
  if (guest.insn.mnemonic == ZYDIS_MNEMONIC_FLDCW)
    return assembler_.store_imm(field(offsetof(Context, x87_code) + offsetof(X87Code, control_loaded)), 1, 1);
  if (!sets_x87_pointers(guest)) return;
  const auto opcode = static_cast<u16>((guest.insn.opcode & 7) << 8 | guest.insn.modrm);
  x87_->origins.push_back({guest.rip, opcode, guest.has_memory()});
  x87_origin_ = static_cast<u32>(x87_->origins.size() - 1);
  if (guest.has_memory()) x87_data_ = static_cast<int>(i);
  x87_unnoted_ = 0;
}

void Emitter::end_x87_run() {
  if (x87_origin_ != 0) note_x87();
  x87_origin_ = 0;
  x87_data_ = -1;
  x87_unnoted_ = 0;
}

/// The registers of the memory operand are what they were: x87 instructions change none. No flags are
/// touched.
void Emitter::note_x87() {
  assembler_.store_imm(VERT_FIELD(x87_code), static_cast<i32>(x87_origin_));
  if (x87_data_ < 0) return;
  const GuestInsn& guest = insn(static_cast<unsigned>(x87_data_));
  assembler_.store_imm(VERT_FIELD(x87_data), x87_data_word(guest.insn.mem.segment));
  const auto constant = guest.constant_address();
  if (constant && fits32(*constant))
    return assembler_.store_imm(VERT_FIELD(x87_data_pointer), static_cast<i32>(*constant));
  linear_address(static_cast<unsigned>(x87_data_), kAddress, false);
  assembler_.store(VERT_FIELD(x87_data_pointer), kAddress);
}

/// What is not noted yet where generated code may be left now, for CodeExit and Mark.
u32 Emitter::unnoted_x87() {
  if (x87_origin_ == 0) return 0;
  if (x87_unnoted_ != 0) return x87_unnoted_;
  const GuestInsn* data = x87_data_ < 0 ? nullptr : &insn(static_cast<unsigned>(x87_data_));
  x87_->unnoted.push_back(unnoted(x87_origin_, data));
  x87_unnoted_ = static_cast<u32>(x87_->unnoted.size() - 1);
  return x87_unnoted_;
}

/// FNINIT.
void Emitter::clear_x87_pointers() {
  assembler_.store_imm(VERT_FIELD(x87_code), 0);
  assembler_.store_imm(VERT_FIELD(x87_data), 0);
  assembler_.load(kAddress, VERT_FIELD(state));
  const auto clear = [&](std::size_t offset, unsigned size) {
    const std::size_t at = offsetof(cpu::CpuState, fpu) + offset;
    assembler_.store_imm({.base = kAddress, .displacement = static_cast<i32>(at)}, 0, size);
  };
  clear(offsetof(cpu::FpuState, fop), sizeof(cpu::FpuState::fop));
  clear(offsetof(cpu::FpuState, fip), sizeof(cpu::FpuState::fip));
  clear(offsetof(cpu::FpuState, fdp), sizeof(cpu::FpuState::fdp));
  clear(offsetof(cpu::FpuState, fcs), sizeof(cpu::FpuState::fcs));
  clear(offsetof(cpu::FpuState, fds), sizeof(cpu::FpuState::fds));
}

}  // namespace vert::bt

#include "engine/interp/vector_unit.hpp"

#include <algorithm>
#include <new>

#include "cpu/x87_pointers.hpp"
#include "engine/interp/effective_address.hpp"
#include "engine/interp/vector_memory.hpp"
#include "engine/interp/vector_signal.hpp"
#include "engine/interp/x87.hpp"
#include "engine/interp/xsave.hpp"

namespace vert::interp {

namespace {

using cpu::MaybeFault;
using x86::Fault;
namespace cr0 = x86::cr0;
namespace cr4 = x86::cr4;
namespace xcr0 = x86::xcr0;

StubArena make_arena() {
  auto arena = StubArena::create(VectorUnit::kCapacity);
  if (!arena) throw std::runtime_error(arena.error().message);
  return std::move(*arena);
}

x86::CodeSize code_size(const cpu::CpuState& state) {
  if (state.code64()) return x86::CodeSize::k64;
  return state.seg(x86::kCs).is_big() ? x86::CodeSize::k32 : x86::CodeSize::k16;
}

MaybeFault pending_x87(const cpu::FpuState& fpu) {
  if (x87_exception_pending(fpu)) return Fault::mf();
  return {};
}

MaybeFault check_vex(const cpu::CpuState& state, u64 components) {
  if ((state.cr4 & cr4::OSXSAVE) == 0 || (state.xcr0 & components) != components || state.real_addressing())
    return Fault::ud();
  if ((state.cr0 & cr0::TS) != 0) return Fault::nm();
  return {};
}

/// SDM 2A, tables 2-18 to 2-66, 23-4 and following (x87 and MMX); SDM 1, 13.3.
MaybeFault check_gate(VectorGate gate, const cpu::CpuState& state) {
  const bool em = (state.cr0 & cr0::EM) != 0;
  const bool ts = (state.cr0 & cr0::TS) != 0;
  switch (gate) {
    case VectorGate::kNone: return {};
    case VectorGate::kX87:
      if (em || ts) return Fault::nm();
      return pending_x87(state.fpu);
    case VectorGate::kFxsave:
    case VectorGate::kX87Control:
      if (em || ts) return Fault::nm();
      return {};
    case VectorGate::kWait:
      if (ts && (state.cr0 & cr0::MP) != 0) return Fault::nm();
      return pending_x87(state.fpu);
    case VectorGate::kMmx:
      if (em) return Fault::ud();
      if (ts) return Fault::nm();
      return pending_x87(state.fpu);
    case VectorGate::kSse:
    case VectorGate::kSseMmx:
      if (em || (state.cr4 & cr4::OSFXSR) == 0) return Fault::ud();
      if (ts) return Fault::nm();
      return gate == VectorGate::kSseMmx ? pending_x87(state.fpu) : MaybeFault{};
    case VectorGate::kAvx: return check_vex(state, xcr0::SSE | xcr0::AVX);
    case VectorGate::kAvx512: return check_vex(state, xcr0::SSE | xcr0::AVX | xcr0::kAvx512);
    case VectorGate::kXsave:
      if ((state.cr4 & cr4::OSXSAVE) == 0) return Fault::ud();
      if (ts) return Fault::nm();
      return {};
    case VectorGate::kXcr:
      if ((state.cr4 & cr4::OSXSAVE) == 0) return Fault::ud();
      return {};
    case VectorGate::kPku:
      if ((state.cr4 & cr4::PKE) == 0) return Fault::ud();
      return {};
  }
  return Fault::ud();
}

void zero_upper(cpu::CpuState& state, std::size_t from) {
  const std::size_t count = state.code64() ? 16 : 8;
  for (std::size_t i = 0; i < count; ++i) std::ranges::fill(std::span(state.fpu.zmm[i]).subspan(from), u8{0});
}

MaybeFault access_mxcsr(const VectorOp& op, u64 offset, cpu::CpuState& state, cpu::Mmu& mmu, u32 mask) {
  std::array<u8, 4> bytes{};
  if (op.memory.write) {
    std::memcpy(bytes.data(), &state.fpu.mxcsr, sizeof state.fpu.mxcsr);
    return write_operand(op, offset, state, mmu, bytes);
  }
  if (MaybeFault fault = read_operand(op, offset, state, mmu, bytes)) return fault;
  u32 value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  if ((value & ~mask) != 0) return Fault::gp();
  state.fpu.mxcsr = value;
  return {};
}

/// RDPKRU and WRPKRU (SDM 2B and 2D).
MaybeFault access_pkru(const VectorOp& op, cpu::CpuState& state, cpu::Mmu& mmu) {
  if (static_cast<u32>(state.gpr[x86::kRcx]) != 0) return Fault::gp();
  if (op.mnemonic == ZYDIS_MNEMONIC_RDPKRU) {
    state.gpr[x86::kRax] = state.fpu.pkru;
    state.gpr[x86::kRdx] = 0;
    return {};
  }
  if (static_cast<u32>(state.gpr[x86::kRdx]) != 0) return Fault::gp();
  state.fpu.pkru = static_cast<u32>(state.gpr[x86::kRax]);
  mmu.flush();
  return {};
}

MaybeFault store_plain(const VectorOp& op, u64 offset, const cpu::CpuState& state, cpu::Mmu& mmu) {
  if (!op.plain_general) return write_operand(op, offset, state, mmu, state.fpu.zmm[op.plain_register]);
  std::array<u8, 8> bytes{};
  std::memcpy(bytes.data(), &state.gpr[op.plain_register], sizeof bytes);
  return write_operand(op, offset, state, mmu, bytes);
}

MaybeFault load_plain(const VectorOp& op, u64 offset, cpu::CpuState& state, cpu::Mmu& mmu) {
  alignas(64) std::array<u8, 64> bytes;
  if (MaybeFault fault = read_operand(op, offset, state, mmu, bytes)) return fault;
  auto& reg = state.fpu.zmm[op.plain_register];
  std::copy_n(bytes.begin(), op.memory.size, reg.begin());
  if (op.plain_zeroes) std::fill(reg.begin() + op.memory.size, reg.end(), u8{0});
  return {};
}

MaybeFault store_bytes(const VectorOp& op, const x86::Insn& insn, cpu::CpuState& state, cpu::Mmu& mmu) {
  const u64 offset = truncate(state.gpr[x86::kRdi], insn.address_size);
  cpu::FpuState& fpu = state.fpu;
  if (op.mnemonic != ZYDIS_MNEMONIC_MASKMOVQ)
    return write_masked_bytes(op.memory, offset, std::span(fpu.zmm[op.gather.data]).first(16),
                              std::span(fpu.zmm[op.gather.mask]).first(16), state, mmu);
  enter_mmx(fpu);  // even if the store faults, as processors have it
  return write_masked_bytes(op.memory, offset, std::span(fpu.st[op.gather.data]).first(8),
                            std::span(fpu.st[op.gather.mask]).first(8), state, mmu);
}

/// The offset without the index, which is a vector.
u64 vsib_base(const x86::Insn& insn, const cpu::CpuState& state, u64 next_rip) {
  x86::Insn flat = insn;
  flat.mem.index = x86::MemoryOperand::kNoRegister;
  return effective_offset(flat, state, next_rip);
}

}  // namespace

VectorUnit::VectorUnit(const cpu::VcpuContext& context) : model_(context.model), arena_(make_arena()) {
  install_stub_signal_handlers();
}

VectorUnit::~VectorUnit() = default;

bool VectorUnit::handles(const x86::Insn& insn) {
  switch (insn.mnemonic) {
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_POPCNT: return false;
    case ZYDIS_MNEMONIC_FCOMI:
    case ZYDIS_MNEMONIC_FCOMIP:
    case ZYDIS_MNEMONIC_FUCOMI:
    case ZYDIS_MNEMONIC_FUCOMIP: return true;
    default: break;
  }
  const ZydisISASet isa = insn.isa_set;
  if (isa >= ZYDIS_ISA_SET_AVX && isa <= ZYDIS_ISA_SET_AVX_VNNI) return true;
  switch (isa) {
    case ZYDIS_ISA_SET_X87:
    case ZYDIS_ISA_SET_FCMOV:
    case ZYDIS_ISA_SET_PENTIUMMMX:
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX:
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSE3X87:
    case ZYDIS_ISA_SET_SSE4:
    case ZYDIS_ISA_SET_SSE42:
    case ZYDIS_ISA_SET_SSE4A:
    case ZYDIS_ISA_SET_SSEMXCSR:
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX:
    case ZYDIS_ISA_SET_AES:
    case ZYDIS_ISA_SET_PCLMULQDQ:
    case ZYDIS_ISA_SET_SHA:
    case ZYDIS_ISA_SET_GFNI:
    case ZYDIS_ISA_SET_F16C:
    case ZYDIS_ISA_SET_FMA:
    case ZYDIS_ISA_SET_VAES:
    case ZYDIS_ISA_SET_VPCLMULQDQ:
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
    case ZYDIS_ISA_SET_XSAVE:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVEOPT:
    case ZYDIS_ISA_SET_XSAVES:
    case ZYDIS_ISA_SET_PKU: return true;
    default: return false;
  }
}

VectorOp& VectorUnit::new_slot() {
  if (pool_.size() < kCapacity) {
    VectorOp& op = pool_.emplace_back();
    op.slot = static_cast<u32>(pool_.size() - 1);
    return op;
  }
  VectorOp& op = pool_[oldest_];
  oldest_ = (oldest_ + 1) % kCapacity;
  by_key_.erase(op.key);
  return op;
}

const VectorOp* VectorUnit::prepare(const x86::Insn& insn, x86::CodeSize size) {
  const auto known = by_key_.find(make_key(insn, size));
  if (known != by_key_.end()) return known->second;
  VectorOp fresh;
  if (!prepare_vector_op(insn, size, model_->vendor(), fresh)) return nullptr;
  VectorOp& op = new_slot();
  fresh.slot = op.slot;
  op = fresh;
  by_key_[op.key] = &op;
  return &op;
}

MaybeFault VectorUnit::execute(const VectorOp& held, const x86::Insn& insn, cpu::CpuState& state,
                               cpu::Mmu& mmu, u64 next_rip) {
  const VectorOp* op = &held;
  if (const auto size = code_size(state); held.key != make_key(insn, size)) [[unlikely]] {
    op = prepare(insn, size);
    if (op == nullptr) return Fault::ud();
  }
  if (MaybeFault fault = check_gate(op->gate, state)) return fault;
  const u64 offset = op->memory.present ? effective_offset(insn, state, next_rip) : 0;
  switch (op->kind) {
    case VectorKind::kStub: return run_stub(*op, offset, insn, state, mmu);
    case VectorKind::kStore: return store_plain(*op, offset, state, mmu);
    case VectorKind::kLoad: return load_plain(*op, offset, state, mmu);
    case VectorKind::kGather:
      return gather(*op, vsib_base(insn, state, next_rip), insn.address_size, state, mmu);
    case VectorKind::kScatter:
      return scatter(*op, vsib_base(insn, state, next_rip), insn.address_size, state, mmu);
    case VectorKind::kByteMask: return store_bytes(*op, insn, state, mmu);
    case VectorKind::kZeroUpper: zero_upper(state, 16); return {};
    case VectorKind::kZeroAll: zero_upper(state, 0); return {};
    case VectorKind::kMxcsr: return access_mxcsr(*op, offset, state, mmu, model_->mxcsr_mask());
    case VectorKind::kX87Control: return x87_control(*op, insn, offset, state, mmu, *model_);
    case VectorKind::kXsave: return xsave_family(*op, offset, state, mmu, *model_);
    case VectorKind::kPkru: return access_pkru(*op, state, mmu);
  }
  return Fault::ud();
}

void VectorUnit::load_frame(const StubPlan& plan, const cpu::CpuState& state) {
  if (plan.gprs_in != 0) {
    frame_.gpr[0] = state.gpr[plan.explicit_gpr == VectorOp::kNoRegister ? u8{x86::kRax} : plan.explicit_gpr];
    frame_.gpr[1] = state.gpr[x86::kRcx];
    frame_.gpr[2] = state.gpr[x86::kRdx];
  }
  if (plan.mxcsr) frame_.mxcsr = state.fpu.mxcsr & model_->mxcsr_mask();
  if (plan.flags_in) frame_.rflags = (state.rflags & x86::rflags::kArithmetic) | x86::rflags::kFixed1;
  if (!plan.x87) return;
  FxImage& fx = frame_.fx;
  fx.fcw = state.fpu.fcw;
  fx.fsw = state.fpu.fsw;
  fx.ftw = state.fpu.ftw;
  fx.mxcsr = frame_.host_mxcsr;
  fx.st = state.fpu.st;
}

MaybeFault VectorUnit::run_stub(const VectorOp& op, u64 offset, const x86::Insn& insn, cpu::CpuState& state,
                                cpu::Mmu& mmu) {
  if (op.memory.read) {
    if (MaybeFault fault = read_operand(op, offset, state, mmu, frame_.memory)) return fault;
  }
  if (op.code.entry == nullptr) [[unlikely]]
    pool_[op.slot].code = arena_.emit(op.slot, op.plan);
  load_frame(op.plan, state);
  switch (arena_.run(op.code, state.fpu, frame_)) {
    case StubExit::kDone: break;
    case StubExit::kUndefined: return Fault::ud();
    case StubExit::kFloatingPoint:
      if (!op.plan.mxcsr) return Fault::mf();
      if (op.memory.write && model_->vendor() == x86::Vendor::kAmd) {
        if (MaybeFault fault = probe_operand(op, offset, state, mmu)) return fault;
      }
      state.fpu.mxcsr = frame_.mxcsr;
      if (op.plan.mmx) enter_mmx(state.fpu);  // the transition comes before the operation
      return (state.cr4 & cr4::OSXMMEXCPT) != 0 ? Fault::xm() : Fault::ud();
  }
  if (op.plan.mxcsr)
    state.fpu.mxcsr = frame_.mxcsr;  // also if the store faults: flags come with the operation
  // An x87 store that raised an unmasked exception other than #P stored nothing (SDM 1, 8.5).
  const bool stored = !op.plan.x87 || (frame_.fx.fsw & ~frame_.fx.fcw & kX87NoStore) == 0;
  // AMD's processors look whether it could have been stored first.
  if (op.memory.write && !stored && model_->vendor() == x86::Vendor::kAmd) {
    if (MaybeFault fault = probe_operand(op, offset, state, mmu)) return fault;
  }
  if (op.memory.write && stored) {
    if (MaybeFault fault = write_operand(op, offset, state, mmu, frame_.memory)) {
      // As Intel's processors have it: only the tags come later.
      if (op.plan.mmx && model_->vendor() == x86::Vendor::kIntel) set_top(state.fpu, 0);
      return fault;
    }
  }
  store_frame(op, offset, insn, state);
  return {};
}

void VectorUnit::store_frame(const VectorOp& op, u64 offset, const x86::Insn& insn, cpu::CpuState& state) {
  const StubPlan& plan = op.plan;
  if ((plan.gprs_out & 1) != 0)
    state.gpr[plan.explicit_gpr == VectorOp::kNoRegister ? u8{x86::kRax} : plan.explicit_gpr] = frame_.gpr[0];
  if ((plan.gprs_out & 2) != 0) state.gpr[x86::kRcx] = frame_.gpr[1];
  if ((plan.gprs_out & 4) != 0) state.gpr[x86::kRdx] = frame_.gpr[2];
  if (plan.flags_out) {
    constexpr u64 kFlags = x86::rflags::kArithmetic;
    state.rflags = (state.rflags & ~kFlags) | (frame_.rflags & kFlags);
  }
  if (plan.x87) store_x87(op, offset, insn, state);
}

void VectorUnit::store_x87(const VectorOp& op, u64 offset, const x86::Insn& insn, cpu::CpuState& state) {
  cpu::FpuState& fpu = state.fpu;
  const FxImage& fx = frame_.fx;
  fpu.fsw = fx.fsw;
  fpu.ftw = fx.ftw;
  fpu.st = fx.st;
  if (op.plan.mmx || op.plan.control) return;
  const cpu::X87PointerRules rules = cpu::x87_pointer_rules(*model_);
  const bool raised = (fpu.fsw & cpu::kX87ErrorSummary) != 0;
  set_instruction_pointer(state, rules.selectors);
  if (raised || !rules.opcode_raised)
    fpu.fop = static_cast<u16>((insn.bytes[op.plan.opcode_offset] & 7) << 8 | insn.modrm);
  if (op.memory.present && (raised || !rules.data_raised))
    set_data_pointer(state, op.memory.segment, offset, rules.selectors);
}

}  // namespace vert::interp

// Core: what an instruction function works on. One for each vCPU, on its thread.
//
// It joins the vCPU's canonical state with its memory, and gives instruction functions their operands. All
// accesses to the guest's memory go through segmentation (here) and paging (cpu::Mmu).
#pragma once

#include <string>
#include <utility>

#include "cpu/engine.hpp"
#include "cpu/mmu.hpp"
#include "cpu/protection.hpp"
#include "engine/interp/effective_address.hpp"
#include "x86/insn.hpp"
#include "x86/paging.hpp"

namespace vert::interp {

class VectorUnit;
struct VectorOp;
class Core;
struct Op;

/// What became of an instruction.
enum class Outcome : u8 {
  kNext,      // completed
  kEndBlock,  // completed, and something changed that the run loop must look at: mode, mappings, IF, a shadow
  kJump,      // completed, and state.rip is set to where to go on
  kRepeat,    // a string instruction paused between iterations: RIP stays, interrupts may be taken
  kFault,     // raised Core::fault, with the state as the architecture leaves it
};

using Handler = Outcome (*)(Core&, const Op&);

/// A decoded instruction with the function that executes it.
struct Op {
  Handler handler = nullptr;
  const VectorOp* vector = nullptr;
  x86::Insn insn;
};

class Core {
 public:
  explicit Core(const cpu::VcpuContext& vcpu_context, VectorUnit& unit)
      : context(vcpu_context), mmu(vcpu_context), vector_unit(unit) {}

  cpu::VcpuContext context;
  cpu::Mmu mmu;
  VectorUnit& vector_unit;
  x86::Fault fault;
  /// Address of the instruction behind the current one (a value of RIP, cut to the code size).
  u64 next_rip = 0;
  /// A debug trap may follow the current instruction, so string instructions do one iteration at a time.
  bool single_step = false;

  [[nodiscard]] cpu::CpuState& state() const { return *state_; }
  void attach(cpu::CpuState& state) {
    state_ = &state;
    mmu.attach(state);
    mode_changed();
    breakpoints_changed();
  }

  /// To be called after each change of CS, SS, CR0, CR4, EFER, CPL or EFLAGS.AC/VM.
  void mode_changed();
  /// To be called after each change of DR0..DR3 and DR7.
  void breakpoints_changed();
  /// Some breakpoint is enabled in DR7.
  bool has_breakpoints = false;
  /// Notes I/O breakpoints that an access to ports hits (SDM 3B, 17.2.4).
  void note_port_access(u16 port, unsigned size);
  /// The data and I/O breakpoints hit since the last call, as DR6 has them.
  [[nodiscard]] u32 take_breakpoint_hits() { return mmu.take_watch_hits() | std::exchange(port_hits_, 0); }

  [[nodiscard]] x86::CodeSize code_size() const { return code_size_; }
  [[nodiscard]] bool is_amd() const { return context.model->vendor() == x86::Vendor::kAmd; }
  [[nodiscard]] bool code64() const { return code_size_ == x86::CodeSize::k64; }

  Outcome raise(const x86::Fault& raised) {
    fault = raised;
    return Outcome::kFault;
  }
  Outcome raise(const cpu::MaybeFault& raised, Outcome otherwise) {
    return raised ? raise(*raised) : otherwise;
  }

  // Registers.

  template <typename T>
  [[nodiscard]] T gpr(u8 reg) const {
    return static_cast<T>(state_->gpr[reg]);
  }
  /// 32-bit writes clear the upper half, narrower ones keep the rest (SDM 1, 3.4.1.1).
  template <typename T>
  void set_gpr(u8 reg, T value) {
    if constexpr (sizeof(T) >= 4)
      state_->gpr[reg] = value;
    else
      state_->gpr[reg] = (state_->gpr[reg] & ~u64{static_cast<T>(-1)}) | value;
  }
  void set_gpr_sized(u8 reg, u64 value, unsigned size);

  [[nodiscard]] bool flag(u64 bit) const { return (state_->rflags & bit) != 0; }
  void set_flags(u64 mask, u64 value) { state_->rflags = (state_->rflags & ~mask) | (value & mask); }

  // Operands: false with `fault` set.

  template <typename T>
  [[nodiscard]] bool load(const Op& op, unsigned index, T& value) {
    const x86::Operand& operand = op.insn.operands[index];
    switch (operand.kind) {
      case x86::OperandKind::kGpr: value = gpr<T>(operand.reg); return true;
      case x86::OperandKind::kImmediate: value = static_cast<T>(op.insn.imm); return true;
      case x86::OperandKind::kMemory: return load_memory(op, value);
      default: value = static_cast<T>(state_->gpr[operand.reg] >> 8); return true;  // AH..BH
    }
  }
  template <typename T>
  [[nodiscard]] bool store(const Op& op, unsigned index, T value) {
    const x86::Operand& operand = op.insn.operands[index];
    if (operand.kind == x86::OperandKind::kMemory) return store_memory(op, value);
    store_register(operand, value);
    return true;
  }
  template <typename T>
  void store_register(const x86::Operand& operand, T value) {
    if (operand.kind == x86::OperandKind::kGprHigh) [[unlikely]]
      state_->gpr[operand.reg] =
          (state_->gpr[operand.reg] & ~u64{0xFF00}) | (u64{static_cast<u8>(value)} << 8);
    else
      set_gpr<T>(operand.reg, value);
  }
  /// The operand at its own size, zero- or sign-extended to 64 bits.
  [[nodiscard]] bool load_zero_extended(const Op& op, unsigned index, u64& value);
  [[nodiscard]] bool load_sign_extended(const Op& op, unsigned index, u64& value);
  [[nodiscard]] bool store_sized(const Op& op, unsigned index, u64 value, unsigned size);

  /// Reads an operand, hands it to `change(old) -> new`, and writes the result back, atomically under LOCK.
  /// `change` may run several times and must not touch `state` but through its captures; flags are to be
  /// written after this returned true.
  template <typename T, typename Change>
  [[nodiscard]] bool modify(const Op& op, unsigned index, Change&& change) {
    const x86::Operand& operand = op.insn.operands[index];
    if (operand.kind != x86::OperandKind::kMemory) {
      T old;
      if (!load(op, index, old)) return false;
      store_register(operand, change(old));
      return true;
    }
    cpu::Mmu& m = mmu;
    Gla address;
    if (!operand_address(op, sizeof(T), cpu::AccessKind::kWrite, address)) return false;
    return modify_at<T>(address, op.insn.lock, change) || failed(m.fault());
  }
  template <typename T, typename Change>
  [[nodiscard]] bool modify_at(Gla address, bool locked, Change&& change);

  // Memory.

  /// Linear address of the memory operand for `size` bytes, segment-checked.
  [[nodiscard]] bool operand_address(const Op& op, u64 size, cpu::AccessKind kind, Gla& address) {
    return address_in(static_cast<x86::SegmentRegister>(op.insn.mem.segment),
                      effective_offset(op.insn, *state_, next_rip), size, kind, address);
  }
  /// Linear address of seg:offset for `size` bytes, segment-checked and, where in force, alignment-checked.
  [[nodiscard]] bool address_in(x86::SegmentRegister seg, u64 offset, u64 size, cpu::AccessKind kind,
                                Gla& address) {
    if (code64() && !check_alignment_) [[likely]] {
      if (seg >= x86::kFs) offset += state_->segment[seg].base;
      if (x86::is_canonical(offset, 48) && x86::is_canonical(offset + size - 1, 48)) [[likely]] {
        address = Gla(offset);
        return true;
      }
      if (seg >= x86::kFs) offset -= state_->segment[seg].base;
    }
    return slow_address_in(seg, offset, size, kind, address);
  }
  template <typename T>
  [[nodiscard]] bool read_segment(x86::SegmentRegister seg, u64 offset, T& value) {
    Gla address;
    if (!address_in(seg, offset, sizeof(T), cpu::AccessKind::kRead, address)) return false;
    return mmu.read(address, value) || failed(mmu.fault());
  }
  template <typename T>
  [[nodiscard]] bool write_segment(x86::SegmentRegister seg, u64 offset, T value) {
    Gla address;
    if (!address_in(seg, offset, sizeof(T), cpu::AccessKind::kWrite, address)) return false;
    return mmu.write(address, value) || failed(mmu.fault());
  }
  template <typename T>
  [[nodiscard]] bool load_memory(const Op& op, T& value) {
    Gla address;
    if (!operand_address(op, sizeof(T), cpu::AccessKind::kRead, address)) return false;
    return mmu.read(address, value) || failed(mmu.fault());
  }
  template <typename T>
  [[nodiscard]] bool store_memory(const Op& op, T value) {
    Gla address;
    if (!operand_address(op, sizeof(T), cpu::AccessKind::kWrite, address)) return false;
    return mmu.write(address, value) || failed(mmu.fault());
  }

  // The stack, at the width in force (SDM 1, 6.2.3). RSP changes only when the access succeeded.

  [[nodiscard]] u64 stack_pointer() const { return state_->gpr[x86::kRsp] & stack_mask_; }
  /// RSP moved by `bytes`, at the stack's width: narrower stacks keep RSP's upper bits.
  [[nodiscard]] u64 moved_stack(u64 bytes) const {
    return (state_->gpr[x86::kRsp] & ~stack_mask_) | ((state_->gpr[x86::kRsp] + bytes) & stack_mask_);
  }
  [[nodiscard]] u64 stack_mask() const { return stack_mask_; }
  template <typename T>
  [[nodiscard]] bool push(T value) {
    const u64 rsp = moved_stack(~u64{sizeof(T)} + 1);
    if (!write_segment<T>(x86::kSs, rsp & stack_mask_, value)) return false;
    state_->gpr[x86::kRsp] = rsp;
    return true;
  }
  /// Reads the top of the stack; the caller drops it with drop() once nothing can fail any more.
  template <typename T>
  [[nodiscard]] bool top(T& value, u64 offset = 0) {
    return read_segment<T>(x86::kSs, (stack_pointer() + offset) & stack_mask_, value);
  }
  void drop(u64 bytes) { state_->gpr[x86::kRsp] = moved_stack(bytes); }
  [[nodiscard]] bool push_sized(u64 value, unsigned size);
  [[nodiscard]] bool top_sized(u64& value, unsigned size);

  /// Goes to a near target: cut to the operand size, checked against the code segment's limit or for being
  /// canonical. Outcome::kFault with #GP(0) if it may not.
  [[nodiscard]] Outcome jump(u64 target, unsigned operand_size);
  [[nodiscard]] bool valid_target(u64 target) const;

  [[nodiscard]] bool failed(const x86::Fault& raised) {
    fault = raised;
    return false;
  }

 private:
  [[nodiscard]] bool slow_address_in(x86::SegmentRegister seg, u64 offset, u64 size, cpu::AccessKind kind,
                                     Gla& address);

  cpu::CpuState* state_ = nullptr;
  u32 port_hits_ = 0;
  x86::CodeSize code_size_ = x86::CodeSize::k16;
  bool check_alignment_ = false;
  u64 stack_mask_ = 0xFFFF;
};

/// One host compare-and-exchange, of 1, 2, 4 or 8 bytes at any alignment.
template <typename T>
[[nodiscard]] inline bool host_compare_exchange(u8* host, T& expected, T desired) {
  bool done;
  // SAFETY: `host` comes from Mmu::prepare_rmw, which vouches for sizeof(T) bytes of guest RAM. Written in
  // assembly because the language's atomics want alignment, and the guest's need none.
  asm volatile("lock cmpxchg %[desired], %[memory]"
               : [memory] "+m"(*reinterpret_cast<T*>(host)), "+a"(expected), "=@ccz"(done)
               : [desired] "q"(desired)
               : "memory", "cc");
  return done;
}

template <typename T, typename Change>
bool Core::modify_at(Gla address, bool locked, Change&& change) {
  u8* host = nullptr;
  if (!mmu.prepare_rmw(address, sizeof(T), host)) return false;
  T old;
  if (host == nullptr) {
    std::unique_lock<std::mutex> lock;
    if (locked) lock = std::unique_lock(cpu::split_lock_mutex());
    return mmu.read(address, old) && mmu.write(address, static_cast<T>(change(old)));
  }
  std::memcpy(&old, host, sizeof(T));
  if (locked) {
    while (!host_compare_exchange<T>(host, old, change(old))) {
    }
  } else {
    const T desired = change(old);
    std::memcpy(host, &desired, sizeof(T));
  }
  mmu.written(host, sizeof(T));
  return true;
}

}  // namespace vert::interp

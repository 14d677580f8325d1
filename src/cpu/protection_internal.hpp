// What segmentation.cpp, far_transfer.cpp, delivery.cpp and task_switch.cpp share: descriptor reads, checks
// of selectors, and stacks that are pushed to and popped from before anything is committed.
//
// On the vCPU's thread. Nothing here changes CpuState but what commit_* and set_* say; memory is changed only
// by pushes and by descriptors' accessed and busy bits.
#pragma once

#include <span>

#include "cpu/protection.hpp"
#include "x86/paging.hpp"

namespace vert::cpu::internal {

/// What every step of a transfer works on.
struct Cpu {
  CpuState& state;
  Mmu& mmu;
  /// The EXT bit of the error codes of faults met on the way (SDM 3A, 6.13).
  u32 ext = 0;
};

inline constexpr u32 kErrorExt = 1;
inline constexpr u32 kErrorIdt = 2;

[[nodiscard]] constexpr bool is_null(u16 selector) { return (selector & 0xFFFC) == 0; }
[[nodiscard]] constexpr u8 rpl_of(u16 selector) { return selector & 3; }
[[nodiscard]] constexpr bool in_ldt(u16 selector) { return (selector & 4) != 0; }

/// A fault that names a selector: index, TI and EXT.
[[nodiscard]] inline x86::Fault selector_fault(const Cpu& cpu, x86::Vector vector, u16 selector) {
  return {vector, true, (selector & 0xFFFCU) | cpu.ext, 0};
}

/// Implicit accesses to descriptor tables and TSSs count as supervisor's, whatever CPL (SDM 3A, 4.6.1).
[[nodiscard]] Privilege system_privilege(const CpuState& state);
template <typename T>
[[nodiscard]] MaybeFault read_system(const Cpu& cpu, Gla address, T& value) {
  if (!cpu.mmu.read_as(system_privilege(cpu.state), address, value)) return cpu.mmu.fault();
  return std::nullopt;
}
template <typename T>
[[nodiscard]] MaybeFault write_system(const Cpu& cpu, Gla address, T value) {
  if (!cpu.mmu.write_as(system_privilege(cpu.state), address, value)) return cpu.mmu.fault();
  return std::nullopt;
}
/// base + offset; outside long mode linear addresses have 32 bits.
[[nodiscard]] Gla system_address(const CpuState& state, u64 base, u64 offset);

/// A descriptor and where it lies.
struct Entry {
  u16 selector = 0;
  x86::Descriptor descriptor;
  u64 high = 0;  // second quadword, if read_high() was called
  Gla address;

  [[nodiscard]] bool writable_data() const {
    return (descriptor.attributes() & (x86::Segment::kS | x86::Segment::kCode | x86::Segment::kWritable)) ==
           (x86::Segment::kS | x86::Segment::kWritable);
  }
  [[nodiscard]] bool conforming() const { return (descriptor.attributes() & x86::Segment::kConforming) != 0; }
  [[nodiscard]] bool long_code() const { return (descriptor.attributes() & x86::Segment::kL) != 0; }
  [[nodiscard]] bool big() const { return (descriptor.attributes() & x86::Segment::kDb) != 0; }
  [[nodiscard]] u64 wide_base() const { return descriptor.base() | (high << 32); }
  [[nodiscard]] u64 wide_gate_offset() const { return descriptor.gate_offset() | (high << 32); }
};

/// True if the selector's descriptor lies inside its table; `address` is where.
[[nodiscard]] bool locate_descriptor(const CpuState& state, u16 selector, Gla& address);
/// Reads the selector's descriptor; `vector`(selector) if it lies outside its table. Null is the caller's.
[[nodiscard]] MaybeFault read_entry(const Cpu& cpu, u16 selector, x86::Vector vector, Entry& entry);
/// Reads the second half of a 16-byte descriptor of long mode; #GP(selector) if it is beyond the table or its
/// type bits are not 0 (SDM 3A, 5.8.3.1).
[[nodiscard]] MaybeFault read_high(const Cpu& cpu, Entry& entry);
/// The loaded form of a code or data descriptor, with its accessed bit set in memory too.
[[nodiscard]] MaybeFault to_segment(const Cpu& cpu, const Entry& entry, u16 selector, x86::Segment& segment);

/// Writes the type byte of a TSS descriptor, busy or available.
[[nodiscard]] MaybeFault set_busy(const Cpu& cpu, const Entry& entry, bool busy);

// Descriptor checks. `vector` is what a bad selector or type raises: #GP, or #TS from a TSS.

/// SS for `cpl`: writable data with RPL and DPL equal to it; #SS(selector) if not present. Not null.
[[nodiscard]] MaybeFault read_stack_entry(const Cpu& cpu, u16 selector, u8 cpl, x86::Vector vector,
                                          Entry& entry);
/// DS, ES, FS, GS: data or readable code open to `cpl` and RPL; #NP(selector) if not present. Not null.
[[nodiscard]] MaybeFault read_data_entry(const Cpu& cpu, u16 selector, u8 cpl, x86::Vector vector,
                                         Entry& entry);
/// CS as returns and task switches take it: its RPL becomes CPL, and is at least `least_rpl`. Null included.
[[nodiscard]] MaybeFault read_return_code(const Cpu& cpu, u16 selector, u8 least_rpl, x86::Vector vector,
                                          Entry& entry);
/// A target inside the code segment (or canonical, if that is 64-bit), else #GP(EXT).
[[nodiscard]] MaybeFault check_target(const Cpu& cpu, const x86::Segment& code, u64 rip);

/// A segment register that holds a null selector.
[[nodiscard]] x86::Segment null_segment(u16 selector);
/// SS as 64-bit mode takes null: its DPL is CPL.
[[nodiscard]] x86::Segment null_stack_segment(u8 cpl);
/// As virtual-8086 mode loads it: 64 KiB, writable, DPL 3 (SDM 3B, 20.2).
[[nodiscard]] x86::Segment v86_segment(u16 selector);
/// As real or virtual-8086 mode loads it; real mode keeps limit and attributes.
[[nodiscard]] x86::Segment real_segment(const CpuState& state, x86::SegmentRegister reg, u16 selector);
/// SS:(E)SP or RSP of an inner level, from the TSS: #TS for whatever is wrong with them (SDM 2A, CALL).
/// In long mode `ss` is null. `pointer` is not yet aligned.
[[nodiscard]] MaybeFault inner_stack(const Cpu& cpu, u8 cpl, x86::Segment& ss, u64& pointer);

/// An RSP of the 64-bit TSS: #TS(TR) beyond its limit, #SS(EXT) if not canonical.
[[nodiscard]] MaybeFault read_tss_rsp(const Cpu& cpu, u64 offset, u64& pointer);
/// [offset, offset + size) lies within the segment's limit; size is not 0.
[[nodiscard]] bool in_limit(const x86::Segment& segment, u64 offset, u64 size);

[[nodiscard]] constexpr u64 truncate(u64 value, unsigned size) {
  return size == 8 ? value : value & ((u64{1} << (size * 8)) - 1);
}
/// Stack-pointer width once these are loaded.
[[nodiscard]] unsigned stack_width(const CpuState& state, const x86::Segment& code, const x86::Segment& ss);

/// A stack seen through copies of SS and the stack pointer, so that a fault leaves both as they were.
class Stack {
 public:
  /// The one in force.
  explicit Stack(const Cpu& cpu);
  /// One about to be switched to: `error_code` is that of its #SS.
  Stack(const Cpu& cpu, const x86::Segment& ss, u64 pointer, unsigned width, u8 cpl, u32 error_code);

  /// That `count` pushes of `size` bytes lie within limits: #SS. Pages are not looked at.
  [[nodiscard]] MaybeFault check_room(unsigned count, unsigned size) const;
  [[nodiscard]] MaybeFault push(u64 value, unsigned size);
  /// Pushes all; the first one ends up at the highest address.
  [[nodiscard]] MaybeFault push_all(std::span<const u64> values, unsigned size);
  [[nodiscard]] MaybeFault pop(unsigned size, u64& value);
  /// What lies `above` bytes above the top, which stays.
  [[nodiscard]] MaybeFault peek(u64 above, unsigned size, u64& value) const;
  [[nodiscard]] MaybeFault peek_selector(u64 above, u16& selector) const;
  void skip(u64 bytes) { pointer_ = truncate(pointer_ + bytes, width_); }
  [[nodiscard]] u64 pointer() const { return pointer_; }
  [[nodiscard]] unsigned width() const { return width_; }

 private:
  [[nodiscard]] MaybeFault locate(u64 offset, unsigned size, Gla& address) const;
  [[nodiscard]] MaybeFault check_alignment(Gla address, unsigned size) const;

  Cpu cpu_;
  x86::Segment ss_;
  u64 pointer_;
  unsigned width_;
  Privilege privilege_;
  bool checks_alignment_;
  u32 error_code_;
};

/// Writes the low `width` bytes of the stack pointer as hardware does: 4 zero-extends, 2 keeps the rest.
void set_stack_pointer(CpuState& state, u64 pointer, unsigned width);
/// CS, RIP and CPL, and what follows from them.
void commit_code(const Cpu& cpu, const x86::Segment& code, u64 rip, u8 cpl);

// Task switches (task_switch.cpp).

enum class TaskSwitch : u8 {
  kJump,
  kNested,  // CALL, interrupts and exceptions: links back, sets NT
  kReturn,  // IRET with NT
};

/// Reads the descriptor of the TSS to switch to: `vector`(selector) unless it is a TSS in the GDT, busy for
/// kReturn and else available; #NP(selector).
[[nodiscard]] MaybeFault read_task(const Cpu& cpu, TaskSwitch kind, u16 selector, x86::Vector vector,
                                   Entry& entry);
/// `flags` and `return_rip` go to the old TSS; `error_code` onto the new task's stack. After the point of no
/// return a fault is the new task's (SDM 3A, 7.3), the debug trap of its T bit among them.
[[nodiscard]] MaybeFault switch_task(const Cpu& cpu, TaskSwitch kind, const Entry& entry, u64 return_rip,
                                     u64 flags, std::optional<u32> error_code);

}  // namespace vert::cpu::internal

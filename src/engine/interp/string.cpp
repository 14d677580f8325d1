// String instructions and port I/O (SDM 2A/2B: MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS, REP; IN, OUT).
//
// REP runs in slices, so that interrupts are taken within a bounded time: a slice ends with Outcome::kRepeat
// and registers that say how far it came. A fault leaves the registers after the last completed iteration.
#include <algorithm>
#include <cstring>

#include "engine/interp/flags.hpp"
#include "engine/interp/handlers.hpp"
#include "engine/interp/port_io.hpp"

namespace vert::interp {

namespace {

using namespace x86;

/// Iterations of one slice; bulk copies count a page as one.
constexpr unsigned kSliceIterations = 256;
constexpr unsigned kSlicePages = 16;

/// The registers of a string instruction, at the address size, and their advance.
class StringRegisters {
 public:
  StringRegisters(Core& core, const Op& op, unsigned element_size)
      : core_(core),
        size_(op.insn.address_size),
        step_(core.flag(rflags::DF) ? ~u64{element_size} + 1 : element_size) {}

  [[nodiscard]] u64 source() const { return truncate(core_.state().gpr[kRsi], size_); }
  [[nodiscard]] u64 destination() const { return truncate(core_.state().gpr[kRdi], size_); }
  [[nodiscard]] u64 count() const { return truncate(core_.state().gpr[kRcx], size_); }
  [[nodiscard]] bool forward() const { return static_cast<i64>(step_) > 0; }
  void advance_source(u64 elements = 1) const { advance(kRsi, elements); }
  void advance_destination(u64 elements = 1) const { advance(kRdi, elements); }
  void consume(u64 elements) const { core_.set_gpr_sized(kRcx, count() - elements, size_); }
  /// Elements that fit before `offset` wraps at the address size.
  [[nodiscard]] u64 room(u64 offset, unsigned element_size) const {
    return (truncate(~u64{0}, size_) - offset) / element_size;
  }

 private:
  void advance(u8 reg, u64 elements) const {
    core_.set_gpr_sized(reg, core_.state().gpr[reg] + step_ * elements, size_);
  }

  Core& core_;
  const unsigned size_;
  const u64 step_;
};

[[nodiscard]] SegmentRegister source_segment(const Op& op) {
  return static_cast<SegmentRegister>(op.insn.mem.segment);
}

/// Intel's processors cut RCX, and the pointers of MOVS and STOS, to the address size even with a count of 0;
/// AMD's leave them alone.
[[nodiscard]] bool cuts_registers(const Core& core, const Op& op) {
  return op.insn.repeat != Repeat::kNone && !core.is_amd();
}

/// Runs `iterate` (one element, false on a fault) once, or count times under REP. `again` says after each
/// iteration whether REPE or REPNE goes on.
template <typename Iterate, typename Again>
Outcome repeat(Core& core, const Op& op, const StringRegisters& registers, Iterate iterate, Again again) {
  if (op.insn.repeat == Repeat::kNone) return iterate() ? Outcome::kNext : Outcome::kFault;
  if (cuts_registers(core, op) && registers.count() == 0) registers.consume(0);
  const unsigned slice = core.single_step ? 1 : kSliceIterations;
  for (unsigned i = 0; i < slice; ++i) {
    if (registers.count() == 0) return Outcome::kNext;
    if (!iterate()) return Outcome::kFault;
    registers.consume(1);
    if (!again()) return Outcome::kNext;
  }
  return registers.count() == 0 ? Outcome::kNext : Outcome::kRepeat;
}
constexpr auto kAlways = [] { return true; };

/// A run of elements that can be done at once: both ends in one page of RAM each.
struct Bulk {
  u8* destination = nullptr;
  const u8* source = nullptr;
  u64 elements = 0;
};

/// Limits `elements` to those of `at` that lie in its segment and its page, and finds them on the host.
/// False: not to be done in bulk (a fault, MMIO, an odd piece at the page's end); the slow path decides.
template <typename T>
[[nodiscard]] bool bulk_end(Core& core, SegmentRegister seg, u64 offset, cpu::AccessKind kind, u64& elements,
                            u8*& host) {
  Gla linear;
  if (!core.address_in(seg, offset, sizeof(T), kind, linear)) return false;
  elements = std::min(elements, (kPageSize - linear.page_offset()) / sizeof(T));
  if (elements < 2 || !core.address_in(seg, offset, elements * sizeof(T), kind, linear)) return false;
  return core.mmu.host_address(kind, core.mmu.privilege(), linear, host) && host != nullptr;
}

template <typename T>
[[nodiscard]] bool bulk_allowed(const Core& core, const Op& op, const StringRegisters& registers) {
  return op.insn.repeat != Repeat::kNone && registers.forward() && !core.single_step && registers.count() > 1;
}

template <typename T>
Outcome movs(Core& core, const Op& op) {
  const StringRegisters registers(core, op, sizeof(T));
  const SegmentRegister seg = source_segment(op);
  const auto advance = [&](u64 elements) {
    registers.advance_source(elements);
    registers.advance_destination(elements);
  };
  if (cuts_registers(core, op)) advance(0);
  for (unsigned page = 0; page < kSlicePages && bulk_allowed<T>(core, op, registers); ++page) {
    u64 elements = std::min({registers.count(), registers.room(registers.source(), sizeof(T)),
                             registers.room(registers.destination(), sizeof(T))});
    u8* from = nullptr;
    u8* to = nullptr;
    if (!bulk_end<T>(core, seg, registers.source(), cpu::AccessKind::kRead, elements, from) ||
        !bulk_end<T>(core, kEs, registers.destination(), cpu::AccessKind::kWrite, elements, to))
      break;
    // Where the destination runs into the source, each element must see the one before it.
    const u64 bytes = elements * sizeof(T);
    if (to > from && to < from + bytes) break;
    std::memmove(to, from, bytes);
    core.mmu.written(to, bytes);
    advance(elements);
    registers.consume(elements);
  }
  return repeat(
      core, op, registers,
      [&] {
        T value;
        if (!core.read_segment(seg, registers.source(), value) ||
            !core.write_segment(kEs, registers.destination(), value))
          return false;
        advance(1);
        return true;
      },
      kAlways);
}

template <typename T>
Outcome stos(Core& core, const Op& op) {
  const StringRegisters registers(core, op, sizeof(T));
  const T value = core.gpr<T>(kRax);
  if (cuts_registers(core, op)) registers.advance_destination(0);
  for (unsigned page = 0; page < kSlicePages && bulk_allowed<T>(core, op, registers); ++page) {
    u64 elements = std::min(registers.count(), registers.room(registers.destination(), sizeof(T)));
    u8* to = nullptr;
    if (!bulk_end<T>(core, kEs, registers.destination(), cpu::AccessKind::kWrite, elements, to)) break;
    for (u64 i = 0; i < elements; ++i) std::memcpy(to + i * sizeof(T), &value, sizeof(T));
    core.mmu.written(to, elements * sizeof(T));
    registers.advance_destination(elements);
    registers.consume(elements);
  }
  return repeat(
      core, op, registers,
      [&] {
        if (!core.write_segment(kEs, registers.destination(), value)) return false;
        registers.advance_destination();
        return true;
      },
      kAlways);
}

template <typename T>
Outcome lods(Core& core, const Op& op) {
  const StringRegisters registers(core, op, sizeof(T));
  return repeat(
      core, op, registers,
      [&] {
        T value;
        if (!core.read_segment(source_segment(op), registers.source(), value)) return false;
        core.set_gpr<T>(kRax, value);
        registers.advance_source();
        return true;
      },
      kAlways);
}

/// CMPS and SCAS: `compare` does one iteration and gives its flags. REPE goes on while ZF is set, REPNE while
/// it is clear. Flags change only when the instruction ends: a fault, and a pause, leave those from before
/// (SDM 2B, REP).
template <typename Compare>
Outcome repeat_compare(Core& core, const Op& op, const StringRegisters& registers, Compare compare) {
  u64 flags = core.state().rflags;
  const bool want = op.insn.repeat == Repeat::kRep;
  const Outcome outcome = repeat(
      core, op, registers, [&] { return compare(flags); },
      [&] { return ((flags & rflags::ZF) != 0) == want; });
  if (outcome == Outcome::kNext) core.set_flags(rflags::kArithmetic, flags);
  return outcome;
}

template <typename T>
u64 compare_flags(T a, T b) {
  return sub_flags(a, b, static_cast<T>(a - b));
}

// The destination is read first, as the host does it: it decides which fault is met.
template <typename T>
Outcome cmps(Core& core, const Op& op) {
  const StringRegisters registers(core, op, sizeof(T));
  return repeat_compare(core, op, registers, [&](u64& flags) {
    T a;
    T b;
    if (!core.read_segment(kEs, registers.destination(), b) ||
        !core.read_segment(source_segment(op), registers.source(), a))
      return false;
    flags = compare_flags(a, b);
    registers.advance_source();
    registers.advance_destination();
    return true;
  });
}

template <typename T>
Outcome scas(Core& core, const Op& op) {
  const StringRegisters registers(core, op, sizeof(T));
  return repeat_compare(core, op, registers, [&](u64& flags) {
    T b;
    if (!core.read_segment(kEs, registers.destination(), b)) return false;
    flags = compare_flags(core.gpr<T>(kRax), b);
    registers.advance_destination();
    return true;
  });
}

template <typename T>
Outcome ins(Core& core, const Op& op) {
  const StringRegisters registers(core, op, sizeof(T));
  const u16 port = core.gpr<u16>(kRdx);
  if (!check_port_permission(core, port, sizeof(T))) return Outcome::kFault;
  return repeat(
      core, op, registers,
      [&] {
        // The store is checked first: the port must not be read if the value has nowhere to go.
        Gla to;
        if (!core.address_in(kEs, registers.destination(), sizeof(T), cpu::AccessKind::kWrite, to))
          return false;
        if (!core.mmu.probe(cpu::AccessKind::kWrite, core.mmu.privilege(), to, sizeof(T)))
          return core.failed(core.mmu.fault());
        if (!core.write_segment(kEs, registers.destination(),
                                static_cast<T>(port_read(core, port, sizeof(T)))))
          return false;
        registers.advance_destination();
        return true;
      },
      kAlways);
}

template <typename T>
Outcome outs(Core& core, const Op& op) {
  const StringRegisters registers(core, op, sizeof(T));
  const u16 port = core.gpr<u16>(kRdx);
  if (!check_port_permission(core, port, sizeof(T))) return Outcome::kFault;
  return repeat(
      core, op, registers,
      [&] {
        T value;
        if (!core.read_segment(source_segment(op), registers.source(), value)) return false;
        port_write(core, port, sizeof(T), value);
        registers.advance_source();
        return true;
      },
      kAlways);
}

// SDM 2A, IN and OUT: the port is an immediate byte or DX; EAX at the most.
Outcome in(Core& core, const Op& op) {
  const unsigned size = op.insn.operands[0].size;
  u16 port = 0;
  if (!core.load(op, 1, port)) return Outcome::kFault;
  if (op.insn.operands[1].kind == OperandKind::kImmediate) port &= 0xFF;
  if (!check_port_permission(core, port, size)) return Outcome::kFault;
  core.set_gpr_sized(kRax, port_read(core, port, size), size);
  return Outcome::kEndBlock;  // a device may have changed anything
}
Outcome out(Core& core, const Op& op) {
  const unsigned size = op.insn.operands[1].size;
  u16 port = 0;
  if (!core.load(op, 0, port)) return Outcome::kFault;
  if (op.insn.operands[0].kind == OperandKind::kImmediate) port &= 0xFF;
  if (!check_port_permission(core, port, size)) return Outcome::kFault;
  port_write(core, port, size, truncate(core.state().gpr[kRax], size));
  return Outcome::kEndBlock;
}

constexpr std::array kRows = {
    HandlerRow VERT_ANY_SIZE(MOVSB, movs<u8>),  HandlerRow VERT_ANY_SIZE(MOVSW, movs<u16>),
    HandlerRow VERT_ANY_SIZE(MOVSD, movs<u32>), HandlerRow VERT_ANY_SIZE(MOVSQ, movs<u64>),
    HandlerRow VERT_ANY_SIZE(CMPSB, cmps<u8>),  HandlerRow VERT_ANY_SIZE(CMPSW, cmps<u16>),
    HandlerRow VERT_ANY_SIZE(CMPSD, cmps<u32>), HandlerRow VERT_ANY_SIZE(CMPSQ, cmps<u64>),
    HandlerRow VERT_ANY_SIZE(STOSB, stos<u8>),  HandlerRow VERT_ANY_SIZE(STOSW, stos<u16>),
    HandlerRow VERT_ANY_SIZE(STOSD, stos<u32>), HandlerRow VERT_ANY_SIZE(STOSQ, stos<u64>),
    HandlerRow VERT_ANY_SIZE(LODSB, lods<u8>),  HandlerRow VERT_ANY_SIZE(LODSW, lods<u16>),
    HandlerRow VERT_ANY_SIZE(LODSD, lods<u32>), HandlerRow VERT_ANY_SIZE(LODSQ, lods<u64>),
    HandlerRow VERT_ANY_SIZE(SCASB, scas<u8>),  HandlerRow VERT_ANY_SIZE(SCASW, scas<u16>),
    HandlerRow VERT_ANY_SIZE(SCASD, scas<u32>), HandlerRow VERT_ANY_SIZE(SCASQ, scas<u64>),
    HandlerRow VERT_ANY_SIZE(INSB, ins<u8>),    HandlerRow VERT_ANY_SIZE(INSW, ins<u16>),
    HandlerRow VERT_ANY_SIZE(INSD, ins<u32>),   HandlerRow VERT_ANY_SIZE(OUTSB, outs<u8>),
    HandlerRow VERT_ANY_SIZE(OUTSW, outs<u16>), HandlerRow VERT_ANY_SIZE(OUTSD, outs<u32>),
    HandlerRow VERT_ANY_SIZE(IN, in),           HandlerRow VERT_ANY_SIZE(OUT, out),
};

}  // namespace

std::span<const HandlerRow> string_handlers() { return kRows; }

}  // namespace vert::interp

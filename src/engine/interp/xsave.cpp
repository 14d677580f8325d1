#include "engine/interp/xsave.hpp"

#include <algorithm>
#include <bit>
#include <vector>

#include "cpu/x87_pointers.hpp"
#include "engine/interp/vector_memory.hpp"
#include "engine/interp/x87.hpp"

namespace vert::interp {

namespace {

using cpu::AccessKind;
using cpu::FpuState;
using cpu::MaybeFault;
using x86::CpuModel;
using x86::Fault;
using x86::XsaveLayout;
namespace xcr0 = x86::xcr0;

constexpr u32 kInitialMxcsr = 0x1F80;
constexpr u32 kMxcsrOffset = 24;
constexpr u32 kStOffset = 32;
constexpr u32 kXmmOffset = 160;
constexpr u32 kHeaderOffset = XsaveLayout::kHeader;
constexpr u32 kExtendedOffset = XsaveLayout::kExtended;
constexpr u32 kAreaSize = 4096;
constexpr u64 kCompacted = XsaveLayout::kCompacted;
constexpr unsigned kComponents = XsaveLayout::kComponents;

using Bytes = std::span<u8>;
using ConstBytes = std::span<const u8>;

template <typename T>
T get(ConstBytes from, std::size_t at) {
  T value;
  std::memcpy(&value, from.data() + at, sizeof value);
  return value;
}
template <typename T>
void put(Bytes to, std::size_t at, T value) {
  std::memcpy(to.data() + at, &value, sizeof value);
}

bool all_zero(ConstBytes bytes) {
  return std::ranges::all_of(bytes, [](u8 byte) { return byte == 0; });
}

/// Registers that exist in the mode: 16 in 64-bit mode, else 8.
std::size_t visible_registers(const cpu::CpuState& state) { return state.code64() ? 16 : 8; }

/// A slice of vector registers, as a component holds it.
struct Slice {
  std::size_t first_register;
  std::size_t count;
  std::size_t from;  // first byte in the register
  std::size_t size;
};

/// Components made of vector registers (SDM 1, 13.5.2 to 13.5.5).
Slice slice_of(unsigned component, const cpu::CpuState& state) {
  const std::size_t visible = visible_registers(state);
  switch (u64{1} << component) {
    case xcr0::SSE: return {0, visible, 0, 16};
    case xcr0::AVX: return {0, visible, 16, 16};
    case xcr0::ZMM_HI256: return {0, visible, 32, 32};
    case xcr0::HI16_ZMM: return {16, state.code64() ? std::size_t{16} : 0, 0, 64};
    default: return {0, 0, 0, 0};
  }
}

bool is_slice(unsigned component) {
  return ((xcr0::SSE | xcr0::AVX | xcr0::ZMM_HI256 | xcr0::HI16_ZMM) >> component & 1) != 0;
}

bool shows_pointers(const FpuState& fpu, const CpuModel& model) {
  return !cpu::x87_pointer_rules(model).hidden || x87_exception_pending(fpu);
}

bool x87_in_use(const FpuState& fpu, const CpuModel& model) {
  return fpu.fcw != 0x37F || fpu.fsw != 0 || fpu.ftw != 0 ||
         (cpu::has_x87_pointers(fpu) && shows_pointers(fpu, model)) ||
         std::ranges::any_of(fpu.st, [](const auto& st) { return !all_zero(st); });
}

bool component_in_use(unsigned component, const cpu::CpuState& state, const CpuModel& model) {
  const FpuState& fpu = state.fpu;
  if (is_slice(component)) {
    const Slice slice = slice_of(component, state);
    for (std::size_t i = 0; i < slice.count; ++i)
      if (!all_zero(std::span(fpu.zmm[slice.first_register + i]).subspan(slice.from, slice.size)))
        return true;
    return false;
  }
  switch (u64{1} << component) {
    case xcr0::X87: return x87_in_use(fpu, model);
    case xcr0::OPMASK: return std::ranges::any_of(fpu.k, [](u64 k) { return k != 0; });
    case xcr0::PKRU: return fpu.pkru != 0;
    default: return false;
  }
}

void put_x87_header(const FpuState& fpu, bool wide, bool pointers, Bytes legacy) {
  put(legacy, 0, fpu.fcw);
  put(legacy, 2, fpu.fsw);
  put(legacy, 4, u16{fpu.ftw});
  std::ranges::fill(legacy.subspan(6, kMxcsrOffset - 6), u8{0});
  if (!pointers) return;
  put(legacy, 6, fpu.fop);
  put(legacy, 8, fpu.fip);
  put(legacy, 16, fpu.fdp);
  if (wide) return;
  put(legacy, 12, u32{fpu.fcs});
  put(legacy, 20, u32{fpu.fds});
}

void put_st(const FpuState& fpu, Bytes legacy) {
  for (std::size_t i = 0; i < 8; ++i) {
    auto value = fpu.st[i];
    std::fill(value.begin() + 10, value.end(), u8{0});
    std::ranges::copy(value, legacy.begin() + static_cast<std::ptrdiff_t>(kStOffset + i * 16));
  }
}

void put_mxcsr(const FpuState& fpu, u32 mask, Bytes legacy) {
  put(legacy, kMxcsrOffset, fpu.mxcsr);
  put(legacy, kMxcsrOffset + 4, mask);
}

void get_x87(ConstBytes legacy, bool selectors, bool wide, FpuState& fpu) {
  fpu.fcw = normalized_fcw(get<u16>(legacy, 0));
  fpu.fsw = get<u16>(legacy, 2);
  fpu.ftw = legacy[4];
  fpu.fop = get<u16>(legacy, 6) & 0x7FF;
  fpu.fip = wide ? cpu::kept_fip(get<u64>(legacy, 8)) : get<u32>(legacy, 8);
  fpu.fdp = wide ? get<u64>(legacy, 16) : get<u32>(legacy, 16);
  fpu.fcs = wide || !selectors ? u16{0} : get<u16>(legacy, 12);
  fpu.fds = wide || !selectors ? u16{0} : get<u16>(legacy, 20);
  for (std::size_t i = 0; i < 8; ++i) {
    fpu.st[i].fill(0);
    std::copy_n(legacy.begin() + static_cast<std::ptrdiff_t>(kStOffset + i * 16), 10, fpu.st[i].begin());
  }
  update_error_summary(fpu);
}

/// A component's bytes, other than x87's, at `to`.
void put_component(unsigned component, const cpu::CpuState& state, Bytes to) {
  const FpuState& fpu = state.fpu;
  if (is_slice(component)) {
    const Slice slice = slice_of(component, state);
    for (std::size_t i = 0; i < slice.count; ++i)
      std::copy_n(fpu.zmm[slice.first_register + i].begin() + static_cast<std::ptrdiff_t>(slice.from),
                  slice.size, to.begin() + static_cast<std::ptrdiff_t>(i * slice.size));
  } else if (u64{1} << component == xcr0::OPMASK) {
    std::memcpy(to.data(), fpu.k.data(), sizeof fpu.k);
  } else if (u64{1} << component == xcr0::PKRU) {
    put(to, 0, u64{fpu.pkru});
  }
}

void get_component(unsigned component, ConstBytes from, cpu::CpuState& state) {
  FpuState& fpu = state.fpu;
  if (is_slice(component)) {
    const Slice slice = slice_of(component, state);
    for (std::size_t i = 0; i < slice.count; ++i)
      std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(i * slice.size), slice.size,
                  fpu.zmm[slice.first_register + i].begin() + static_cast<std::ptrdiff_t>(slice.from));
  } else if (u64{1} << component == xcr0::OPMASK) {
    std::memcpy(fpu.k.data(), from.data(), sizeof fpu.k);
  } else if (u64{1} << component == xcr0::PKRU) {
    fpu.pkru = get<u32>(from, 0);
  }
}

/// Bytes of a component that the mode writes: registers beyond the visible ones keep theirs.
std::size_t component_bytes(unsigned component, const cpu::CpuState& state) {
  if (!is_slice(component)) return u64{1} << component == xcr0::OPMASK ? 64 : 8;
  const Slice slice = slice_of(component, state);
  return slice.count * slice.size;
}

/// Where each component lies in an area whose XCOMP_BV is `format` (SDM 1, 13.4).
class Layout {
 public:
  Layout(const XsaveLayout& layout, u64 format) : layout_(layout), format_(format) {}

  [[nodiscard]] u32 offset(unsigned component) const {
    if (component < 2 || (format_ & kCompacted) == 0) return layout_[component].offset;
    return layout_.compacted_offset(format_, component);
  }

 private:
  const XsaveLayout& layout_;
  u64 format_;
};

/// The bytes that an instruction writes, gathered first so that no fault leaves half of them.
class PendingWrites {
 public:
  void add(u32 offset, u32 size) { pieces_.push_back({offset, size}); }
  [[nodiscard]] Bytes area() { return area_; }

  /// The fault of the lowest byte that cannot be written.
  [[nodiscard]] MaybeFault probe(const GuestAccess& access, u8 segment, u64 base) {
    std::ranges::sort(pieces_, {}, &Piece::offset);
    for (const Piece& piece : pieces_)
      if (MaybeFault fault = access.probe_write(segment, base + piece.offset, piece.size)) return fault;
    return {};
  }
  [[nodiscard]] MaybeFault commit(const GuestAccess& access, u8 segment, u64 base) {
    if (MaybeFault fault = probe(access, segment, base)) return fault;
    for (const Piece& piece : pieces_)
      if (MaybeFault fault =
              access.write(segment, base + piece.offset, std::span(area_).subspan(piece.offset, piece.size)))
        return fault;
    return {};
  }

 private:
  struct Piece {
    u32 offset;
    u32 size;
  };
  std::vector<Piece> pieces_;
  std::array<u8, kAreaSize> area_{};
};

/// One instruction of the family on its operand.
class XsaveArea {
 public:
  XsaveArea(const VectorOp& op, u64 offset, cpu::CpuState& state, cpu::Mmu& mmu, bool wide,
            const CpuModel& model)
      : access_(state, mmu),
        state_(state),
        mmu_(mmu),
        memory_(op.memory),
        base_(offset),
        wide_(wide),
        model_(model) {}

  [[nodiscard]] MaybeFault fxsave();
  [[nodiscard]] MaybeFault fxrstor();
  /// XSAVE and XSAVEOPT, which leaves out what is in its initial configuration.
  [[nodiscard]] MaybeFault save(u64 requested, bool optimized);
  /// XSAVEC and XSAVES.
  [[nodiscard]] MaybeFault save_compacted(u64 requested);
  /// XRSTOR and XRSTORS; `allowed` is XCR0, or XCR0 | IA32_XSS and then only the compacted format.
  [[nodiscard]] MaybeFault restore(u64 requested, u64 allowed, bool supervisor, bool compaction);

 private:
  [[nodiscard]] MaybeFault check_alignment(u64 size, AccessKind kind) const {
    Gla address;  // #SS comes before #GP for alignment, unlike with vectors
    if (MaybeFault fault = access_.linear(memory_.segment, base_, size, kind, address)) return fault;
    return access_.aligned(memory_, base_, size, kind, address);
  }
  void collect(PendingWrites& writes, unsigned component, const Layout& layout) const;
  [[nodiscard]] MaybeFault check_header(ConstBytes header, u64 allowed, bool supervisor,
                                        bool compaction) const;
  [[nodiscard]] MaybeFault restore_mxcsr(ConstBytes legacy, u64 requested, u64 saved, bool compacted,
                                         FpuState& fpu) const;

  GuestAccess access_;
  cpu::CpuState& state_;
  cpu::Mmu& mmu_;
  const VectorMemory& memory_;
  u64 base_;
  bool wide_;
  const CpuModel& model_;
};

MaybeFault XsaveArea::fxsave() {
  if (MaybeFault fault = check_alignment(512, AccessKind::kWrite)) return fault;
  std::array<u8, 512> image{};
  put_x87_header(state_.fpu, wide_, shows_pointers(state_.fpu, model_), image);
  put_st(state_.fpu, image);
  put_mxcsr(state_.fpu, model_.mxcsr_mask(), image);
  std::size_t size = kXmmOffset;
  if ((state_.cr4 & x86::cr4::OSFXSR) != 0) {
    put_component(1, state_, Bytes(image).subspan(kXmmOffset));
    size += visible_registers(state_) * 16;
  }
  return access_.write(memory_.segment, base_, ConstBytes(image).first(size));
}

MaybeFault XsaveArea::fxrstor() {
  if (MaybeFault fault = check_alignment(512, AccessKind::kRead)) return fault;
  std::array<u8, 512> image{};
  if (MaybeFault fault = access_.read(memory_.segment, base_, image)) return fault;
  if ((state_.cr4 & x86::cr4::OSFXSR) != 0) {
    const u32 mxcsr = get<u32>(image, kMxcsrOffset);
    if ((mxcsr & ~model_.mxcsr_mask()) != 0) return Fault::gp();
    state_.fpu.mxcsr = mxcsr;
    get_component(1, ConstBytes(image).subspan(kXmmOffset), state_);
  }
  get_x87(image, cpu::x87_pointer_rules(model_).selectors, wide_, state_.fpu);
  return {};
}

void XsaveArea::collect(PendingWrites& writes, unsigned component, const Layout& layout) const {
  if (component == 0) {
    put_x87_header(state_.fpu, wide_, shows_pointers(state_.fpu, model_), writes.area());
    put_st(state_.fpu, writes.area());
    writes.add(0, kMxcsrOffset);
    writes.add(kStOffset, kXmmOffset - kStOffset);
    return;
  }
  const auto size = static_cast<u32>(component_bytes(component, state_));
  if (size == 0) return;
  const u32 at = layout.offset(component);
  put_component(component, state_, writes.area().subspan(at));
  writes.add(at, size);
}

MaybeFault XsaveArea::save(u64 requested, bool optimized) {
  if (MaybeFault fault = check_alignment(kExtendedOffset, AccessKind::kWrite)) return fault;
  const u64 used = components_in_use(state_, model_);
  PendingWrites writes;
  const Layout layout(model_.xsave_layout(), 0);
  for (unsigned i = 0; i < kComponents; ++i)
    if ((requested >> i & 1) != 0 && (!optimized || (used >> i & 1) != 0)) collect(writes, i, layout);
  if ((requested & (xcr0::SSE | xcr0::AVX)) != 0) {
    put_mxcsr(state_.fpu, model_.mxcsr_mask(), writes.area());
    writes.add(kMxcsrOffset, 8);
  }
  // XSTATE_BV is modified: a fault on the area is one of writing it.
  writes.add(kHeaderOffset, 8);
  if (MaybeFault fault = writes.probe(access_, memory_.segment, base_)) return fault;
  std::array<u8, 8> old{};
  if (MaybeFault fault = access_.read(memory_.segment, base_ + kHeaderOffset, old)) return fault;
  put(writes.area(), kHeaderOffset, (get<u64>(old, 0) & ~requested) | (used & requested));
  return writes.commit(access_, memory_.segment, base_);
}

MaybeFault XsaveArea::save_compacted(u64 requested) {
  if (MaybeFault fault = check_alignment(kExtendedOffset, AccessKind::kWrite)) return fault;
  u64 used = components_in_use(state_, model_) & requested;
  if (state_.fpu.mxcsr != kInitialMxcsr) used |= requested & xcr0::SSE;
  PendingWrites writes;
  const Layout layout(model_.xsave_layout(), requested | kCompacted);
  for (unsigned i = 0; i < kComponents; ++i)
    if ((used >> i & 1) != 0) collect(writes, i, layout);
  if ((used & xcr0::SSE) != 0) {
    put_mxcsr(state_.fpu, model_.mxcsr_mask(), writes.area());
    writes.add(kMxcsrOffset, 8);
  }
  put(writes.area(), kHeaderOffset, used);
  put(writes.area(), kHeaderOffset + 8, requested | kCompacted);
  writes.add(kHeaderOffset, 16);
  return writes.commit(access_, memory_.segment, base_);
}

/// SDM 1, 13.8.1 and 13.12.
MaybeFault XsaveArea::check_header(ConstBytes header, u64 allowed, bool supervisor, bool compaction) const {
  const u64 saved = get<u64>(header, 0);
  const u64 compacted = get<u64>(header, 8);
  if ((compacted & kCompacted) == 0) {
    if (supervisor || (saved & ~allowed) != 0 || !all_zero(header.subspan(8, 16))) return Fault::gp();
    return {};
  }
  if (!compaction || (compacted & ~(allowed | kCompacted)) != 0 || (saved & ~compacted) != 0 ||
      (saved & kCompacted) != 0 || !all_zero(header.subspan(16)))
    return Fault::gp();
  return {};
}

MaybeFault XsaveArea::restore_mxcsr(ConstBytes legacy, u64 requested, u64 saved, bool compacted,
                                    FpuState& fpu) const {
  const bool load =
      compacted ? (requested & saved & xcr0::SSE) != 0 : (requested & (xcr0::SSE | xcr0::AVX)) != 0;
  if (!load) {
    if ((requested & xcr0::SSE) != 0) fpu.mxcsr = kInitialMxcsr;
    return {};
  }
  const u32 mxcsr = get<u32>(legacy, kMxcsrOffset);
  if ((mxcsr & ~model_.mxcsr_mask()) != 0) return Fault::gp();
  fpu.mxcsr = mxcsr;
  return {};
}

MaybeFault XsaveArea::restore(u64 requested, u64 allowed, bool supervisor, bool compaction) {
  if (MaybeFault fault = check_alignment(kExtendedOffset, AccessKind::kRead)) return fault;
  std::array<u8, kExtendedOffset> legacy{};
  if (MaybeFault fault = access_.read(memory_.segment, base_, legacy)) return fault;
  const auto header = ConstBytes(legacy).subspan(kHeaderOffset);
  if (MaybeFault fault = check_header(header, allowed, supervisor, compaction)) return fault;
  const u64 saved = get<u64>(header, 0);
  const u64 format = get<u64>(header, 8);

  cpu::CpuState after = state_;
  if (MaybeFault fault = restore_mxcsr(legacy, requested, saved, (format & kCompacted) != 0, after.fpu))
    return fault;
  const Layout layout(model_.xsave_layout(), format);
  static constexpr std::array<u8, 1024> kZeroes{};
  for (unsigned i = 0; i < kComponents; ++i) {
    if ((requested >> i & 1) == 0) continue;
    const bool load = (saved >> i & 1) != 0;
    if (i == 0) {
      load ? get_x87(legacy, cpu::x87_pointer_rules(model_).selectors, wide_, after.fpu)
           : x87_init(after.fpu);
      if (!load) after.fpu.st = {};
      continue;
    }
    std::array<u8, 1024> bytes;
    const std::size_t size = component_bytes(i, state_);
    if (load && size != 0) {
      if (MaybeFault fault =
              access_.read(memory_.segment, base_ + layout.offset(i), Bytes(bytes).first(size)))
        return fault;
    }
    get_component(i, load ? ConstBytes(bytes) : ConstBytes(kZeroes), after);
  }
  const bool flush = after.fpu.pkru != state_.fpu.pkru;
  state_.fpu = after.fpu;
  if (flush) mmu_.flush();
  return {};
}

void set_edx_eax(cpu::CpuState& state, u64 value) {
  state.gpr[x86::kRax] = static_cast<u32>(value);
  state.gpr[x86::kRdx] = value >> 32;
}
u64 edx_eax(const cpu::CpuState& state) {
  return state.gpr[x86::kRdx] << 32 | static_cast<u32>(state.gpr[x86::kRax]);
}

MaybeFault xgetbv(cpu::CpuState& state, const CpuModel& model) {
  const auto index = static_cast<u32>(state.gpr[x86::kRcx]);
  if (index > 1 || (index == 1 && !model.has(x86::Feature::XGETBV1))) return Fault::gp();
  set_edx_eax(state, index == 0 ? state.xcr0 : state.xcr0 & components_in_use(state, model));
  return {};
}

MaybeFault xsetbv(cpu::CpuState& state, const CpuModel& model) {
  if (state.cpl != 0 || static_cast<u32>(state.gpr[x86::kRcx]) != 0) return Fault::gp();
  if (!valid_xcr0(edx_eax(state), model.xcr0_allowed())) return Fault::gp();
  state.xcr0 = edx_eax(state);
  return {};
}

bool is_wide(ZydisMnemonic mnemonic) {
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS64: return true;
    default: return false;
  }
}

}  // namespace

u64 components_in_use(const cpu::CpuState& state, const CpuModel& model) {
  u64 used = 0;
  for (unsigned i = 0; i < kComponents; ++i)
    if (component_in_use(i, state, model)) used |= u64{1} << i;
  return used;
}

bool valid_xcr0(u64 value, u64 allowed) {
  if ((value & ~allowed) != 0 || (value & xcr0::X87) == 0) return false;
  if ((value & xcr0::AVX) != 0 && (value & xcr0::SSE) == 0) return false;
  const u64 avx512 = value & xcr0::kAvx512;
  return avx512 == 0 || (avx512 == xcr0::kAvx512 && (value & xcr0::AVX) != 0);
}

MaybeFault xsave_family(const VectorOp& op, u64 offset, cpu::CpuState& state, cpu::Mmu& mmu,
                        const CpuModel& model) {
  XsaveArea area(op, offset, state, mmu, is_wide(op.mnemonic), model);
  const u64 user = edx_eax(state) & state.xcr0;
  const u64 everything = state.xcr0 | state.msr.xss;
  switch (op.mnemonic) {
    case ZYDIS_MNEMONIC_XGETBV: return xgetbv(state, model);
    case ZYDIS_MNEMONIC_XSETBV: return xsetbv(state, model);
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64: return area.fxsave();
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64: return area.fxrstor();
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64: return area.save(user, false);
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64: return area.save(user, true);
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64: return area.save_compacted(user);
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
      return area.restore(user, state.xcr0, false, model.has(x86::Feature::XSAVEC));
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
      if (state.cpl != 0) return Fault::gp();
      return area.save_compacted(edx_eax(state) & everything);
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
      if (state.cpl != 0) return Fault::gp();
      return area.restore(edx_eax(state) & everything, everything, true, true);
    default: return Fault::ud();
  }
}

}  // namespace vert::interp

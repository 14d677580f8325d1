// leaf_state: XSAVE, XRSTOR and their compacted kin (SDM 1, 13.7 to 13.12) with the host's own, on the
// guest's registers where they are.
//
// What is loaded is checked in a copy first, for the host's processor would fault on it, and by the host's
// XCR0.
#include "cpu/x87_pointers.hpp"
#include "engine/bt/emitter_requests.hpp"
#include "engine/bt/leaf_access.hpp"
#include "x86/registers.hpp"

namespace vert::bt {

namespace {

namespace xcr0 = x86::xcr0;

constexpr u64 kHeaderEnd = x86::XsaveLayout::kExtended;
constexpr unsigned kFop = 6, kFip = 8, kFdp = 16, kMxcsr = 24, kMxcsrMask = 28;
constexpr u16 kOpcodeMask = 0x7FF;
constexpr unsigned kXstateBv = 512, kXcompBv = 520, kReserved = 528;
constexpr u64 kCompacted = x86::XsaveLayout::kCompacted;
constexpr unsigned kPkruComponent = 9;

// Sources for general registers only call nothing that may use others.
void copy(void* to, const void* from, u64 size) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}
template <typename T>
T get(const u8* area, u64 at) {
  T value;
  __builtin_memcpy(&value, area + at, sizeof value);
  return value;
}
void put(u8* area, u64 at, u64 value) { __builtin_memcpy(area + at, &value, sizeof value); }
void put16(u8* area, u64 at, u16 value) { __builtin_memcpy(area + at, &value, sizeof value); }
void put32(u8* area, u64 at, u32 value) { __builtin_memcpy(area + at, &value, sizeof value); }

bool has(u64 components, unsigned i) { return (components >> i & 1) != 0; }

/// A stretch of guest memory of at most a page's size.
struct Stretch {
  u8* first = nullptr;
  u8* second = nullptr;  // what lies on the next page
  u64 first_size = 0;
  u64 size = 0;
  [[nodiscard]] bool whole() const { return first_size == size || second == first + first_size; }
};

bool find(Context& context, u64 address, u64 size, bool write, u32 privilege, Stretch& found) {
  const u64 room = kPageSize - (address & kPageOffsetMask);
  found.size = size;
  found.first_size = size < room ? size : room;
  found.first = host_for(context, address, found.first_size, write, privilege);
  if (found.first == nullptr) return false;
  if (found.first_size == size) return true;
  found.second = host_for(context, address + room, size - room, write, privilege);
  // Looking for the second page cannot have moved the first: they have different places in the TLB.
  return found.second != nullptr;
}

void copy_in(const Stretch& from, u8* to) {
  copy(to, from.first, from.first_size);
  if (from.first_size != from.size) copy(to + from.first_size, from.second, from.size - from.first_size);
}
void copy_out(const Stretch& to, const u8* from) {
  copy(to.first, from, to.first_size);
  if (to.first_size != to.size) copy(to.second, from + to.first_size, to.size - to.first_size);
}

u64 in_use_components() {
  u32 low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
  return u64{high} << 32 | low;
}

/// Whether the host's own FIP, FOP or FDP would show: what an x87 instruction in the code cache leaves there.
bool shows_host_pointers(Context& context) {
  u8* area = context.state_buffer.data();
  asm volatile("xsave64 (%0)" : : "r"(area), "a"(1), "d"(0) : "memory");
  return get<u16>(area, kFop) != 0 || get<u64>(area, kFip) != 0 || get<u64>(area, kFdp) != 0;
}

/// Whether the guest's pointers are known, and none of the host's are in the registers. If not, the
/// interpreter goes on, and they are so afterwards.
bool pointers_are_ready(Context& context, bool shown) {
  if (context.x87_code.origin != 0) return false;
  const bool in_use = (in_use_components() & xcr0::X87) != 0;
  if (!in_use) return !shown || !cpu::has_x87_pointers(context.state->fpu);
  return !shows_host_pointers(context);
}

bool pointers_shown(const Context& context) {
  u16 status = 0;
  asm volatile("fnstsw %0" : "=a"(status));
  return !context.state_layout.x87_pointers_hidden || (status & cpu::kX87ErrorSummary) != 0;
}

void put_pointers(const Context& context, u8* area) {
  const cpu::FpuState& fpu = context.state->fpu;
  put16(area, kFop, fpu.fop);
  put(area, kFip, fpu.fip);
  put(area, kFdp, fpu.fdp);
}

/// Takes the guest's pointers from `area`, whose own become zeroes: the host's registers get those.
void take_pointers(Context& context, u8* area, bool present) {
  context.x87_code = {};
  context.x87_data = {};
  cpu::FpuState& fpu = context.state->fpu;
  fpu.fop = present ? get<u16>(area, kFop) & kOpcodeMask : 0;
  fpu.fip = present ? cpu::kept_fip(get<u64>(area, kFip)) : 0;
  fpu.fdp = present ? get<u64>(area, kFdp) : 0;
  fpu.fcs = 0;
  fpu.fds = 0;
  put16(area, kFop, 0);
  put(area, kFip, 0);
  put(area, kFdp, 0);
}

/// EDX:EAX, cut to what the guest has enabled.
u64 requested(const Context& context) {
  const u64 mask = (context.gpr[x86::kRdx] & 0xFFFF'FFFF) << 32 | (context.gpr[x86::kRax] & 0xFFFF'FFFF);
  return mask & context.state->xcr0;
}

/// `area` is aligned to 64 bytes, and has room for `components`.
void save_standard(Context& context, u8* area, u64 components) {
  const u64 here = components & ~xcr0::PKRU;
  asm volatile("xsave64 (%0)" : : "r"(area), "a"(here), "d"(here >> 32) : "memory");
  if ((components & (xcr0::SSE | xcr0::AVX)) != 0) put32(area, kMxcsrMask, context.state_layout.mxcsr_mask);
  if (!has(components, kPkruComponent)) return;
  const u32 pkru = context.state->fpu.pkru;
  put(area, context.state_layout.layout[kPkruComponent].offset, pkru);
  const u64 others = get<u64>(area, kXstateBv) & ~xcr0::PKRU;
  put(area, kXstateBv, others | (pkru != 0 ? xcr0::PKRU : 0));
}

void save_compacted(Context& context, u8* area, u64 components) {
  const u64 here = components & ~xcr0::PKRU;
  asm volatile("xsavec64 (%0)" : : "r"(area), "a"(here), "d"(here >> 32) : "memory");
  if ((get<u64>(area, kXstateBv) & xcr0::SSE) != 0) put32(area, kMxcsrMask, context.state_layout.mxcsr_mask);
  if (!has(components, kPkruComponent)) return;
  // The last component: where the others lie does not depend on it.
  put(area, kXcompBv, get<u64>(area, kXcompBv) | xcr0::PKRU);
  const u32 pkru = context.state->fpu.pkru;
  if (pkru == 0) return;
  put(area, context.state_layout.layout.compacted_offset(components, kPkruComponent), pkru);
  put(area, kXstateBv, get<u64>(area, kXstateBv) | xcr0::PKRU);
}

bool known(const Context& context, u64 components) {
  return (components & ~(context.state_layout.components | xcr0::PKRU)) == 0;
}

bool save(Context& context, u64 address, StateKind kind, u32 privilege) {
  const x86::XsaveLayout& layout = context.state_layout.layout;
  const u64 components = requested(context);
  if (!known(context, components)) return false;
  const bool shown = has(components, 0) && pointers_shown(context);
  if (has(components, 0) && !pointers_are_ready(context, shown)) return false;
  const bool standard = kind == StateKind::kSave;
  if (standard && !context.state_layout.standard) return false;
  const u64 size = standard ? layout.standard_size(components) : layout.compacted_size(components);
  Stretch area;
  if (!find(context, address, size, true, privilege, area)) return false;
  // Bytes that the processor leaves alone stay what they are: through the buffer, they are written back.
  u8* to = area.whole() ? area.first : context.state_buffer.data();
  if (!area.whole()) copy_in(area, to);
  if (standard)
    save_standard(context, to, components);
  else
    save_compacted(context, to, components);
  if (shown && (standard || has(get<u64>(to, kXstateBv), 0))) put_pointers(context, to);
  if (!area.whole()) copy_out(area, to);
  return true;
}

/// Whether the processor takes this header (SDM 1, 13.8.1 and 13.12), with the guest's XCR0.
bool header_is_good(const Context& context, const u8* area, bool compacted_only) {
  const u64 enabled = context.state->xcr0;
  const u64 present = get<u64>(area, kXstateBv);
  const u64 format = get<u64>(area, kXcompBv);
  if ((get<u32>(area, kMxcsr) & ~context.state_layout.mxcsr_mask) != 0) return false;
  for (unsigned at = kReserved; at < kHeaderEnd; at += sizeof(u64))
    if (get<u64>(area, at) != 0) return false;
  if ((present & ~enabled) != 0) return false;
  if ((format & kCompacted) == 0) return format == 0 && !compacted_only;
  const u64 components = format & ~kCompacted;
  return (components & ~enabled) == 0 && (present & ~components) == 0 && known(context, components);
}

/// The guest's PKRU would change, which changes what it may access.
bool changes_pkru(const Context& context, const u8* area, u64 components) {
  if (!has(components, kPkruComponent)) return false;
  const x86::XsaveLayout& layout = context.state_layout.layout;
  const u64 format = get<u64>(area, kXcompBv);
  u32 pkru = 0;
  if (has(get<u64>(area, kXstateBv), kPkruComponent)) {
    const u64 at = (format & kCompacted) != 0 ? layout.compacted_offset(format, kPkruComponent)
                                              : layout[kPkruComponent].offset;
    pkru = get<u32>(area, at);
  }
  return pkru != context.state->fpu.pkru;
}

bool load(Context& context, u64 address, StateKind kind, u32 privilege) {
  const x86::XsaveLayout& layout = context.state_layout.layout;
  const u64 components = requested(context);
  if (!known(context, components)) return false;
  u8* area = context.state_buffer.data();
  Stretch from;
  if (!find(context, address, kHeaderEnd, false, privilege, from)) return false;
  copy_in(from, area);
  if (!header_is_good(context, area, kind == StateKind::kLoadSupervisor)) return false;
  const u64 present = get<u64>(area, kXstateBv);
  const u64 format = get<u64>(area, kXcompBv);
  if (!known(context, present)) return false;
  const bool compacted = (format & kCompacted) != 0;
  if (!compacted && !context.state_layout.standard) return false;
  const u64 size = compacted ? layout.compacted_size(format) : layout.standard_size(present);
  if ((present & components & ~(xcr0::X87 | xcr0::SSE)) != 0) {
    if (!find(context, address, size, false, privilege, from)) return false;
    Stretch rest = from;
    if (rest.first_size > kHeaderEnd) {
      rest.first += kHeaderEnd;
      rest.first_size -= kHeaderEnd;
      rest.size -= kHeaderEnd;
      copy_in(rest, area + kHeaderEnd);
    } else {
      const u64 skipped = kHeaderEnd - rest.first_size;
      copy(area + kHeaderEnd, rest.second + skipped, rest.size - kHeaderEnd);
    }
  }
  if (changes_pkru(context, area, components)) return false;
  put(area, kXstateBv, present & ~xcr0::PKRU);
  put(area, kXcompBv, format & ~xcr0::PKRU);
  if (has(components, 0)) take_pointers(context, area, has(present, 0));
  const u64 here = components & ~xcr0::PKRU;
  // SAFETY: in the buffer nobody changes what was checked.
  asm volatile("xrstor64 (%0)" : : "r"(area), "a"(here), "d"(here >> 32) : "memory");
  return true;
}

}  // namespace

/// 0 if it was done; else nothing was, and the interpreter does it.
extern "C" u64 leaf_state(Context* context, u64 address, u32 request) {
  const auto kind = static_cast<StateKind>(request & 0xFF);
  const u32 privilege = request >> 24;
  const bool supervisor = kind == StateKind::kSaveSupervisor || kind == StateKind::kLoadSupervisor;
  if (!context->state_layout.usable || address % 64 != 0) return 1;
  if (supervisor && (context->state->cpl != 0 || context->state->msr.xss != 0)) return 1;
  const bool loads = kind == StateKind::kLoad || kind == StateKind::kLoadSupervisor;
  const bool done =
      loads ? load(*context, address, kind, privilege) : save(*context, address, kind, privilege);
  return done ? 0 : 1;
}

}  // namespace vert::bt

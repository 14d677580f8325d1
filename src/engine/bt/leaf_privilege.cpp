// SYSCALL, SYSRET and IRET where they go between 64-bit code of CPL 0 and 3, as they nearly always do.
#include "engine/bt/leaf_access.hpp"
#include "x86/paging.hpp"
#include "x86/registers.hpp"
#include "x86/segment.hpp"

namespace vert::bt {

namespace {

namespace rflags = x86::rflags;
using x86::Segment;

constexpr u64 kApart =
    rflags::kArithmetic | rflags::IF | rflags::DF;  // flags with places of their own in Context

u64 flags_of(const Context& context) {
  u64 flags =
      (context.rflags_rest & ~kApart) | (context.rflags_arithmetic & rflags::kArithmetic) | rflags::kFixed1;
  if (context.interrupt_flag != 0) flags |= rflags::IF;
  if (context.direction_flag != 0) flags |= rflags::DF;
  return flags;
}

void set_flags(Context& context, u64 flags) {
  context.state->rflags = flags;
  context.rflags_rest = flags & ~kApart;
  context.rflags_arithmetic = flags & rflags::kArithmetic;
  context.interrupt_flag = (flags & rflags::IF) != 0 ? 1 : 0;
  context.direction_flag = (flags & rflags::DF) != 0 ? 1 : 0;
}

bool canonical(const cpu::CpuState& state, u64 address) {
  return x86::is_canonical(address, state.linear_bits());
}

/// The fast system calls load CS and SS with fixed, flat contents (SDM 2B, SYSCALL and SYSRET).
void load_flat(cpu::CpuState& state, unsigned code_selector, unsigned stack_selector, unsigned dpl) {
  constexpr unsigned kCommon = Segment::kS | Segment::kP | Segment::kG | Segment::kAccessed;
  constexpr unsigned kCode = kCommon | Segment::kCode | Segment::kReadable | Segment::kL;
  constexpr unsigned kData = kCommon | Segment::kWritable | Segment::kDb;
  const unsigned level = dpl << Segment::kDplShift;
  state.seg(x86::kCs) = {static_cast<u16>(code_selector), static_cast<u16>(kCode | level), 0xFFFF'FFFF, 0,
                         false};
  state.seg(x86::kSs) = {static_cast<u16>(stack_selector), static_cast<u16>(kData | level), 0xFFFF'FFFF, 0,
                         false};
  state.cpl = static_cast<u8>(dpl);
}

/// The segment that `selector` names in the GDT; only if it is present and accessed, so that nothing need be
/// written.
bool read_segment(Context& context, u16 selector, Segment& segment) {
  const cpu::CpuState& state = *context.state;
  const unsigned offset = selector & 0xFFF8U;
  if ((selector & 4) != 0 || offset + sizeof(u64) - 1 > state.gdtr.limit) return false;
  const auto as = (state.cr4 & x86::cr4::SMAP) != 0 ? cpu::Privilege::kSmap : cpu::Privilege::kSupervisor;
  x86::Descriptor descriptor;
  if (!read_quad(context, state.gdtr.base + offset, static_cast<u32>(as), descriptor.raw)) return false;
  segment = descriptor.to_segment(selector);
  constexpr u16 kWanted = Segment::kP | Segment::kS | Segment::kAccessed;
  return (segment.attributes & kWanted) == kWanted;
}

/// What IRETQ pops.
struct Frame {
  u64 rip = 0;
  u64 cs = 0;
  u64 flags = 0;
  u64 rsp = 0;
  u64 ss = 0;
};

bool read_frame(Context& context, u32 privilege, Frame& frame) {
  const u64 at = context.gpr[x86::kRsp];
  return read_quad(context, at, privilege, frame.rip) && read_quad(context, at + 8, privilege, frame.cs) &&
         read_quad(context, at + 16, privilege, frame.flags) &&
         read_quad(context, at + 24, privilege, frame.rsp) &&
         read_quad(context, at + 32, privilege, frame.ss);
}

bool read_code(Context& context, u16 selector, Segment& code) {
  if (!read_segment(context, selector, code)) return false;
  constexpr u16 kLooked = Segment::kCode | Segment::kConforming | Segment::kL | Segment::kDb;
  return (code.attributes & kLooked) == (Segment::kCode | Segment::kL) && code.dpl() == code.rpl();
}

bool read_stack(Context& context, u16 selector, u8 cpl, Segment& stack) {
  if ((selector & 0xFFFC) == 0) {
    stack = {selector, 0, 0, 0, true};
    return cpl == 0;
  }
  if (!read_segment(context, selector, stack)) return false;
  return (stack.attributes & (Segment::kCode | Segment::kWritable)) == Segment::kWritable &&
         stack.rpl() == cpl && stack.dpl() == cpl;
}

/// A return to CPL 3 makes segments null that only inner levels may use: not done here.
bool keeps_data_segments(const cpu::CpuState& state) {
  constexpr x86::SegmentRegister kLooked[] = {x86::kEs, x86::kDs, x86::kFs, x86::kGs};
  for (const auto reg : kLooked) {
    const Segment& segment = state.seg(reg);
    if (!segment.unusable && segment.dpl() != 3) return false;
  }
  return true;
}

}  // namespace

extern "C" bool leaf_syscall(Context* context, u64 next_rip) {
  cpu::CpuState& state = *context->state;
  const u64 flags = flags_of(*context);
  if (state.cpl != 3 || !state.code64() || (state.efer & x86::efer::SCE) == 0) return false;
  if ((flags & (rflags::TF | rflags::RF)) != 0) return false;
  context->gpr[x86::kRcx] = next_rip;
  context->gpr[x86::kR11] = flags;
  context->rip = state.msr.lstar;
  set_flags(*context, (flags & ~state.msr.fmask) | rflags::kFixed1);
  const unsigned selector = static_cast<unsigned>(state.msr.star >> 32) & 0xFFFC;
  load_flat(state, selector, selector + 8, 0);
  return true;
}

extern "C" bool leaf_sysret(Context* context) {
  cpu::CpuState& state = *context->state;
  const u64 target = context->gpr[x86::kRcx];
  if (state.cpl != 0 || !state.code64() || (state.efer & x86::efer::SCE) == 0 || !canonical(state, target))
    return false;
  constexpr u64 kLoaded = rflags::kDefined & ~(rflags::RF | rflags::VM);
  const u64 flags = (context->gpr[x86::kR11] & kLoaded) | rflags::kFixed1;
  if (((flags | flags_of(*context)) & (rflags::TF | rflags::RF)) != 0) return false;
  context->rip = target;
  set_flags(*context, flags);
  const unsigned base = static_cast<unsigned>(state.msr.star >> 48);
  const Segment stack = state.seg(x86::kSs);
  const unsigned stack_selector = (base + 8) | 3;
  load_flat(state, (base + 16) | 3, stack_selector, 3);
  if (context->vendor == x86::Vendor::kAmd) {
    // APM 3, SYSRET: of SS, only the selector is loaded.
    state.seg(x86::kSs) = stack;
    state.seg(x86::kSs).select(static_cast<u16>(stack_selector), 3);
  }
  return true;
}

extern "C" bool leaf_iretq(Context* context, u32 privilege) {
  cpu::CpuState& state = *context->state;
  if (state.cpl != 0 || !state.code64() || state.nmi_blocked) return false;
  if ((flags_of(*context) & (rflags::TF | rflags::RF | rflags::NT)) != 0) return false;
  Frame frame;
  if (!read_frame(*context, privilege, frame)) return false;
  if ((frame.flags & (rflags::TF | rflags::VM)) != 0 || !canonical(state, frame.rip)) return false;
  // RF holds off instruction breakpoints for one instruction: without any, it does nothing.
  if ((frame.flags & rflags::RF) != 0 && (state.dr7 & x86::dr7::kEnables) != 0) return false;
  const u8 cpl = frame.cs & 3;
  if (cpl != 0 && (cpl != 3 || !keeps_data_segments(state))) return false;
  Segment code;
  Segment stack;
  if (!read_code(*context, static_cast<u16>(frame.cs), code) ||
      !read_stack(*context, static_cast<u16>(frame.ss), cpl, stack))
    return false;
  context->rip = frame.rip;
  context->gpr[x86::kRsp] = frame.rsp;
  set_flags(*context, (frame.flags & rflags::kDefined & ~rflags::RF) | rflags::kFixed1);
  state.seg(x86::kCs) = code;
  state.seg(x86::kSs) = stack;
  state.cpl = cpl;
  return true;
}

}  // namespace vert::bt
